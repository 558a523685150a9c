"""The labs: the MLOps lifecycle on three classic models, with the packages that serve the language model.

`wine` distinguishes three cultivars, `bike` forecasts how many bicycles are rented in an hour, `insurance` how many
claims a policy brings. Read in this order: `sources.py` and `data.py` (where the data comes from, and its defects), the
lab's own `data.py` and `models.py`, `training.py` (search and fit), `evaluation.py` (errors with intervals, and the
gate: is the new model better?), `lab.py` (what a lab is), `steps.py` and `lifecycle.py` (what it does, in which order).
"""
