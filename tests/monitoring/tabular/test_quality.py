"""Faults of rows: counted, and an alarm only where the rows prove a limit broken."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitoring.tabular.observed import observe
from monitoring.tabular.quality import Quality, quality_of
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import REGRESSION, hours, rows_of

ALPHA = 0.001


def quality(reference: pd.DataFrame, current: pd.DataFrame, **changed: float) -> Quality:
    before, after = observe(reference, REGRESSION, "reference"), observe(current, REGRESSION, "current")
    return quality_of(before, after, REGRESSION, TabularSettings(**changed), ALPHA)  # type: ignore[arg-type]


def without(frame: pd.DataFrame, column: str, share: float) -> pd.DataFrame:
    gone = np.random.default_rng(7).random(len(frame)) < share
    return frame.assign(**{column: frame[column].mask(gone)})


def test_a_sensor_that_fails_breaks_the_limit_and_is_named() -> None:
    found = quality(rows_of(30), without(rows_of(30, seed=1), "temp", 0.3))
    assert [(each.column, each.fault) for each in found.broken] == [("temp", "missing")]
    assert "temp: a value is missing in" in found.broken[0].why
    assert found.to_json()["missing"]["temp"] == pytest.approx(0.3, abs=0.05)


def test_a_few_holes_prove_nothing() -> None:
    assert not quality(rows_of(30), without(rows_of(30, seed=1), "temp", 0.06)).broken


def test_holes_that_the_reference_has_too_are_allowed() -> None:
    assert not quality(without(rows_of(30), "temp", 0.2), without(rows_of(30, seed=1), "temp", 0.21)).broken


def test_one_day_without_a_sensor_is_one_event_and_not_twenty_four() -> None:
    """Two days of twenty are 10 % of the rows: proof against 5 % if hours were independent, and none as days."""
    current = hours(20, seed=1)
    current.loc[current["block"].isin(["day 0003", "day 0004"]), "temp"] = np.nan
    assert not quality(hours(60), current).broken
    assert quality(rows_of(60), current.drop(columns="block")).broken
    assert quality(hours(60), current.assign(temp=np.nan)).broken


def test_labels_that_neither_reference_nor_schema_has_are_unseen() -> None:
    known = rows_of(10, seed=1).assign(sky="rain")  # in the schema, not in the reference
    assert not quality(rows_of(30), known).share("unseen", "sky")
    found = quality(rows_of(30), rows_of(10, seed=1).assign(sky="hail"))
    assert found.share("unseen", "sky") == 1.0
    assert found.broken[0].fault == "unseen"
    assert found.outside_rows == 1.0


def test_numbers_outside_of_the_reference_and_repeated_rows_are_told_and_alarm_where_a_limit_says_so() -> None:
    hot = pd.concat([rows_of(5, seed=1, warmer=40.0)] * 2)
    found = quality(rows_of(30), hot)
    assert not found.broken
    assert found.share("outside", "temp") == 1.0
    assert found.share("duplicate") == 0.5
    assert found.to_json()["duplicates"] == 0.5
    limited = quality(rows_of(30), hot, outside_at_most=0.1, duplicates_at_most=0.1)
    assert {each.fault for each in limited.broken} == {"outside", "duplicate"}


def test_missing_predictions_are_a_fault_of_the_model() -> None:
    found = quality(rows_of(30), rows_of(10, seed=1).assign(prediction=np.nan))
    assert [each.column for each in found.broken] == ["prediction"]


def test_a_column_that_the_reference_never_has_is_outside_of_nothing() -> None:
    found = quality(rows_of(30).assign(temp=np.nan), rows_of(10))
    assert found.share("outside", "temp") == 0
    assert not found.broken
