"""Rules that need no reference: declared limits, and the volume of traffic."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmops.errors import BadFile, UsageError
from monitoring.decide.limits import LEAST_WINDOWS, Limit, PastWindow, check_limits, judge_volume, lower_bound
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, NumberSummary, Summary
from monitoring.tables import read_dataclass
from tests.moments import DAY, HOUR

REFUSAL = Limit("output.refusal", share_at_most=0.05)
LATENCY = Limit("latency_ms", quantile=0.95, at_most=2000)


def flags(rows, hits):
    return Summary(rows=rows, flags={"output.refusal": FlagSummary(rows, hits)})


def latencies(values):
    return Summary(rows=len(values), numbers={"latency_ms": NumberSummary.of(np.float32(values))})


def check(limit, window, alpha=0.001):
    (found,) = check_limits([limit], window, alpha)
    return found


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from([1e-5, 0.01, 0.2]))
def test_the_lower_bound_is_clopper_and_pearsons(rows, hits, alpha):
    hits = min(hits, rows)
    expected = stats.binomtest(hits, rows, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    assert lower_bound(hits, rows, alpha) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("rows", "alpha"), [(20, 0.05), (200, 0.01), (1000, 1e-4)])
def test_a_service_that_just_keeps_its_limit_alarms_within_alpha(rows, alpha):
    broken = [check(REFUSAL, flags(rows, hits), alpha).broken for hits in range(rows + 1)]
    chance = stats.binom.pmf(np.arange(rows + 1), rows, 0.05)[broken].sum()
    assert 0 < chance <= alpha


@pytest.mark.parametrize(
    ("limit", "window", "beyond", "undecided", "broken"),
    [
        (REFUSAL, flags(40, 4), 4, 0, False),
        (REFUSAL, flags(4000, 400), 400, 0, True),
        (LATENCY, latencies([100] * 800 + [3000] * 200), 200, 0, True),
        (LATENCY, latencies([100] * 960 + [3000] * 40), 40, 0, False),
        (LATENCY, latencies([2001] * 500 + [1990] * 300 + [100] * 200), 0, 800, False),  # all in the limit's own bin
        (LATENCY, latencies([1990, 1999]), 0, 0, False),  # but here the extremes decide
        (LATENCY, latencies([2001] * 300), 300, 0, True),
    ],
)
def test_a_limit_is_broken_when_the_rows_prove_it_and_bins_that_cannot_tell_are_not_held_against_it(
    limit, window, beyond, undecided, broken
):
    found = check(limit, window)
    assert (found.beyond, found.undecided, found.broken) == (beyond, undecided, broken)
    assert (found.lower_bound > found.limit.allowed) == broken
    assert f"{beyond} of {window.rows} rows ({beyond / window.rows:.1%})" in found.why


def test_a_finding_says_how_finely_the_bins_tell_and_why_it_has_no_verdict():
    low, high = check(LATENCY, latencies([2001])).to_json()["resolution"]
    assert low <= 2000 < high < low * 1.03
    found = check(LATENCY, flags(100, 1))
    assert (found.rows, found.broken, "no row" in found.note) == (0, False, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"share_at_most": 1.0},
        {"share_at_most": 0.1, "at_most": 3},
        {"quantile": 0.9},
        {"quantile": 1.0, "at_most": 3},
        {"quantile": 0.9, "at_most": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="limit on x"):
        Limit("x", **wrong)


def test_a_limit_must_fit_its_descriptor_and_is_read_from_the_configuration_file():
    known = {"error": Descriptor("error", "flag", "service", harmful=True)}
    declared = {"descriptor": "error", "share_at_most": 0.02}
    limit = read_dataclass(Limit, declared, "m.toml", "limit 1")
    assert limit == Limit("error", share_at_most=0.02)
    limit.check_kind(known)
    with pytest.raises(UsageError, match="no such descriptor"):
        REFUSAL.check_kind(known)
    with pytest.raises(UsageError, match="it is flag"):
        Limit("error", quantile=0.9, at_most=1).check_kind(known)
    with pytest.raises(BadFile, match="did you mean share_at_most"):
        read_dataclass(Limit, {"descriptor": "error", "share_atmost": 0.02}, "m.toml", "limit 1")


NOW = datetime(2026, 3, 2, tzinfo=UTC)


def past(rows, step=DAY):
    return [PastWindow(NOW - (len(rows) - place) * step, count) for place, count in enumerate(rows)]


def judge(rows, history, alpha=0.001, floor=0.3, since=NOW):
    return judge_volume(since, rows, history, alpha, floor)


WEEKS = [1000, 1040, 980, 1010, 950, 1060, 990] * 3


@pytest.mark.parametrize(
    ("rows", "history", "floor", "state"),
    [
        *(
            (rows, WEEKS, 0.3, state)
            for rows, state in ((1000, "ok"), (800, "ok"), (300, "fall"), (0, "fall"), (5000, "rise"))
        ),
        # As many rows each day as if they were counted out: Poisson's scatter is the least that is believed.
        (930, [1000] * 30, 0.0, "ok"),
        (700, [1000] * 30, 0.0, "fall"),
        # However certain, a change below the floor is no alarm.
        (900_000, [1_000_000] * 30, 0.3, "ok"),
        (600_000, [1_000_000] * 30, 0.3, "fall"),
        (0, [0] * 10, 0.3, "ok"),
    ],
)
def test_an_outage_and_a_flood_are_told_from_an_ordinary_day_and_from_small_changes(rows, history, floor, state):
    found = judge(rows, past(history), floor=floor)
    assert (found.state, found.alarm) == (state, state != "ok")
    assert (found.low <= rows <= found.high) == (state == "ok")
    assert found.low < history[0] < found.high or history[0] == 0


@pytest.mark.parametrize("windows", range(LEAST_WINDOWS))
def test_too_little_history_gives_no_verdict_and_says_so(windows):
    found = judge(0, past([1000] * windows))
    assert (found.state, found.alarm, found.expected) == ("no-history", False, None)
    assert f"{windows} past windows of the {LEAST_WINDOWS} needed" in found.why


def test_few_past_windows_predict_widely():
    scattered = [700, 1300, 1000, 800, 1200, 900, 1100]
    few, many = judge(1000, past(scattered)), judge(1000, past(scattered * 8, HOUR))
    assert few.low < many.low
    assert few.high > many.high * 1.5


def test_sundays_are_compared_with_sundays():
    weeks = past([100 if (NOW - (84 - place) * DAY).weekday() == 6 else 1000 for place in range(84)])
    sunday = NOW - DAY
    before = [window for window in weeks if window.since < sunday]
    found = judge(100, before, since=sunday)
    assert (found.state, "same weekday" in found.note) == ("ok", True)
    assert judge(1000, before, since=sunday).state == "rise"


@pytest.mark.parametrize("windows", [7, 30])
def test_overdispersed_quiet_days_alarm_within_alpha(windows):
    chance, alpha, judged, alarms = np.random.default_rng(5), 0.05, 400, 0
    for _ in range(judged):
        rows = chance.poisson(1000 * chance.lognormal(0, 0.3, windows + 1)).tolist()
        alarms += judge(rows[-1], past(rows[:-1], timedelta(hours=1)), alpha, floor=0.0).alarm
    assert 0 < alarms <= stats.binom.ppf(0.999, judged, alpha)
