"""Drift by column: found, told in shares of rows, and not found where days alone differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitoring.tabular.columns import ColumnDrift, DriftRule, drift_of
from monitoring.tabular.observed import observe
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds, rows_of

RULE = DriftRule(alpha=0.01, effect_floor=0.06, minimum_rows=20, minimum_blocks=5)


def drift(
    reference: pd.DataFrame, current: pd.DataFrame, rule: DriftRule = RULE, *, labelled: bool = True
) -> dict[str, ColumnDrift]:
    before, after = observe(reference, REGRESSION, "reference"), observe(current, REGRESSION, "current")
    return drift_of(before, after, rule, "count", labelled=labelled)


def drifted(found: dict[str, ColumnDrift]) -> set[str]:
    return {name for name, column in found.items() if column.drifted}


@pytest.mark.parametrize("draw", [hours, rows_of])
def test_a_warmer_month_is_drift_of_the_temperature_alone(draw: object) -> None:
    assert callable(draw)
    found = drift(draw(60), draw(30, seed=1, warmer=1.5))
    assert drifted(found) == {"temp"}
    assert found["temp"].result.effect > 0.3
    assert found["temp"].result.direction == 1
    assert found["temp"].result.test.startswith(("ks", "rank"))
    assert [column.role for column in found.values()] == ["input"] * 4 + ["prediction", "target"]


@pytest.mark.parametrize("draw", [hours, rows_of])
def test_other_labels_are_drift(draw: object) -> None:
    assert callable(draw)
    rainy = draw(30, seed=1)
    found = drift(draw(60), rainy.assign(sky=np.where(rainy.index % 2 == 0, "rain", rainy["sky"])))
    assert drifted(found) == {"sky"}
    assert found["sky"].result.effect == pytest.approx(0.5, abs=0.05)
    assert isinstance(found["sky"].after, str)


def test_days_that_differ_as_days_do_are_no_drift() -> None:
    """A few holidays more would be certain drift if each hour counted."""
    few, many = (frame.assign(holiday=np.arange(len(frame)) // 24 % 10 < tenths) for frame, tenths in
                 ((hours(60), 1), (hours(20, seed=1), 2)))  # fmt: skip
    assert not drift(few, many)["holiday"].drifted
    assert drift(few.drop(columns="block"), many.drop(columns="block"))["holiday"].drifted


def test_what_cannot_be_tested_is_no_drift() -> None:
    empty, constant = hours(30).assign(temp=np.nan), hours(30, seed=1).assign(hour=3)
    found = drift(hours(60).assign(hour=3), constant)
    assert found["hour"].result.test == "none"
    assert drift(hours(60), empty)["temp"].p_adjusted == 1.0
    assert drift(hours(60), empty)["temp"].after is None
    assert not drifted(drift(hours(60), hours(3, warmer=5.0)))  # three days only


def test_an_effect_below_the_floor_is_no_drift() -> None:
    floor = DriftRule(alpha=0.01, effect_floor=0.9, minimum_rows=20, minimum_blocks=5)
    found = drift(hours(60), hours(30, seed=1, warmer=1.5), floor)
    assert found["temp"].p_adjusted <= 0.01
    assert not found["temp"].drifted


def test_the_target_waits_for_its_labels() -> None:
    assert "count" not in drift(hours(30), hours(30), labelled=False)


def test_classes_drift_as_labels() -> None:
    before, after = (
        observe(kinds(200, seed=seed).assign(prediction=prediction), CLASSIFICATION, "current")
        for seed, prediction in ((1, ["red", "white"] * 100), (2, ["red"] * 180 + ["white"] * 20))
    )
    found = drift_of(before, after, RULE, "kind", labelled=True)
    assert found["prediction"].drifted
    assert found["prediction"].result.effect == pytest.approx(0.4)
    assert found["kind"].role == "target"
