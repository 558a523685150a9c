"""Drift by column, and faults of rows: found where rows prove them, and not where days alone differ."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from monitoring.tabular.columns import drift_of, quality_of
from monitoring.tabular.observed import observe
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds, rows_of

Draw = Callable[..., pd.DataFrame]
EITHER = pytest.mark.parametrize("draw", [hours, rows_of], ids=["in blocks", "independent"])


def drift(reference, current, schema=REGRESSION, *, floor=0.06, labelled=True):
    before, after = observe(reference, schema, "reference"), observe(current, schema, "current")
    return drift_of(before, after, TabularSettings(effect_floor=floor), 0.01, schema.output.name, labelled=labelled)


def drifted(found):
    return {name for name, column in found.items() if column.drifted}


@EITHER
def test_a_warmer_month_is_drift_of_the_temperature_alone_unless_the_floor_is_high(draw):
    found = drift(draw(60), draw(30, seed=1, warmer=1.5))
    assert drifted(found) == {"temp"}
    assert found["temp"].result.effect > 0.3
    assert found["temp"].result.direction == 1
    assert found["temp"].result.test.startswith(("ks", "rank"))
    assert [column.role for column in found.values()] == ["input"] * 4 + ["prediction", "target"]
    below = drift(draw(60), draw(30, seed=1, warmer=1.5), floor=0.9)["temp"]
    assert (below.p_adjusted <= 0.01, below.drifted) == (True, False)


@EITHER
def test_other_labels_are_drift(draw):
    rainy = draw(30, seed=1)
    found = drift(draw(60), rainy.assign(sky=np.where(rainy.index % 2 == 0, "rain", rainy["sky"])))
    assert drifted(found) == {"sky"}
    assert found["sky"].result.effect == pytest.approx(0.5, abs=0.05)
    assert isinstance(found["sky"].after, str)


def test_days_that_differ_as_days_do_are_no_drift():
    """A few holidays more would be certain drift if each hour counted."""
    few, many = (
        frame.assign(holiday=np.arange(len(frame)) // 24 % 10 < tenths)
        for frame, tenths in ((hours(60), 1), (hours(20, seed=1), 2))
    )
    assert not drift(few, many)["holiday"].drifted
    assert drift(few.drop(columns="block"), many.drop(columns="block"))["holiday"].drifted


def test_what_cannot_be_tested_is_no_drift_and_the_target_waits_for_its_labels():
    empty = drift(hours(60), hours(30).assign(temp=np.nan))["temp"]
    assert (empty.p_adjusted, empty.after) == (1.0, None)
    constant = drift(hours(60).assign(hour=3), hours(30, seed=1).assign(hour=3))
    assert constant["hour"].result.test == "none"
    assert not drifted(drift(hours(60), hours(3, warmer=5.0))), "three days only"
    assert "count" not in drift(hours(30), hours(30), labelled=False)


def test_classes_drift_as_labels():
    before, after = (
        kinds(200, seed=seed).assign(prediction=prediction)
        for seed, prediction in ((1, ["red", "white"] * 100), (2, ["red"] * 180 + ["white"] * 20))
    )
    found = drift(before, after, CLASSIFICATION)
    assert found["prediction"].drifted
    assert found["prediction"].result.effect == pytest.approx(0.4)
    assert found["kind"].role == "target"


USUAL = rows_of(30)


def quality(current, reference=USUAL, **changed):
    before, after = observe(reference, REGRESSION, "reference"), observe(current, REGRESSION, "current")
    return quality_of(before, after, REGRESSION, TabularSettings(**changed), 0.001)


def without(frame, share):
    """Temperatures are missing in that share of the rows."""
    return frame.assign(temp=frame["temp"].mask(np.random.default_rng(7).random(len(frame)) < share))


def test_a_sensor_that_fails_breaks_the_limit_and_is_named_and_a_few_holes_prove_nothing():
    found = quality(without(rows_of(30, seed=1), 0.3))
    assert [(each.column, each.fault) for each in found.broken] == [("temp", "missing")]
    assert "temp: a value is missing in" in found.broken[0].why
    assert found.to_json()["missing"]["temp"] == pytest.approx(0.3, abs=0.05)
    assert not quality(without(rows_of(30, seed=1), 0.06)).broken
    assert not quality(without(rows_of(30, seed=1), 0.21), without(USUAL, 0.2)).broken, "the reference has them, too"


def test_one_day_without_a_sensor_is_one_event_and_not_twenty_four():
    """Two days of twenty are 10 % of the rows: proof against 5 % if hours were independent, and none as days."""
    current = hours(20, seed=1)
    current.loc[current["block"].isin(["day 0003", "day 0004"]), "temp"] = np.nan
    assert not quality(current, hours(60)).broken
    assert quality(current.drop(columns="block"), rows_of(60)).broken
    assert quality(current.assign(temp=np.nan), hours(60)).broken


def test_labels_that_neither_reference_nor_schema_has_are_unseen():
    known = rows_of(10, seed=1).assign(sky="rain")  # in the schema, not in the reference
    assert not quality(known).share("unseen", "sky")
    found = quality(rows_of(10, seed=1).assign(sky="hail"))
    assert (found.share("unseen", "sky"), found.outside_rows, found.broken[0].fault) == (1.0, 1.0, "unseen")


def test_numbers_outside_of_the_reference_and_repeated_rows_are_told_and_alarm_where_a_limit_says_so():
    hot = pd.concat([rows_of(5, seed=1, warmer=40.0)] * 2)
    found = quality(hot)
    assert not found.broken
    assert (found.share("outside", "temp"), found.share("duplicate")) == (1.0, 0.5)
    assert found.to_json()["duplicates"] == 0.5
    limited = quality(hot, outside_at_most=0.1, duplicates_at_most=0.1)
    assert {each.fault for each in limited.broken} == {"outside", "duplicate"}
    never = quality(rows_of(10), USUAL.assign(temp=np.nan))
    assert (never.share("outside", "temp"), never.broken) == (0, ()), "the reference never has that column"


def test_missing_predictions_are_a_fault_of_the_model():
    found = quality(rows_of(10, seed=1).assign(prediction=np.nan))
    assert [each.column for each in found.broken] == ["prediction"]
