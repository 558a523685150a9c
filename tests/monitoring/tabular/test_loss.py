"""The error of a window, its interval, and whether it rose."""

from __future__ import annotations

import numpy as np
import pytest

from monitoring.tabular.loss import Losses, compare_losses, error_interval, losses_of, metric_of
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import Loss
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds, rows_of


def regression(days: int, **changed: float) -> Losses:
    return losses_of(observe(hours(days, **changed), REGRESSION, "current"), "squared")  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "error", "metric"), [("squared", (25 / 2) ** 0.5, "rmse"), ("absolute", 3.5, "mae")])
def test_errors_are_in_the_metrics_own_unit(loss: Loss, error: float, metric: str) -> None:
    frame = rows_of(1).head(4).assign(prediction=[1.0, 1.0, 1.0, np.nan], truth=[4.0, 5.0, np.nan, 3.0])
    assert losses_of(observe(frame, REGRESSION, "current"), loss).error == pytest.approx(error)
    assert (metric_of("regression", loss), metric_of("classification", loss)) == (metric, "error_rate")


def test_a_classifiers_error_is_the_share_of_wrong_labels() -> None:
    frame = kinds(20).assign(truth="red", prediction=["red"] * 15 + ["white"] * 5)
    losses = losses_of(observe(frame, CLASSIFICATION, "current"), "squared")
    assert losses.error == 0.25
    low, high = error_interval(losses, 0.0) or (0, 0)
    assert 0.1 < low < 0.25 < high < 0.5


def test_the_interval_holds_the_error_and_is_wider_where_days_are_alike() -> None:
    losses = regression(20)
    narrow, wide = (error_interval(losses, correlation) for correlation in (0.0, 0.6))
    assert narrow is not None
    assert wide is not None
    assert wide[0] < narrow[0] < (losses.error or 0) < narrow[1] < wide[1]
    assert error_interval(regression(1), 0.0) is None


def test_wrong_labels_that_come_in_days_have_a_wider_interval() -> None:
    hits, day = np.repeat([0.0] * 18 + [1.0] * 2, 24), np.repeat(np.arange(20), 24)
    blocks, rows = Losses(hits, day, True, False), Losses(hits, None, True, False)
    (low, high), (low_rows, high_rows) = error_interval(blocks, 0.0) or (0, 0), error_interval(rows, 0.0) or (0, 0)
    assert high - low > 2 * (high_rows - low_rows)


def test_a_model_without_an_error_has_an_interval_of_none() -> None:
    assert error_interval(Losses(np.zeros(48), np.repeat([0, 1], 24), False, True), 0.0) == (0.0, 0.0)


def test_a_risen_error_is_told_from_chance() -> None:
    reference = regression(60)
    assert compare_losses(reference, regression(30, seed=1, error=13)).p_value < 0.001
    assert compare_losses(reference, regression(30, seed=1)).p_value > 0.05


def test_independent_rows_need_no_blocks_and_many_are_put_together() -> None:
    reference, worse = (
        losses_of(observe(rows_of(days, seed=days, error=error), REGRESSION, "current"), "squared")
        for days, error in ((100, 10.0), (20, 12.0))
    )
    found = compare_losses(reference, worse)
    assert found.correlation == 0
    assert sum(found.units) <= 1_000
    assert found.p_value < 0.001


def test_a_classifier_with_independent_rows_is_tested_exactly() -> None:
    reference, worse = (
        losses_of(observe(kinds(rows, seed=rows, wrong=wrong), CLASSIFICATION, "current"), "squared")
        for rows, wrong in ((200, 0.03), (90, 0.3))
    )
    found = compare_losses(reference, worse)
    assert found.test == "fisher-exact-greater"
    assert found.p_value < 1e-4
    assert compare_losses(worse, reference).p_value > 0.9


def test_a_relative_error_is_the_mae_over_the_mean_label_and_busy_days_weigh_more() -> None:
    frame = hours(30).assign(truth=lambda rows: rows["prediction"] * 1.1)
    busy = hours(30, seed=1).assign(prediction=lambda rows: rows["prediction"] * 3)
    busy = busy.assign(truth=busy["prediction"] * 1.1)
    quiet, loud = (losses_of(observe(each, REGRESSION, "current"), "relative") for each in (frame, busy))
    assert quiet.error == pytest.approx(0.1 / 1.1)
    assert loud.error == pytest.approx(quiet.error)
    assert compare_losses(quiet, loud).p_value > 0.05
    assert error_interval(loud, 0.0) == pytest.approx((0.1 / 1.1, 0.1 / 1.1))
    worse = losses_of(observe(busy.assign(truth=busy["prediction"] * 1.2), REGRESSION, "current"), "relative")
    assert compare_losses(quiet, worse).p_value < 0.001
    assert Losses(np.ones(3), None, False, False, np.zeros(3)).error is None
