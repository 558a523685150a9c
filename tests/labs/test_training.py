from typing import Any

import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from labs.data import LabelledRows, Split
from labs.evaluation import MetricEstimate, regression_metrics, rmse
from labs.training import Candidate, Search, Trial, best_of, one_thread, search, train, train_all
from llmops.tabular import Column, RowSchema
from tests.labs.conftest import numbers

SCHEMA = RowSchema((Column("a", "integer"), Column("b", "number")), Column("y", "number"), "regression")
LINE = Candidate("line", "", lambda p: Ridge(**p), {"alpha": (1e6, 0.1, 1e5)})
TREES = Candidate(
    "trees",
    "",
    lambda p: HistGradientBoostingRegressor(min_samples_leaf=2, random_state=0, **p),
    {"learning_rate": (0.1, 0.3), "max_iter": (40, 5, 20)},
    growing="max_iter",
)
FOLDS = [(range(40), range(40, 50)), (range(50), range(50, 60))]


def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
    return regression_metrics(rows.truth, predictions, rows.clusters)


def test_the_search_finds_the_parameters_that_predict_best():
    found = search(LINE, numbers(), FOLDS, rmse)
    assert [trial.parameters for trial in found.trials] == [{"alpha": 1e6}, {"alpha": 0.1}, {"alpha": 1e5}]
    assert found.best.parameters == {"alpha": 0.1}
    assert all(len(trial.losses) == 2 for trial in found.trials)


def test_a_model_that_grows_is_tried_at_every_size_as_if_made_afresh():
    rows = numbers()
    found = search(TREES, rows, FOLDS, rmse)
    assert [trial.parameters["max_iter"] for trial in found.trials] == [5, 20, 40, 5, 20, 40]
    for trial in found.trials:
        fit_on, judge_on = FOLDS[1]
        with one_thread():
            fresh = TREES.build(trial.parameters).fit(rows.features.iloc[fit_on], rows.truth[fit_on])
        assert trial.losses[1] == pytest.approx(rmse(rows.truth[judge_on], fresh.predict(rows.features.iloc[judge_on])))


def test_growth_reaches_the_last_step_of_a_pipeline():
    piped = Candidate(
        "piped",
        "",
        lambda p: Pipeline([("scaled", StandardScaler()), ("trees", TREES.build(p))]),
        TREES.grid,
        growing="max_iter",
    )
    plain, in_pipeline = search(TREES, numbers(), FOLDS, rmse), search(piped, numbers(), FOLDS, rmse)
    assert [t.loss for t in in_pipeline.trials] == pytest.approx([t.loss for t in plain.trials])


def test_of_equally_good_trials_the_first_is_best():
    found = Search(LINE, (Trial({"alpha": 1}, (2.0, 4.0)), Trial({"alpha": 2}, (3.0, 3.0))))
    assert found.best.parameters == {"alpha": 1}
    assert found.to_json()["loss"] == 3.0


def test_a_model_is_judged_on_rows_it_was_not_fitted_on():
    holdout = numbers(seed=2)
    model = train(LINE, {"alpha": 0.1}, SCHEMA, Split(numbers(seed=1), holdout), evaluate)
    assert model.name == "line"
    assert model.search is None
    assert model.predictions.tolist() == model.estimator.predict(holdout.features).tolist()
    assert 0.7 < model.metrics["rmse"].value < 1.3  # the noise
    assert model.metrics["r2"].value > 0.99


def test_the_best_of_several_is_chosen_by_cross_validation():
    split = Split(numbers(seed=1), numbers(seed=2))
    trees, line = train_all((TREES, LINE), SCHEMA, split, FOLDS, rmse, evaluate)
    assert (trees.name, line.name) == ("trees", "line")
    assert line.search is not None
    assert line.parameters == line.search.best.parameters
    assert best_of((trees, line)) is line


@pytest.mark.parametrize(
    ("grid", "growing", "combinations", "sizes", "with_size"),
    [
        ({"depth": (1, 2), "size": (30, 10)}, "size", [{"depth": 1}, {"depth": 2}], [10, 30], {"depth": 1, "size": 30}),
        ({"depth": (1,), "rate": (0.1, 0.5)}, None, [{"depth": 1, "rate": 0.1}, {"depth": 1, "rate": 0.5}], [None],
         {"depth": 1}),
        ({}, None, [{}], [None], {"depth": 1}),
    ],
)  # fmt: skip
def test_a_grid_is_combined_but_for_what_grows(grid, growing, combinations, sizes, with_size):
    candidate = Candidate("any", "", lambda parameters: parameters, grid, growing=growing)
    assert list(candidate.combinations()) == combinations
    assert list(candidate.sizes) == sizes
    assert candidate.with_size({"depth": 1}, 30) == with_size
