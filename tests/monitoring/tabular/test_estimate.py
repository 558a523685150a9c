"""Errors estimated before labels, and when they may be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llmops.tabular.schema import RowSchema
from monitoring.tabular.estimate import ErrorEstimator, trust_of
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds

SETTINGS = TabularSettings()


def harder_when_hot(frame: pd.DataFrame) -> pd.DataFrame:
    """The error is three times as large above a temperature of 1."""
    factor = np.where(frame["temp"] > 1, 3.0, 1.0)
    return frame.assign(truth=frame["prediction"] + factor * (frame["truth"] - frame["prediction"]))


def estimated(
    reference: pd.DataFrame, window: pd.DataFrame, schema: RowSchema = REGRESSION, settings: TabularSettings = SETTINGS
) -> float:
    """The window's error by an estimator that was fitted on the reference."""
    estimator = ErrorEstimator.fit(reference, schema, settings)
    assert estimator is not None
    expected = estimator.losses(observe(window, schema, "current"))
    assert expected is not None
    assert expected.error is not None
    return expected.error


def test_a_regressions_error_is_foreseen_where_only_the_inputs_changed() -> None:
    reference, hot = harder_when_hot(hours(60)), harder_when_hot(hours(30, seed=1, warmer=1.5))
    error = estimated(reference, hot.assign(truth=np.nan))
    assert error == pytest.approx(float(np.sqrt(((hot["truth"] - hot["prediction"]) ** 2).mean())), rel=0.15)
    assert error > 1.4 * estimated(reference, reference)


def test_a_relative_error_is_foreseen_as_a_share_of_the_predictions() -> None:
    window = hours(30, seed=1)
    found = (window["truth"] - window["prediction"]).abs().sum() / window["truth"].sum()
    error = estimated(hours(60), window.assign(truth=np.nan), settings=TabularSettings(loss="relative"))
    assert error == pytest.approx(found, rel=0.1)


def test_what_it_cannot_see_is_that_the_same_rows_have_other_answers() -> None:
    assert estimated(hours(60), hours(30, seed=1, error=30.0)) == pytest.approx(10, rel=0.15)


def test_a_classifiers_error_is_what_its_calibrated_or_own_probabilities_leave() -> None:
    reference = kinds(600, wrong=0.1).assign(probability=lambda rows: rows["probability"] ** 0.2)  # too sure of itself
    wrong = (reference["truth"] != reference["prediction"]).mean()
    assert estimated(reference, reference, CLASSIFICATION) == pytest.approx(wrong, abs=0.01)
    never_wrong = kinds(100).assign(truth="red", prediction="red", probability=0.9)
    assert estimated(never_wrong, never_wrong, CLASSIFICATION) == pytest.approx(0.1)


def test_no_estimate_without_labels_or_probabilities_to_learn_from() -> None:
    assert ErrorEstimator.fit(hours(3), REGRESSION, SETTINGS) is None
    assert ErrorEstimator.fit(kinds(10), CLASSIFICATION, SETTINGS) is None
    assert ErrorEstimator.fit(kinds(90).drop(columns="probability"), CLASSIFICATION, SETTINGS) is None
    fitted = ErrorEstimator.fit(kinds(90), CLASSIFICATION, SETTINGS)
    assert fitted is not None
    assert fitted.losses(observe(kinds(90).drop(columns="probability"), CLASSIFICATION, "current")) is None
    assert fitted.losses(observe(kinds(90).assign(probability=np.nan), CLASSIFICATION, "current")) is None


@pytest.mark.parametrize(
    ("past", "outside", "trusted", "told"),
    [
        ([], 0.0, False, "0 of 3 estimates"),
        ([(10.0, 10.5), (9.0, 9.5), (11.0, 11.0)], 0.0, True, "within 5%"),
        ([(10.0, 30.0), (10.0, 10.5), (9.0, 9.5), (11.0, 11.0)], 0.0, True, "within 5%"),
        ([(10.0, 10.5), (9.0, 9.5), (11.0, 22.0)], 0.0, False, "by 50%"),
        ([(10.0, 10.5), (9.0, 9.5), (11.0, 11.0)], 0.4, False, "40% of the rows"),
        ([(0.0, 0.0)] * 3, 0.0, True, "within 0%"),
        ([(0.1, 0.0)] * 3, 0.0, False, "by 100%"),
    ],
)
def test_an_estimate_is_believed_after_the_latest_came_close(
    past: list[tuple[float, float]], outside: float, trusted: bool, told: str
) -> None:
    trust = trust_of(past, outside, SETTINGS)
    assert trust.trusted is trusted
    assert told in trust.why
