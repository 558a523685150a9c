"""Faults of rows: counted, and an alarm only where the rows prove a limit broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.tabular.observed import observe
from monitoring.tabular.quality import Quality, quality_of
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import REGRESSION, hours, rows_of

USUAL = rows_of(30)


def quality(current: pd.DataFrame, reference: pd.DataFrame = USUAL, **changed: Any) -> Quality:
    before, after = observe(reference, REGRESSION, "reference"), observe(current, REGRESSION, "current")
    return quality_of(before, after, REGRESSION, TabularSettings(**changed), 0.001)


def without(frame: pd.DataFrame, share: float) -> pd.DataFrame:
    """Temperatures are missing in that share of the rows."""
    return frame.assign(temp=frame["temp"].mask(np.random.default_rng(7).random(len(frame)) < share))


def test_a_sensor_that_fails_breaks_the_limit_and_is_named_and_a_few_holes_prove_nothing() -> None:
    found = quality(without(rows_of(30, seed=1), 0.3))
    assert [(each.column, each.fault) for each in found.broken] == [("temp", "missing")]
    assert "temp: a value is missing in" in found.broken[0].why
    assert found.to_json()["missing"]["temp"] == pytest.approx(0.3, abs=0.05)
    assert not quality(without(rows_of(30, seed=1), 0.06)).broken
    assert not quality(without(rows_of(30, seed=1), 0.21), without(USUAL, 0.2)).broken, "the reference has them, too"


def test_one_day_without_a_sensor_is_one_event_and_not_twenty_four() -> None:
    """Two days of twenty are 10 % of the rows: proof against 5 % if hours were independent, and none as days."""
    current = hours(20, seed=1)
    current.loc[current["block"].isin(["day 0003", "day 0004"]), "temp"] = np.nan
    assert not quality(current, hours(60)).broken
    assert quality(current.drop(columns="block"), rows_of(60)).broken
    assert quality(current.assign(temp=np.nan), hours(60)).broken


def test_labels_that_neither_reference_nor_schema_has_are_unseen() -> None:
    known = rows_of(10, seed=1).assign(sky="rain")  # in the schema, not in the reference
    assert not quality(known).share("unseen", "sky")
    found = quality(rows_of(10, seed=1).assign(sky="hail"))
    assert (found.share("unseen", "sky"), found.outside_rows, found.broken[0].fault) == (1.0, 1.0, "unseen")


def test_numbers_outside_of_the_reference_and_repeated_rows_are_told_and_alarm_where_a_limit_says_so() -> None:
    hot = pd.concat([rows_of(5, seed=1, warmer=40.0)] * 2)
    found = quality(hot)
    assert not found.broken
    assert (found.share("outside", "temp"), found.share("duplicate")) == (1.0, 0.5)
    assert found.to_json()["duplicates"] == 0.5
    limited = quality(hot, outside_at_most=0.1, duplicates_at_most=0.1)
    assert {each.fault for each in limited.broken} == {"outside", "duplicate"}
    never = quality(rows_of(10), USUAL.assign(temp=np.nan))
    assert (never.share("outside", "temp"), never.broken) == (0, ()), "the reference never has that column"


def test_missing_predictions_are_a_fault_of_the_model() -> None:
    found = quality(rows_of(10, seed=1).assign(prediction=np.nan))
    assert [each.column for each in found.broken] == ["prediction"]
