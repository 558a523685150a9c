"""The labs: the MLOps lifecycle on two classic models, with the packages that serve the language model.

`bike` forecasts how many bicycles are rented in an hour, `wine` distinguishes three cultivars. Read in this order:
`sources.py` and `quality.py` (where the data comes from, and its defects), the lab's `data.py`, its
`candidates.py`, `training.py` (search and fit), `evaluation.py` (errors with intervals), `gating.py` (is the new model
better?).
"""
