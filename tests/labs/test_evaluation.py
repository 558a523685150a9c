import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, r2_score

from labs.evaluation import (
    ABSOLUTE_ERROR,
    CORRECT,
    SQUARED_ERROR,
    MetricEstimate,
    classification_metrics,
    error_rate,
    judge,
    numbers,
    regression_metrics,
    rmse,
    row_results,
)
from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import Output
from tests.labs import conftest
from tests.labs.conftest import said

DAYS = [f"day {i // 24}" for i in range(240)]
SCORERS = (ABSOLUTE_ERROR, SQUARED_ERROR)
RULES = GateRules("absolute_error", "better", ceilings={"absolute_error": 5.0})
ROWS = conftest.numbers(120)


def errors_of_days(seed: int, days: int = 10) -> np.ndarray:
    """24 hours a day, that share most of their error."""
    generator = np.random.default_rng(seed)
    return np.repeat(generator.standard_normal(days), 24) * 10 + generator.standard_normal(24 * days)


def test_metrics_are_the_usual_ones():
    truth = np.asarray([3.0, 5.0, 10.0, 2.0])
    predictions = np.asarray([2.0, 5.0, 14.0, 2.0])
    found = regression_metrics(truth, predictions, ["a", "a", "b", "b"])
    assert found["rmse"].value == pytest.approx(math.sqrt(17 / 4)) == pytest.approx(rmse(truth, predictions))
    assert found["mae"].value == pytest.approx(5 / 4)
    assert found["relative_error"].value == pytest.approx(5 / 20)
    assert found["r2"].value == pytest.approx(r2_score(truth, predictions))


def test_hours_of_a_day_count_as_one():
    truth = np.full(240, 20.0)
    predictions = truth + errors_of_days(3)
    of_days = regression_metrics(truth, predictions, DAYS)["mae"]
    of_hours = regression_metrics(truth, predictions, [str(i) for i in range(240)])["mae"]
    assert of_days.value == of_hours.value
    assert of_days.ci95[1] - of_days.ci95[0] > 2 * (of_hours.ci95[1] - of_hours.ci95[0])


def test_intervals_hold_their_value_always_and_the_truth_about_as_often_as_they_say():
    # E|error| of the two normals together; 10 days each time.
    true = math.sqrt(2 / math.pi * 101)
    held = 0
    for seed in range(200):
        truth = np.random.default_rng(seed).integers(1, 50, 240)
        found = regression_metrics(truth, truth + errors_of_days(seed), DAYS)
        assert all(metric.ci95[0] <= metric.value <= metric.ci95[1] for metric in found.values())
        low, high = found["mae"].ci95
        held += low <= true <= high
    assert held >= 180


@pytest.mark.parametrize(
    ("truth", "off", "metric", "value", "ends"),
    [
        (np.arange(1.0, 241.0), 0, "rmse", 0.0, (0.0, None)),
        (np.arange(1.0, 241.0), 0, "mae", 0.0, (0.0, None)),
        (np.arange(1.0, 241.0), 0, "r2", 1.0, (None, None)),
        (np.full(48, 7.0), 1, "r2", r2_score(np.full(48, 7.0), np.full(48, 8.0)), (None, None)),
        (np.full(48, 7.0), 0, "r2", 1.0, (None, None)),
        (np.zeros(48), 1, "relative_error", 1.0, (1.0, 1.0)),  # a truth of nothing, missed
        (np.zeros(48), 0, "relative_error", 0.0, (0.0, 0.0)),
    ],
)
def test_metrics_of_perfect_predictions_and_of_a_truth_that_never_changes(truth, off, metric, value, ends):
    found = regression_metrics(truth, truth + off, DAYS[: len(truth)])[metric]
    assert found.value == value
    assert all(wanted in (None, end) for wanted, end in zip(ends, found.ci95, strict=True))


def test_classes_are_judged_by_accuracy_and_macro_f1():
    truth = ["a"] * 10 + ["b"] * 10 + ["c"] * 5
    claimed = ["a"] * 9 + ["b"] + ["b"] * 10 + ["c"] * 3 + ["a"] * 2
    found = classification_metrics(truth, claimed)
    assert found["accuracy"].value == pytest.approx(22 / 25)
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, claimed, average="macro"))
    for metric in found.values():
        assert 0 < metric.ci95[0] < metric.value < metric.ci95[1] <= 1
    assert error_rate(np.asarray(truth), np.asarray(claimed)) == pytest.approx(3 / 25)


def test_a_model_that_is_always_right_has_an_interval_of_its_accuracy_and_none_of_macro_f1():
    truth = ["a"] * 10 + ["b"] * 5
    found = classification_metrics(truth, truth)
    assert (found["accuracy"].value, found["macro_f1"].value) == (1.0, 1.0)
    assert found["accuracy"].ci95[0] < 0.9
    assert found["macro_f1"].ci95 is None, "0 failures of 15 are no proof that there are none"


def test_bottles_of_one_wine_count_as_one():
    truth, claimed = ["a", "b"] * 30, (["a", "b"] * 5 + ["b", "b"] * 1) * 5
    wines = [f"wine {i % 6}" for i in range(60)]
    alone, shared = classification_metrics(truth, claimed), classification_metrics(truth, claimed, wines)
    assert alone["accuracy"].value == shared["accuracy"].value
    assert shared["accuracy"].ci95[0] < alone["accuracy"].ci95[0]


def test_the_same_predictions_give_the_same_intervals_which_become_numbers_of_their_own():
    truth = np.arange(1.0, 241.0)
    assert regression_metrics(truth, truth + 1, DAYS) == regression_metrics(truth, truth + 1, DAYS)
    assert numbers({"rmse": MetricEstimate(2.0, (1.0, 4.0))}) == {"rmse": 2.0, "rmse_low": 1.0, "rmse_high": 4.0}
    assert MetricEstimate(2.0, (1.0, 4.0)).to_json() == {"value": 2.0, "ci95": [1.0, 4.0]}


BY_DAY = 2 + np.repeat(np.random.default_rng(0).choice([-0.5, 0.5], 20), 6)


@pytest.mark.parametrize(
    ("challenger", "champion", "verdict"),
    [(1, 2, "pass"), (2, 1, "fail"), (BY_DAY, 2, "inconclusive"), (4, None, "pass"), (6, None, "fail")],
)
def test_the_gate_asks_for_a_smaller_error_and_without_a_champion_for_its_limits(challenger, champion, verdict):
    other = None if champion is None else ("a", said(ROWS, champion))
    found = judge(("b", ROWS.truth + challenger), other, ROWS, SCORERS, RULES)
    assert (found.verdict.verdict, found.passed) == (verdict, verdict == "pass")
    assert (found.comparison is None) == (found.to_json()["comparison"] is None) == (champion is None)


def test_rows_are_compared_by_days_and_in_slices():
    found = judge(("b", said(ROWS, 1)), ("a", said(ROWS, 2)), ROWS, SCORERS, RULES)
    assert found.comparison is not None
    metric = found.comparison.metrics["absolute_error"]
    assert (metric.a, metric.b, metric.wins, metric.clusters) == (pytest.approx(2.0), pytest.approx(1.0), 120, 20)
    assert "significantly better" in found.to_json()["reasons"][1]
    assert found.comparison.metrics["squared_error"].difference == pytest.approx(-3.0)
    assert sorted(found.comparison.slices) == ["part=high", "part=low"]  # days are none


def test_a_row_is_kept_with_what_was_said_of_it_and_predictions_for_other_rows_are_refused():
    first = row_results(ROWS, said(ROWS, 1), SCORERS)[0]
    assert dict(first.row.inputs) == {**ROWS.rows()[0], "cluster": "day 0"}
    assert float(first.output.text) == ROWS.truth[0] + 1
    assert first.row.expectations["expected_response"] == ROWS.truth[0]
    with pytest.raises(UsageError, match="119 predictions for 120 rows of made up"):
        row_results(ROWS, said(ROWS, 1)[1:], SCORERS)


@pytest.mark.parametrize(
    ("scorer", "truth", "said", "value", "label", "higher_is_better"),
    [
        (ABSOLUTE_ERROR, 10.0, "7.5", 2.5, None, False),
        (SQUARED_ERROR, 10.0, "12", 4.0, None, False),
        (CORRECT, "class_1", "class_1", True, "class_1", True),
        (CORRECT, "class_1", "class_0", False, "class_0", True),
    ],
)
def test_scores_of_one_prediction(scorer, truth, said, value, label, higher_is_better):
    found = scorer.score(EvalRow("1", {"hour": 3}, {"expected_response": truth}), Output(said))
    assert (found.value, found.label, scorer.higher_is_better) == (value, label, higher_is_better)
