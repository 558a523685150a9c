"""All trees of an ensemble in one walk give what they give one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from llmops.tabular.one_tree import MOST_ROWS, with_one_tree

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.random((400, 4))
ROWS[:, 0] = RANDOM.integers(0, 9, 400)  # categories
ROWS[RANDOM.random((400, 4)) < 0.1] = np.nan
WHOLE = np.nan_to_num(ROWS, nan=7.0)
COUNT = WHOLE[:, 0] * 3 + np.sin(9 * WHOLE[:, 1]) + WHOLE[:, 2] + 1
CLASS = np.digitize(COUNT, [6, 15, 24])
UNSEEN = np.array([[99.0, 1e9, -1e9, np.nan], [-3.0, np.nan, np.nan, np.nan]])

ENSEMBLES: list[tuple[Any, Any]] = [
    (HistGradientBoostingRegressor(max_iter=30, random_state=0), COUNT),
    (HistGradientBoostingRegressor(max_iter=30, categorical_features=[0], random_state=0), COUNT),
    (HistGradientBoostingRegressor(max_iter=1, loss="poisson"), COUNT),
    (HistGradientBoostingClassifier(max_iter=10, random_state=0), CLASS),
    (HistGradientBoostingClassifier(max_iter=10, random_state=0), CLASS > 1),
    (RandomForestRegressor(13, n_jobs=1, random_state=0), COUNT),
    (RandomForestRegressor(1, n_jobs=1, random_state=0), COUNT),
    (RandomForestClassifier(8, n_jobs=1, random_state=0), CLASS),
    (ExtraTreesRegressor(5, max_depth=4, n_jobs=1, random_state=0), COUNT),
]


@pytest.mark.parametrize(("ensemble", "target"), ENSEMBLES)
def test_results_are_the_same_to_the_last_bit(ensemble: Any, target: Any) -> None:
    with threadpool_limits(1):
        ensemble.fit(ROWS, target)
        quick = with_one_tree(ensemble)
        for rows in (ROWS[:1], ROWS[:MOST_ROWS], ROWS, UNSEEN):
            for method in ("predict", "predict_proba"):
                if hasattr(ensemble, method):
                    assert np.array_equal(getattr(quick, method)(rows), getattr(ensemble, method)(rows))


def test_the_ensemble_itself_is_left_as_it_was() -> None:
    forest = RandomForestRegressor(3, random_state=0).fit(ROWS, COUNT)

    with_one_tree(forest)

    assert len(forest.estimators_) == 3


def test_sparse_rows_and_several_targets_are_predicted_too() -> None:
    forest = RandomForestRegressor(3, n_jobs=1, random_state=0).fit(WHOLE, COUNT)
    several = RandomForestRegressor(3, n_jobs=1, random_state=0).fit(WHOLE, np.column_stack([COUNT, CLASS]))

    assert np.array_equal(with_one_tree(forest).predict(sparse.csr_matrix(WHOLE[:5])), forest.predict(WHOLE[:5]))
    assert np.array_equal(with_one_tree(several).predict(WHOLE[:5]), several.predict(WHOLE[:5]))


def test_what_has_no_trees_is_as_it_was() -> None:
    line = LinearRegression().fit(WHOLE, COUNT)

    assert np.array_equal(with_one_tree(line).predict(WHOLE[:5]), line.predict(WHOLE[:5]))
