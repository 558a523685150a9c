from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from monitoring.decide.volume import LEAST_WINDOWS, PastWindow, judge_volume
from tests.moments import DAY

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ALPHA = 0.001


def past(rows, step=DAY):
    return [PastWindow(NOW - (len(rows) - place) * step, count) for place, count in enumerate(rows)]


def judge(rows, history, alpha=ALPHA, floor=0.3):
    return judge_volume(NOW, rows, history, alpha, floor)


EVEN = past([1000, 1040, 980, 1010, 950, 1060, 990] * 3)


@pytest.mark.parametrize(("rows", "state"), [(1000, "ok"), (0, "fall"), (300, "fall"), (800, "ok"), (5000, "rise")])
def test_an_outage_and_a_flood_are_told_from_an_ordinary_day(rows, state):
    found = judge(rows, EVEN)
    assert (found.state, found.alarm) == (state, state != "ok")
    assert found.low < 1000 < found.high
    assert (found.low <= rows <= found.high) == (state == "ok")


@pytest.mark.parametrize("windows", range(LEAST_WINDOWS))
def test_too_little_history_gives_no_verdict_and_says_so(windows):
    found = judge(0, past([1000] * windows))
    assert (found.state, found.alarm, found.expected) == ("no-history", False, None)
    assert f"{windows} past windows of the {LEAST_WINDOWS} needed" in found.why


def test_few_past_windows_predict_widely():
    scattered = [700, 1300, 1000, 800, 1200, 900, 1100]
    few, many = judge(1000, past(scattered)), judge(1000, past(scattered * 8, timedelta(hours=1)))
    assert few.low < many.low
    assert few.high > many.high * 1.5


def test_windows_that_never_varied_are_not_taken_for_certain():
    # As many rows each day as if they were counted out: Poisson's scatter is the least that is believed.
    assert judge(930, past([1000] * 30), floor=0.0).state == "ok"
    assert judge(700, past([1000] * 30), floor=0.0).state == "fall"


def test_a_change_below_the_floor_is_no_alarm_however_certain():
    steady = past([1_000_000] * 30)
    assert judge(900_000, steady).state == "ok"
    assert judge(600_000, steady).state == "fall"


def test_sundays_are_compared_with_sundays():
    weeks = past([100 if (NOW - (84 - place) * DAY).weekday() == 6 else 1000 for place in range(84)])
    sunday = NOW - DAY
    before = [window for window in weeks if window.since < sunday]
    found = judge_volume(sunday, 100, before, ALPHA, 0.3)
    assert found.state == "ok"
    assert "same weekday" in found.note
    assert judge_volume(sunday, 1000, before, ALPHA, 0.3).state == "rise"


@pytest.mark.parametrize("windows", [7, 30])
def test_overdispersed_quiet_days_alarm_within_alpha(windows):
    chance, alpha, judged, alarms = np.random.default_rng(5), 0.05, 400, 0
    for _ in range(judged):
        rows = chance.poisson(1000 * chance.lognormal(0, 0.3, windows + 1)).tolist()
        alarms += judge(rows[-1], past(rows[:-1], timedelta(hours=1)), alpha, floor=0.0).alarm
    assert 0 < alarms <= stats.binom.ppf(0.999, judged, alpha)


def test_a_history_without_any_rows_is_no_error():
    assert judge(0, past([0] * 10)).state == "ok"
