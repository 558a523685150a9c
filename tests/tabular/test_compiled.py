"""Compiled pipelines give what they give for frames, or are not used."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from llmops.tabular import Column, RowSchema, TabularModel
from llmops.tabular.compiled import MOST_ROWS, ColumnArrays, compiled
from tests.tabular.fitted import (
    CLASSES,
    INPUTS,
    KINDS,
    REGRESSION,
    coded,
    fitted,
    frame,
    of_logarithms,
    rows_of,
    target,
)

DATA = frame(90, seed=5)
COUNT, DEMAND = target(DATA, REGRESSION), target(DATA, CLASSES)
WHOLE = RowSchema(INPUTS[:3], REGRESSION.output, "regression")
NUMBERS = DATA[[*WHOLE.names]]


def predicted(estimator, given):
    return [getattr(estimator, name)(given) for name in ("predict", "predict_proba") if hasattr(estimator, name)]


def check_same(estimator, schema, data=DATA, *, to_the_last_bit=False):
    quick = compiled(estimator, schema)
    tolerance = 0.0 if to_the_last_bit else 1e-12
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("error")
        for rows in (data, data[:MOST_ROWS], data[:1]):
            columns = ColumnArrays({str(name): rows[name].to_numpy() for name in rows})
            for expected, found in zip(predicted(estimator, rows), predicted(quick, columns), strict=True):
                if expected.dtype.kind == "f":
                    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=0)
                else:
                    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("name", "schema"), [kind for kind in KINDS if kind[0] != "boosting by category"])
def test_the_labs_kinds_of_pipelines_predict_the_same(name, schema):
    check_same(fitted(name, schema), schema)


boosted = HistGradientBoostingRegressor(max_iter=5)
split = ColumnTransformer([("a", "drop", ["holiday"]), ("b", "passthrough", ["temp"]), ("c", StandardScaler(), []),
                           ("d", StandardScaler(), ["hour"])])  # fmt: skip


@pytest.mark.parametrize(
    ("estimator", "schema"),
    [
        (of_logarithms(make_pipeline(coded(), boosted)), REGRESSION),
        (CalibratedClassifierCV(make_pipeline(coded(), HistGradientBoostingClassifier(max_iter=5)), cv=2), CLASSES),
        (make_pipeline(split, Ridge()), REGRESSION),
        (
            make_pipeline(ColumnTransformer([("a", OneHotEncoder(), ["sky"])], sparse_threshold=1.0), Ridge()),
            REGRESSION,
        ),
        (RandomForestRegressor(3), WHOLE),
        (make_pipeline(StandardScaler(), LinearRegression()), WHOLE),
        (make_pipeline(make_pipeline(StandardScaler()), LinearRegression()), WHOLE),
    ],
)
def test_other_compositions_predict_the_same(estimator, schema):
    data = NUMBERS if schema is WHOLE else DATA
    check_same(estimator.fit(data, DEMAND if schema is CLASSES else COUNT), schema, data)


RANDOM = np.random.default_rng(0)
TREES = RowSchema(tuple(Column(name, "number", nullable=True) for name in "abcd"), Column("y", "number"), "regression")
ROWS = RANDOM.random((400, 4))
ROWS[:, 0] = RANDOM.integers(0, 9, 400)  # categories
SUM = ROWS[:, 0] * 3 + np.sin(9 * ROWS[:, 1]) + ROWS[:, 2] + 1
ROWS[RANDOM.random((400, 4)) < 0.1] = np.nan
UNSEEN = [[99.0, 1e9, -1e9, np.nan], [-3.0, np.nan, np.nan, np.nan]]
TABLE = pd.DataFrame(np.vstack([UNSEEN, ROWS]), columns=list("abcd"))


@pytest.mark.parametrize(
    ("ensemble", "goal"),
    [
        (HistGradientBoostingRegressor(max_iter=30, random_state=0), SUM),
        (HistGradientBoostingRegressor(max_iter=1, loss="poisson"), SUM),
        (HistGradientBoostingClassifier(max_iter=10, random_state=0), np.digitize(SUM, [6, 15, 24])),
        (HistGradientBoostingClassifier(max_iter=10, random_state=0), SUM > 15),
        (RandomForestRegressor(13, n_jobs=1, random_state=0), SUM),
        (RandomForestRegressor(1, n_jobs=1, random_state=0), SUM),
        (RandomForestRegressor(3, n_jobs=1, random_state=0), np.column_stack([SUM, 2 * SUM])),
        (RandomForestClassifier(8, n_jobs=1, random_state=0), np.digitize(SUM, [6, 15, 24])),
        (ExtraTreesRegressor(5, max_depth=4, n_jobs=1, random_state=0), SUM),
    ],
)
def test_trees_walked_at_once_predict_the_same_to_the_last_bit(ensemble, goal):
    check_same(ensemble.fit(TABLE[2:], goal), TREES, TABLE, to_the_last_bit=True)


def test_trees_read_sparse_rows_too():
    forest = RandomForestRegressor(3, n_jobs=1, random_state=0).fit(NUMBERS, COUNT)
    quick = compiled(forest, WHOLE)
    assert np.array_equal(quick[-1].predict(sparse.csr_matrix(NUMBERS[:5], dtype=float)), forest.predict(NUMBERS[:5]))


def test_the_estimator_itself_is_left_as_it_was():
    forest = fitted("forest")
    compiled(forest, REGRESSION)
    assert (len(forest[-1].estimators_), type(forest[0]).__name__) == (8, "ColumnTransformer")


class Halved(StandardScaler):
    """Gives something else for arrays than for frames."""

    def transform(self, X, copy=None):  # noqa: N803
        return super().transform(X) / (1 if hasattr(X, "columns") else 2)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(ColumnTransformer([("a", StandardScaler(), ["temp"])]).set_output(transform="pandas"), Ridge()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), ["temp"])], transformer_weights={"a": 2.0}), Ridge()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), [2])]), Ridge()),
        make_pipeline(ColumnTransformer([("a", StandardScaler(), slice("temp", "temp"))]), Ridge()),
        make_pipeline(ColumnTransformer([("a", FunctionTransformer(lambda x: np.c_[x, x]), "temp")]), Ridge()),
        make_pipeline(FunctionTransformer(lambda x: x[["temp"]]), Ridge()),
        make_pipeline(ColumnTransformer([("a", Halved(), ["temp"])]), Ridge()),
    ],
)
def test_other_pipelines_keep_their_frame(estimator):
    estimator.fit(DATA, COUNT)
    assert compiled(estimator, REGRESSION) is None
    found = TabularModel(estimator, REGRESSION).predict(rows_of(DATA[:3])).values

    assert found == pytest.approx(estimator.predict(DATA[:3]).tolist())
