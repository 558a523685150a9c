from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, r2_score

from labs.evaluation import Estimate, classification_metrics, error_rate, numbers, regression_metrics, rmse

DAYS = [f"day {i // 24}" for i in range(240)]


def errors_of_days(seed: int, days: int = 10) -> np.ndarray:
    """24 hours a day, that share most of their error."""
    generator = np.random.default_rng(seed)
    return np.repeat(generator.standard_normal(days), 24) * 10 + generator.standard_normal(24 * days)


def test_metrics_are_the_usual_ones() -> None:
    truth = np.asarray([3.0, 5.0, 10.0, 2.0])
    predictions = np.asarray([2.0, 5.0, 14.0, 2.0])
    found = regression_metrics(truth, predictions, ["a", "a", "b", "b"])
    assert found["rmse"].value == pytest.approx(math.sqrt(17 / 4)) == pytest.approx(rmse(truth, predictions))
    assert found["mae"].value == pytest.approx(5 / 4)
    assert found["relative_error"].value == pytest.approx(5 / 20)
    assert found["r2"].value == pytest.approx(r2_score(truth, predictions))


@given(st.integers(0, 50))
def test_every_interval_holds_its_value(seed: int) -> None:
    truth = np.random.default_rng(seed).integers(1, 50, 240)
    for metric in regression_metrics(truth, truth + errors_of_days(seed), DAYS).values():
        assert metric.ci95[0] <= metric.value <= metric.ci95[1]


def test_hours_of_a_day_count_as_one() -> None:
    truth = np.full(240, 20.0)
    predictions = truth + errors_of_days(3)
    of_days = regression_metrics(truth, predictions, DAYS)["mae"]
    of_hours = regression_metrics(truth, predictions, [str(i) for i in range(240)])["mae"]
    assert of_days.value == of_hours.value
    assert of_days.ci95[1] - of_days.ci95[0] > 2 * (of_hours.ci95[1] - of_hours.ci95[0])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    # E|error| of the two normals together; 10 days each time.
    true = math.sqrt(2 / math.pi * 101)
    held = 0
    for seed in range(200):
        errors = errors_of_days(seed)
        low, high = regression_metrics(errors * 0 + 20, errors + 20, DAYS)["mae"].ci95
        held += low <= true <= high
    assert held >= 180


def test_perfect_predictions_have_no_error() -> None:
    truth = np.arange(1.0, 241.0)
    found = regression_metrics(truth, truth, DAYS)
    assert (found["rmse"].value, found["mae"].ci95[0], found["r2"].value) == (0.0, 0.0, 1.0)


def test_a_truth_that_never_changes_has_an_r2_as_scikit_learn_says() -> None:
    truth = np.full(48, 7.0)
    assert regression_metrics(truth, truth + 1, DAYS[:48])["r2"].value == 0.0 == r2_score(truth, truth + 1)
    assert regression_metrics(truth, truth, DAYS[:48])["r2"].value == 1.0


def test_a_truth_of_nothing_is_all_error_where_it_is_missed() -> None:
    truth = np.zeros(48)
    assert regression_metrics(truth, truth + 1, DAYS[:48])["relative_error"] == Estimate(1.0, (1.0, 1.0))
    assert regression_metrics(truth, truth, DAYS[:48])["relative_error"] == Estimate(0.0, (0.0, 0.0))


def test_classes_are_judged_by_accuracy_and_macro_f1() -> None:
    truth = ["a"] * 10 + ["b"] * 10 + ["c"] * 5
    said = ["a"] * 9 + ["b"] + ["b"] * 10 + ["c"] * 3 + ["a"] * 2
    found = classification_metrics(truth, said)
    assert found["accuracy"].value == pytest.approx(22 / 25)
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, said, average="macro"))
    for metric in found.values():
        assert 0 < metric.ci95[0] < metric.value < metric.ci95[1] <= 1
    assert error_rate(np.asarray(truth), np.asarray(said)) == pytest.approx(3 / 25)


def test_bottles_of_one_wine_count_as_one() -> None:
    truth, said = ["a", "b"] * 30, (["a", "b"] * 5 + ["b", "b"] * 1) * 5
    wines = [f"wine {i % 6}" for i in range(60)]
    alone, shared = classification_metrics(truth, said), classification_metrics(truth, said, wines)
    assert alone["accuracy"].value == shared["accuracy"].value
    assert shared["accuracy"].ci95[0] < alone["accuracy"].ci95[0]


def test_the_same_predictions_give_the_same_intervals() -> None:
    truth = np.arange(1.0, 241.0)
    assert regression_metrics(truth, truth + 1, DAYS) == regression_metrics(truth, truth + 1, DAYS)


def test_intervals_become_numbers_of_their_own() -> None:
    assert numbers({"rmse": Estimate(2.0, (1.0, 4.0))}) == {"rmse": 2.0, "rmse_low": 1.0, "rmse_high": 4.0}
    assert Estimate(2.0, (1.0, 4.0)).to_json() == {"value": 2.0, "ci95": [1.0, 4.0]}
