"""Fitted pipelines of the kinds the labs use."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from llmops.tabular import Column, RowSchema

INPUTS = (
    Column("hour", "integer"),
    Column("holiday", "boolean"),
    Column("temp", "number"),
    Column("sky", "text", categories=("clear", "mist", "rain")),
    Column("wind", "number", nullable=True),
)
REGRESSION = RowSchema(INPUTS, Column("count", "number"), "regression")
CLASSES = RowSchema(INPUTS, Column("demand", "text", categories=("high", "low")), "classification")
NUMBERED = RowSchema(INPUTS, Column("level", "integer"), "classification")


def frame(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    wind = random.random(rows)
    wind[random.random(rows) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "hour": random.integers(0, 24, rows),
            "holiday": random.random(rows) < 0.1,
            "temp": random.random(rows),
            "sky": random.choice(["clear", "mist", "rain"], rows),
            "wind": wind,
        }
    )


def target(data: pd.DataFrame, schema: RowSchema) -> Any:
    count = 1 + data.hour * 10 + data.temp * 100 - 20 * (data.sky == "rain")
    count = count - count.min() + 1
    if schema.task == "regression":
        return count
    return np.where(count > 150, "high", "low") if schema is CLASSES else np.digitize(count, [80, 180])


def rows_of(data: pd.DataFrame) -> list[dict[str, Any]]:
    """As a client sends them."""
    return list(json.loads(data.to_json(orient="records", double_precision=15)))


def coded() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return ColumnTransformer([("text", encoder, ["sky"])], remainder="passthrough")


def one_hot() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer([("text", texts, ["sky", "hour"]), ("number", numbers, ["temp", "wind"])])


def _regressors() -> dict[str, tuple[Any, Any]]:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import (
        ExtraTreesRegressor,
        GradientBoostingRegressor,
        HistGradientBoostingRegressor,
        RandomForestRegressor,
    )
    from sklearn.linear_model import Ridge

    boosted = HistGradientBoostingRegressor(max_iter=20, random_state=0)
    by_category = HistGradientBoostingRegressor(
        max_iter=10, loss="poisson", categorical_features=[0], early_stopping=True, random_state=0
    )
    logarithmic = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)
    return {
        "boosting": (coded(), boosted),
        "boosting by category": (coded(), by_category),
        "boosting of logarithms": (coded(), TransformedTargetRegressor(boosted, func=np.log1p, inverse_func=np.expm1)),
        "forest": (coded(), RandomForestRegressor(8, random_state=0, n_jobs=2)),
        "extra trees": (one_hot(), ExtraTreesRegressor(4, random_state=0)),
        "gradient boosting": (one_hot(), GradientBoostingRegressor(n_estimators=5, random_state=0)),
        "ridge": (one_hot(), Ridge()),
        "ridge of logarithms": (one_hot(), logarithmic),
        "mean": (coded(), DummyRegressor()),
    }


def _classifiers() -> dict[str, tuple[Any, Any]]:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    boosted = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return {
        "boosting": (coded(), boosted),
        "forest": (coded(), RandomForestClassifier(8, random_state=0)),
        "logistic": (one_hot(), LogisticRegression(max_iter=1000)),
        "majority": (coded(), DummyClassifier()),
        "sigmoid": (one_hot(), CalibratedClassifierCV(LogisticRegression(max_iter=1000), cv=2)),
        "isotonic": (coded(), CalibratedClassifierCV(boosted, method="isotonic", cv=2)),
    }


REGRESSORS = ("boosting", "boosting by category", "boosting of logarithms", "forest", "extra trees",
              "gradient boosting", "ridge", "ridge of logarithms", "mean")  # fmt: skip
CLASSIFIERS = ("boosting", "forest", "logistic", "majority", "sigmoid", "isotonic")
KINDS = [
    *((name, REGRESSION) for name in REGRESSORS),
    *((name, CLASSES) for name in CLASSIFIERS),
    *((name, NUMBERED) for name in ("boosting", "logistic", "isotonic")),
]


def fit(name: str, schema: RowSchema) -> Any:
    """Fitted from the start."""
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    columns, last = (_regressors() if schema.task == "regression" else _classifiers())[name]
    data = frame()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        return clone(make_pipeline(columns, last)).fit(data, target(data, schema))


@cache
def _fitted(name: str, schema: RowSchema) -> Any:
    return fit(name, schema)


def fitted(name: str, schema: RowSchema = REGRESSION) -> Any:
    """A copy of its own, of what was fitted once."""
    return deepcopy(_fitted(name, schema))
