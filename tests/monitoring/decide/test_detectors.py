"""Detectors: what they find, and that chance alone alarms no more often than the alpha they are given.

The null is enumerated for few rows (every outcome with its probability), and simulated for a month of them.
"""

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.decide.detectors import DAY, DetectorState, FlagBatch, FlagDetector, rise_p_value
from monitoring.store.summaries import FlagSummary

BEGIN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
HOUR = 3600.0
REFERENCE = FlagSummary(1000, 50)
DETECTOR = FlagDetector(REFERENCE, alpha=0.02, floor=0.005)


def batches(hits, rows, begin=BEGIN, step=HOUR):
    return [
        FlagBatch(begin + place * step, begin + (place + 1) * step, rows, int(count))
        for place, count in enumerate(hits)
    ]


def advanced(detector, state, hits, rows, step=HOUR):
    return detector.advance(state, batches(hits, rows, state.counted_until, step))


def likelihood(hits, rows, chance):
    return math.comb(rows, hits) * chance**hits * (1 - chance) ** (rows - hits)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))
def test_p_of_a_rise_is_fishers_one_sided_one(hits, earlier, spare, earlier_spare):
    rows, earlier_rows = hits + spare, earlier + earlier_spare
    expected = stats.hypergeom.sf(hits - 1, rows + earlier_rows, hits + earlier, rows)
    found = rise_p_value(hits, rows, earlier, earlier_rows)
    if hits / rows > earlier / earlier_rows:
        assert found == pytest.approx(expected, rel=1e-9)
    else:
        assert found == 1


def test_p_of_a_rise_holds_for_millions_of_rows():
    expected = stats.hypergeom.sf(51_000 - 1, 31_000_000, 1_551_000, 1_000_000)
    assert rise_p_value(51_000, 1_000_000, 1_500_000, 30_000_000) == pytest.approx(expected, rel=1e-5)


@cache
def outcomes(alpha):
    """Three days of six rows against twelve of reference: the hits of each, and the alarms they raise."""
    found = []
    for before, *days in itertools.product(range(13), range(7), range(7), range(7)):
        detector = FlagDetector(FlagSummary(12, before), alpha, floor=0.0)
        _, crossings = advanced(detector, detector.open(BEGIN, "pinned"), days, 6, DAY)
        found.append((before, days, len(crossings)))
    return found


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_enumerated_false_alarms_stay_within_alpha(chance, alpha):
    expected = sum(
        alarms * likelihood(before, 12, chance) * math.prod(likelihood(hits, 6, chance) for hits in days)
        for before, days, alarms in outcomes(alpha)
    )
    assert 0 < expected <= alpha


def test_what_is_spent_in_a_month_of_starts_and_looks_is_at_most_alpha():
    detector = FlagDetector(FlagSummary(100, 5), alpha=1.0, floor=2.0)
    state = detector.open(BEGIN, "pinned")
    for day in range(31):
        if day in (3, 9, 20):
            state = detector.begin(state, state.counted_until)
        state, _ = advanced(detector, state, [1] * 24, 50)
    assert len(state.starts) == 31 + 3
    assert sum(start.share for start in state.starts) <= 1


@pytest.mark.parametrize(
    ("months", "alpha", "reference", "share", "step"),
    [
        (60, 0.5, 400, 0.05, 6 * HOUR),
        (60, 0.5, 400, 0.05, DAY),
        *(pytest.param(600, 0.2, 1001, share, 6 * HOUR, marks=pytest.mark.slow) for share in (0.002, 0.05, 0.3)),
    ],
)
def test_simulated_quiet_months_alarm_within_alpha(months, alpha, reference, share, step):
    chance, alarmed = np.random.default_rng(7), 0
    rows = round((200 if reference == 400 else 1000) * step / DAY)
    for _ in range(months):
        detector = FlagDetector(FlagSummary(reference, int(chance.binomial(reference, share))), alpha, floor=0.0)
        hits = chance.binomial(rows, share, round(30 * DAY / step))
        alarmed += bool(advanced(detector, detector.open(BEGIN, "pinned"), hits, rows, step)[1])
    assert 0 < alarmed <= stats.binom.ppf(0.999, months, alpha)


def test_a_bad_release_is_seen_within_minutes():
    state = DETECTOR.open(BEGIN, "pinned")
    _, (first, *_) = advanced(DETECTOR, state, [1, 0] * 60, 1, step=60.0)
    assert first.at - first.since == 16 * 60
    assert (first.rows, first.hits, first.earlier_rows, first.earlier_hits) == (16, 8, 1000, 50)
    assert first.p_value <= first.spent < DETECTOR.alpha


def test_a_change_in_a_long_lived_release_is_not_diluted_by_its_good_days():
    chance = np.random.default_rng(3)
    state, early = advanced(DETECTOR, DETECTOR.open(BEGIN, "pinned"), chance.binomial(40, 0.05, 24 * 20), 40)
    _, late = advanced(DETECTOR, state, chance.binomial(40, 0.09, 48), 40)
    assert early == []
    assert late[0].since == BEGIN + 20 * DAY
    assert late[0].at <= BEGIN + 22 * DAY


def test_a_rise_below_the_floor_is_no_alarm_however_certain():
    detector = FlagDetector(FlagSummary(1_000_000, 50_000), alpha=0.02, floor=0.005)
    _, crossings = advanced(detector, detector.open(BEGIN, "pinned"), [54_000], 1_000_000, DAY)
    assert crossings == []
    lower = replace(detector, floor=0.0)
    assert advanced(lower, lower.open(BEGIN, "pinned"), [54_000], 1_000_000, DAY)[1] != []


def test_a_flag_that_stays_high_alarms_again_at_most_once_for_each_day():
    state = DETECTOR.open(BEGIN, "pinned")
    _, crossings = advanced(DETECTOR, state, [12] * 24 * 5, 40)
    days = [int(crossing.at - 1 - BEGIN) // int(DAY) for crossing in crossings]
    assert days == sorted(set(days))
    assert days[0] == 0
    assert len(days) >= 3
    assert {crossing.earlier_hits for crossing in crossings} == {50}, "rows of an alarm are not taken for quiet ones"


def test_rows_cannot_be_counted_twice():
    state, _ = advanced(DETECTOR, DETECTOR.open(BEGIN, "pinned"), [1], 10)
    with pytest.raises(ValueError, match="already counted"):
        DETECTOR.advance(state, batches([1], 10))
    with pytest.raises(ValueError, match="lies before"):
        DETECTOR.begin(state, BEGIN)


def test_late_looks_spend_what_fell_due_and_the_state_survives_storage():
    # A day's rows at once, or hour by hour: the start has spent the same in the end.
    once, _ = advanced(DETECTOR, DETECTOR.open(BEGIN, "pinned"), [24], 480, DAY)
    hourly, _ = advanced(DETECTOR, DETECTOR.open(BEGIN, "pinned"), [1] * 24, 20)
    assert once == hourly
    assert DetectorState.from_json(once.to_json()) == once
    assert once.starts


def test_a_new_reference_leaves_the_month_with_one_budget_for_new_starts():
    first = DETECTOR.open(BEGIN, "one")
    second = DETECTOR.open(BEGIN + DAY, "two", first)
    assert (second.rows, second.new_starts, len(second.starts)) == (0, 2, 1)
    assert second.starts[0].share < first.starts[0].share
    next_month = DETECTOR.open(BEGIN + 31 * DAY, "three", second)
    assert next_month.starts[0].share == first.starts[0].share
    later, _ = advanced(DETECTOR, DETECTOR.begin(first, BEGIN), [0] * 32, 10, DAY)
    assert (later.new_starts, later.month) == (0, "2026-02")


def test_without_rows_nothing_is_said():
    assert advanced(DETECTOR, DETECTOR.open(BEGIN, "pinned"), [0] * 72, 0)[1] == []
    empty = FlagDetector(FlagSummary(), 0.02, 0.005)
    assert advanced(empty, empty.open(BEGIN, "pinned"), [5] * 10, 10)[1] == []
