"""The error of a window, its interval, whether it rose, and estimates before labels."""

import numpy as np
import pytest

from monitoring.tabular.error import (
    ErrorEstimator,
    Losses,
    compare_losses,
    error_interval,
    losses_of,
    metric_of,
    trust_of,
)
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, harder_when_hot, hours, kinds, rows_of


def losses(frame, loss="squared", schema=REGRESSION):
    return losses_of(observe(frame, schema, "current"), loss)


def interval(found, correlation=0.0):
    return error_interval(found, correlation)


@pytest.mark.parametrize(("loss", "error", "metric"), [("squared", (25 / 2) ** 0.5, "rmse"), ("absolute", 3.5, "mae")])
def test_errors_are_in_the_metrics_own_unit(loss, error, metric):
    frame = rows_of(1).head(4).assign(prediction=[1.0, 1.0, 1.0, np.nan], truth=[4.0, 5.0, np.nan, 3.0])
    assert losses(frame, loss).error == pytest.approx(error)
    assert (metric_of("regression", loss), metric_of("classification", loss)) == (metric, "error_rate")


def test_a_classifiers_error_is_the_share_of_wrong_labels():
    wrong = losses(kinds(20).assign(truth="red", prediction=["red"] * 15 + ["white"] * 5), schema=CLASSIFICATION)
    low, high = interval(wrong)
    assert wrong.error == 0.25
    assert 0.1 < low < 0.25 < high < 0.5


def test_the_interval_holds_the_error_and_is_wider_where_days_are_alike_or_wrong_labels_come_in_days():
    found = losses(hours(20))
    narrow, wide = interval(found), interval(found, 0.6)
    assert wide[0] < narrow[0] < found.error < narrow[1] < wide[1]
    assert error_interval(losses(hours(1)), 0.0) is None
    hits, day = np.repeat([0.0] * 18 + [1.0] * 2, 24), np.repeat(np.arange(20), 24)
    (low, high), (low_rows, high_rows) = (interval(Losses(hits, block, True, False)) for block in (day, None))
    assert high - low > 2 * (high_rows - low_rows)
    assert interval(Losses(np.zeros(48), np.repeat([0, 1], 24), False, True)) == (0.0, 0.0)


def test_a_risen_error_is_told_from_chance():
    reference = losses(hours(60))
    assert compare_losses(reference, losses(hours(30, seed=1, error=13))).p_value < 0.001
    assert compare_losses(reference, losses(hours(30, seed=1))).p_value > 0.05


def test_independent_rows_need_no_blocks_and_many_are_put_together():
    reference, worse = (losses(rows_of(days, seed=days, error=error)) for days, error in ((100, 10.0), (20, 12.0)))
    found = compare_losses(reference, worse)
    assert found.correlation == 0
    assert sum(found.units) <= 1_000
    assert found.p_value < 0.001


def test_a_classifier_with_independent_rows_is_tested_exactly():
    reference, worse = (
        losses(kinds(rows, seed=rows, wrong=wrong), schema=CLASSIFICATION) for rows, wrong in ((200, 0.03), (90, 0.3))
    )
    found = compare_losses(reference, worse)
    assert found.test == "fisher-exact-greater"
    assert found.p_value < 1e-4
    assert compare_losses(worse, reference).p_value > 0.9


def test_a_relative_error_is_the_mae_over_the_mean_label_and_busy_days_weigh_more():
    frame = hours(30).assign(truth=lambda rows: rows["prediction"] * 1.1)
    busy = hours(30, seed=1).assign(prediction=lambda rows: rows["prediction"] * 3)
    quiet, loud = losses(frame, "relative"), losses(busy.assign(truth=busy["prediction"] * 1.1), "relative")
    assert quiet.error == pytest.approx(0.1 / 1.1)
    assert loud.error == pytest.approx(quiet.error)
    assert compare_losses(quiet, loud).p_value > 0.05
    assert interval(loud) == pytest.approx((0.1 / 1.1, 0.1 / 1.1))
    assert compare_losses(quiet, losses(busy.assign(truth=busy["prediction"] * 1.2), "relative")).p_value < 0.001
    assert Losses(np.ones(3), None, False, False, np.zeros(3)).error is None


SETTINGS = TabularSettings()


def estimated(reference, window, schema=REGRESSION, settings=SETTINGS):
    """The window's error by an estimator that was fitted on the reference."""
    estimator = ErrorEstimator.fit(observe(reference, schema, "reference"), schema, settings)
    return estimator.losses(observe(window, schema, "current")).error


def test_a_regressions_error_is_foreseen_where_only_the_inputs_changed():
    reference, hot = harder_when_hot(hours(60)), harder_when_hot(hours(30, seed=1, warmer=1.5))
    error = estimated(reference, hot.assign(truth=np.nan))
    assert error == pytest.approx(float(np.sqrt(((hot["truth"] - hot["prediction"]) ** 2).mean())), rel=0.15)
    assert error > 1.4 * estimated(reference, reference)


def test_a_relative_error_is_foreseen_as_a_share_of_the_predictions():
    window = hours(30, seed=1)
    found = (window["truth"] - window["prediction"]).abs().sum() / window["truth"].sum()
    error = estimated(hours(60), window.assign(truth=np.nan), settings=TabularSettings(loss="relative"))
    assert error == pytest.approx(found, rel=0.1)


def test_what_it_cannot_see_is_that_the_same_rows_have_other_answers():
    assert estimated(hours(60), hours(30, seed=1, error=30.0)) == pytest.approx(10, rel=0.15)


def test_a_classifiers_error_is_what_its_calibrated_or_own_probabilities_leave():
    reference = kinds(600, wrong=0.1).assign(probability=lambda rows: rows["probability"] ** 0.2)  # too sure of itself
    wrong = (reference["truth"] != reference["prediction"]).mean()
    assert estimated(reference, reference, CLASSIFICATION) == pytest.approx(wrong, abs=0.01)
    never_wrong = kinds(100).assign(truth="red", prediction="red", probability=0.9)
    assert estimated(never_wrong, never_wrong, CLASSIFICATION) == pytest.approx(0.1)


def test_no_estimate_without_labels_or_probabilities_to_learn_from():
    def fitted_on(rows, schema):
        return ErrorEstimator.fit(observe(rows, schema, "reference"), schema, SETTINGS)

    assert fitted_on(hours(3), REGRESSION) is None
    assert fitted_on(kinds(10), CLASSIFICATION) is None
    assert fitted_on(kinds(90).drop(columns="probability"), CLASSIFICATION) is None
    fitted = fitted_on(kinds(90), CLASSIFICATION)
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
def test_an_estimate_is_believed_after_the_latest_came_close(past, outside, trusted, told):
    trust = trust_of(past, outside, SETTINGS)
    assert trust.trusted is trusted
    assert told in trust.why
