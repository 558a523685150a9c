from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats

from llmops.errors import CannotRun
from monitoring.decide.limits import Limit
from monitoring.decide.pinned_summaries import WHOLE, PinnedSummaries
from monitoring.decide.replay import ReplayRequest, Resampled, poisson_interval, replay
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, NumberSummary, Summary
from tests.moments import DAY, HOUR

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
DESCRIPTORS = {
    "latency_ms": Descriptor("latency_ms", "numeric", "service"),
    "output.refusal": Descriptor("output.refusal", "flag", "output", harmful=True),
}


def rows(count, seed, refusals=0.05, shift=0.0):
    chance = np.random.default_rng(seed)
    values = np.exp(chance.normal(5 + shift, 0.5, count)).astype(np.float32)
    flag = FlagSummary(count, int(chance.binomial(count, refusals)))
    return Summary(rows=count, numbers={"latency_ms": NumberSummary.of(values)}, flags={"output.refusal": flag})


class Past:
    """Some hours from BEGIN on; those of some days changed."""

    def __init__(self, days, *, per_hour=20, changed=()):
        changes = dict(changed)
        self._hours = [
            (BEGIN + number * HOUR, rows(per_hour, [7, number], **changes.get(number // 24, {})))
            for number in range(days * 24)
        ]

    def hours(self, app, since, until):
        return [(hour, summary) for hour, summary in self._hours if since <= hour < until]

    def by_value(self, app, since, until, dimension):
        return {"assistant@1": Summary.merged(summary for _, summary in self.hours(app, since, until))}


def request(days, **given):
    asked = {
        "app": "assistant",
        "reference": PinnedSummaries({WHOLE: rows(2000, 1)}),
        "begin": BEGIN,
        "until": BEGIN + days * DAY,
        "descriptors": DESCRIPTORS,
        "rules": DriftRules(),
        "months": 0,
    }
    return ReplayRequest(**{**asked, **given})


def test_a_quiet_past_is_measured_beside_what_is_stated():
    seen = []
    found = replay(Past(14), request(14, months=4), lambda done, total: seen.append((done, total)))
    assert (found.windows, found.months, found.alarmed, found.untested) == (14, 14 / 30, 0, 0)
    assert found.interval[0] == 0
    assert found.interval[1] == pytest.approx(3.689 * 30 / 14, rel=1e-3)
    told = found.to_json()
    assert told["stated"]["total"] == pytest.approx(0.095), "no limits are declared: their part is not spent"
    assert told["resampled"]["months"] == 4
    assert told["resampled"]["months_with_an_alarm"] == 0
    assert seen[-1] == (18, 18)


def test_what_alarmed_is_named_by_rule_and_descriptor():
    past = Past(12, changed={9: {"refusals": 0.4}, 10: {"shift": 1.0}}.items())
    limits = (Limit("output.refusal", share_at_most=0.1),)
    found = replay(past, request(12, limits=limits))
    named = {(alarm.since - BEGIN, alarm.kind, alarm.what) for alarm in found.alarms}
    assert {(9 * DAY, kind, "output.refusal") for kind in ("drift", "sequential", "limit")} <= named
    assert (10 * DAY, "drift", "latency_ms") in named
    assert found.alarmed == 2
    assert found.per_month == pytest.approx(2 * 30 / 12)
    assert found.to_json()["descriptors"] == {"output.refusal": 3, "latency_ms": 1}


def test_resampled_months_find_what_chronological_ones_found():
    past = Past(6, changed={3: {"shift": 1.0}}.items())
    found = replay(past, request(6, months=3)).resampled
    assert (found.months, found.alarmed) == (3, 3)
    assert found.what["latency_ms"] == 3
    again = replay(past, request(6, months=3)).resampled
    assert again == found


def test_slices_are_judged_and_days_with_too_few_rows_counted_as_untested():
    found = replay(Past(3), request(3, dimensions=("release",)))
    assert (found.windows, found.untested, found.alarmed) == (3, 0, 0)
    empty = replay(Past(3, per_hour=0), request(3, months=2))
    assert (empty.windows, empty.untested, empty.alarmed) == (3, 3, 0)


def test_an_outage_in_the_past_is_an_alarm_of_volume():
    past = Past(20)
    past._hours = [(hour, each) for hour, each in past._hours if (hour - BEGIN) // DAY != 15]
    found = replay(past, request(20))
    assert [(alarm.since - BEGIN, alarm.kind) for alarm in found.alarms] == [(15 * DAY, "volume")]


def test_one_day_is_too_little_to_resample_and_less_than_a_window_to_replay():
    assert replay(Past(1), request(1, months=5)).resampled is None
    with pytest.raises(CannotRun, match="no whole window of 24 hours"):
        replay(Past(1), request(1, begin=BEGIN + HOUR / 2))


@pytest.mark.parametrize("events", [0, 1, 7])
def test_intervals_are_exact(events):
    low, high = poisson_interval(events)
    assert stats.poisson.cdf(events, high) == pytest.approx(0.025)
    assert events == 0 or stats.poisson.sf(events - 1, low) == pytest.approx(0.025)
    expected = stats.binomtest(events, 20).proportion_ci(method="exact")
    assert Resampled(20, events, {}).to_json()["ci95"] == pytest.approx([expected.low, expected.high])
