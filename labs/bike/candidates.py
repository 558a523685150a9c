"""The models that are tried on the rentals."""

from __future__ import annotations

from typing import Any

from labs.bike.features import WORKSHOP_COLUMNS
from labs.candidates import Candidate, Parameters


def _forest(parameters: Parameters) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import Pipeline

    # One thread for each core; trees do not depend on it.
    forest = RandomForestRegressor(random_state=42, n_jobs=-1, **parameters)
    columns = ColumnTransformer([("columns", "passthrough", list(WORKSHOP_COLUMNS))])
    return Pipeline([("columns", columns), ("forest", forest)])


def _linear(parameters: Parameters) -> Any:
    import numpy as np
    from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

    # The rush hours are those of working days: each hour has a level of its own on working days and on others.
    hours = Pipeline(
        [
            ("levels", OneHotEncoder(handle_unknown="ignore")),
            ("pairs", PolynomialFeatures(2, interaction_only=True, include_bias=False)),
        ]
    )
    weather = Pipeline([("scaled", StandardScaler()), ("squares", PolynomialFeatures(2, include_bias=False))])
    columns = ColumnTransformer(
        [
            ("hours", hours, ["hour", "workingday"]),
            ("levels", OneHotEncoder(handle_unknown="ignore"), ["season", "weekday", "weathersit"]),
            ("weather", weather, ["temp", "humidity", "windspeed"]),
            ("scaled", StandardScaler(), ["year", "holiday"]),
        ]
    )
    # Rain halves what the hour brings, it does not take 50 off: effects are sums of logarithms.
    model = Pipeline([("columns", columns), ("ridge", Ridge(**parameters))])
    return TransformedTargetRegressor(model, func=np.log1p, inverse_func=np.expm1)


def _boosting(parameters: Parameters) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    # Counts: Poisson's loss sums effects on the logarithm too, and needs no transformed target.
    return HistGradientBoostingRegressor(loss="poisson", l2_regularization=1.0, random_state=0, **parameters)


BASELINE = Candidate(
    name="forest",
    description="the random forest of the workshop this lab grew from, on its columns and its grid",
    build=_forest,
    grid={"max_depth": (5, 10, 15, 20), "n_estimators": (50, 100, 150, 200)},
    growing="n_estimators",
)
LINEAR = Candidate(
    name="linear",
    description="ridge regression of the logarithm of the count",
    build=_linear,
    grid={"alpha": (0.1, 1.0, 10.0, 100.0)},
)
BOOSTING = Candidate(
    name="boosting",
    description="gradient boosting with Poisson's loss",
    build=_boosting,
    grid={"max_leaf_nodes": (8, 15, 31), "learning_rate": (0.05, 0.1), "max_iter": (100, 200, 300)},
    growing="max_iter",
)
CANDIDATES = (BASELINE, LINEAR, BOOSTING)
