"""The labs: the MLOps lifecycle on two classic models, in the rooms that serve the language model.

`bike` forecasts how many bicycles are rented in an hour, `wine` tells three cultivars apart. Read in this order:
`sources.py` and `quality.py` (where the data comes from, and what is wrong with it), the lab's `data.py`, its
`candidates.py`, `training.py` (search and fit), `evaluation.py` (errors with intervals), `gating.py` (is the new model
better?).
"""
