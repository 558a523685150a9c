"""Pipelines that read columns give what they give for frames, or are not used."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from llmops.tabular import RowSchema
from llmops.tabular.frameless import Columns, frameless
from tests.tabular.fitted import CLASSES, KINDS, REGRESSION, coded, fitted, frame, one_hot, target

DATA = frame(90, seed=5)
NUMBERS = DATA[["hour", "temp"]]


def columns(data: pd.DataFrame) -> Columns:
    return Columns({str(name): data[name].to_numpy() for name in data})


def check_same(estimator: Any, data: pd.DataFrame) -> None:
    quick = frameless(estimator)
    assert quick is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (data, data[:1]):
            for method in ("predict", "predict_proba"):
                if hasattr(estimator, method):
                    found, expected = getattr(quick, method)(columns(rows)), getattr(estimator, method)(rows)
                    assert np.array_equal(found, expected) or np.allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "schema"), [(name, schema) for name, schema in KINDS if name != "boosting by category"]
)
def test_predictions_are_the_same(name: str, schema: RowSchema) -> None:
    check_same(fitted(name, schema), DATA)


def test_a_target_transformed_around_the_pipeline_is_known() -> None:
    inner = make_pipeline(coded(), HistGradientBoostingRegressor(max_iter=5))
    around = TransformedTargetRegressor(inner, func=np.log1p, inverse_func=np.expm1)

    check_same(around.fit(DATA, target(DATA, REGRESSION)), DATA)


def test_a_calibration_around_the_pipeline_is_known() -> None:
    inner = make_pipeline(coded(), HistGradientBoostingClassifier(max_iter=5))

    check_same(CalibratedClassifierCV(inner, cv=2).fit(DATA, target(DATA, CLASSES)), DATA)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(HistGradientBoostingClassifier(max_iter=3)),
        make_pipeline(make_pipeline(StandardScaler()), LogisticRegression()),
    ],
)
def test_pipelines_of_all_columns_are_known(estimator: Any) -> None:
    check_same(estimator.fit(NUMBERS, target(DATA, CLASSES)), NUMBERS)


def test_columns_that_are_dropped_or_passed_through_are_so_here() -> None:
    split = ColumnTransformer([("a", "drop", ["holiday"]), ("b", "passthrough", ["temp"]), ("c", StandardScaler(), []),
                               ("d", StandardScaler(), ["hour"])])  # fmt: skip

    check_same(make_pipeline(split, Ridge()).fit(DATA, target(DATA, REGRESSION)), DATA)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(one_hot().set_output(transform="default"), Ridge()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), ["temp"])], transformer_weights={"a": 2.0}), Ridge()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), [2])]), Ridge()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), slice("temp", "temp"))]), Ridge()),
        make_pipeline(ColumnTransformer([("a", FunctionTransformer(lambda x: np.c_[x, x]), "temp")]), Ridge()),
        make_pipeline(FunctionTransformer(lambda x: x[["temp"]]), Ridge()),
    ],
)
def test_other_pipelines_keep_their_frame(estimator: Any) -> None:
    assert frameless(estimator.fit(DATA, target(DATA, REGRESSION))) is None


def test_what_was_fitted_on_arrays_keeps_its_frame() -> None:
    assert frameless(make_pipeline(StandardScaler(), Ridge()).fit(NUMBERS.to_numpy(), DATA.wind.fillna(0))) is None
    assert frameless("a pipeline") is None


def test_a_part_that_knows_its_columns_behind_the_first_keeps_its_frame() -> None:
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), Ridge())

    assert frameless(pipeline.fit(NUMBERS, DATA.temp)) is None
