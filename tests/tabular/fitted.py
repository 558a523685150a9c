"""Fitted pipelines of the kinds the labs use."""

import json
import warnings
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

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
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return ColumnTransformer([("text", encoder, ["sky"])], remainder="passthrough")


def one_hot() -> Any:
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer([("text", texts, ["sky", "hour"]), ("number", numbers, ["temp", "wind"])])


def of_logarithms(regressor: Any) -> Any:
    return TransformedTargetRegressor(regressor, func=np.log1p, inverse_func=np.expm1)


_BOOSTED = HistGradientBoostingRegressor(max_iter=20, random_state=0)
_BY_CATEGORY = HistGradientBoostingRegressor(
    max_iter=10, loss="poisson", categorical_features=[0], early_stopping=True, random_state=0
)
_REGRESSORS: dict[str, tuple[Any, Any]] = {
    "boosting": (coded(), _BOOSTED),
    "boosting by category": (coded(), _BY_CATEGORY),
    "boosting of logarithms": (coded(), of_logarithms(_BOOSTED)),
    "forest": (coded(), RandomForestRegressor(8, random_state=0, n_jobs=2)),
    "extra trees": (one_hot(), ExtraTreesRegressor(4, random_state=0)),
    "gradient boosting": (one_hot(), GradientBoostingRegressor(n_estimators=5, random_state=0)),
    "ridge": (one_hot(), Ridge()),
    "ridge of logarithms": (one_hot(), of_logarithms(Ridge())),
    "mean": (coded(), DummyRegressor()),
}
_BOOSTED_CLASSES = HistGradientBoostingClassifier(max_iter=5, random_state=0)
_CLASSIFIERS: dict[str, tuple[Any, Any]] = {
    "boosting": (coded(), _BOOSTED_CLASSES),
    "forest": (coded(), RandomForestClassifier(8, random_state=0)),
    "logistic": (one_hot(), LogisticRegression(max_iter=1000)),
    "majority": (coded(), DummyClassifier()),
    "sigmoid": (one_hot(), CalibratedClassifierCV(LogisticRegression(max_iter=1000), cv=2)),
    "isotonic": (coded(), CalibratedClassifierCV(_BOOSTED_CLASSES, method="isotonic", cv=2)),
}
KINDS = [
    *((name, REGRESSION) for name in _REGRESSORS),
    *((name, CLASSES) for name in _CLASSIFIERS),
    *((name, NUMBERED) for name in ("boosting", "logistic", "isotonic")),
]


def fit(name: str, schema: RowSchema) -> Any:
    """Fitted from the start."""
    columns, last = (_REGRESSORS if schema.task == "regression" else _CLASSIFIERS)[name]
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
