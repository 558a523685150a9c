"""The error of a window, its interval, and whether it rose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llmops.tabular.schema import RowSchema
from monitoring.tabular.loss import Losses, compare_losses, error_interval, losses_of, metric_of
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import Loss
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds, rows_of


def losses(frame: pd.DataFrame, loss: Loss = "squared", schema: RowSchema = REGRESSION) -> Losses:
    return losses_of(observe(frame, schema, "current"), loss)


def interval(found: Losses, correlation: float = 0.0) -> tuple[float, float]:
    bounds = error_interval(found, correlation)
    assert bounds is not None
    return bounds


@pytest.mark.parametrize(("loss", "error", "metric"), [("squared", (25 / 2) ** 0.5, "rmse"), ("absolute", 3.5, "mae")])
def test_errors_are_in_the_metrics_own_unit(loss: Loss, error: float, metric: str) -> None:
    frame = rows_of(1).head(4).assign(prediction=[1.0, 1.0, 1.0, np.nan], truth=[4.0, 5.0, np.nan, 3.0])
    assert losses(frame, loss).error == pytest.approx(error)
    assert (metric_of("regression", loss), metric_of("classification", loss)) == (metric, "error_rate")


def test_a_classifiers_error_is_the_share_of_wrong_labels() -> None:
    wrong = losses(kinds(20).assign(truth="red", prediction=["red"] * 15 + ["white"] * 5), schema=CLASSIFICATION)
    low, high = interval(wrong)
    assert wrong.error == 0.25
    assert 0.1 < low < 0.25 < high < 0.5


def test_the_interval_holds_the_error_and_is_wider_where_days_are_alike_or_wrong_labels_come_in_days() -> None:
    found = losses(hours(20))
    narrow, wide = interval(found), interval(found, 0.6)
    assert wide[0] < narrow[0] < (found.error or 0) < narrow[1] < wide[1]
    assert error_interval(losses(hours(1)), 0.0) is None
    hits, day = np.repeat([0.0] * 18 + [1.0] * 2, 24), np.repeat(np.arange(20), 24)
    (low, high), (low_rows, high_rows) = (interval(Losses(hits, block, True, False)) for block in (day, None))
    assert high - low > 2 * (high_rows - low_rows)
    assert interval(Losses(np.zeros(48), np.repeat([0, 1], 24), False, True)) == (0.0, 0.0)


def test_a_risen_error_is_told_from_chance() -> None:
    reference = losses(hours(60))
    assert compare_losses(reference, losses(hours(30, seed=1, error=13))).p_value < 0.001
    assert compare_losses(reference, losses(hours(30, seed=1))).p_value > 0.05


def test_independent_rows_need_no_blocks_and_many_are_put_together() -> None:
    reference, worse = (losses(rows_of(days, seed=days, error=error)) for days, error in ((100, 10.0), (20, 12.0)))
    found = compare_losses(reference, worse)
    assert found.correlation == 0
    assert sum(found.units) <= 1_000
    assert found.p_value < 0.001


def test_a_classifier_with_independent_rows_is_tested_exactly() -> None:
    reference, worse = (
        losses(kinds(rows, seed=rows, wrong=wrong), schema=CLASSIFICATION) for rows, wrong in ((200, 0.03), (90, 0.3))
    )
    found = compare_losses(reference, worse)
    assert found.test == "fisher-exact-greater"
    assert found.p_value < 1e-4
    assert compare_losses(worse, reference).p_value > 0.9


def test_a_relative_error_is_the_mae_over_the_mean_label_and_busy_days_weigh_more() -> None:
    frame = hours(30).assign(truth=lambda rows: rows["prediction"] * 1.1)
    busy = hours(30, seed=1).assign(prediction=lambda rows: rows["prediction"] * 3)
    quiet, loud = losses(frame, "relative"), losses(busy.assign(truth=busy["prediction"] * 1.1), "relative")
    assert quiet.error == pytest.approx(0.1 / 1.1)
    assert loud.error == pytest.approx(quiet.error)
    assert compare_losses(quiet, loud).p_value > 0.05
    assert interval(loud) == pytest.approx((0.1 / 1.1, 0.1 / 1.1))
    assert compare_losses(quiet, losses(busy.assign(truth=busy["prediction"] * 1.2), "relative")).p_value < 0.001
    assert Losses(np.ones(3), None, False, False, np.zeros(3)).error is None
