"""Windows looked at together: which ones, against what, and what they show that one alone does not."""

import dataclasses

import pytest

from monitoring.config import read_config
from monitoring.decide.families import MOST_BETWEEN, Pool, SincePin, pool_of
from monitoring.decide.pinned_summaries import freeze
from monitoring.decide.window_choice import LogWindow, WindowPair
from monitoring.examination import RunQuestion, examine
from monitoring.store.summaries import Summary
from tests.monitoring.described import HOUR, START, InMemoryWindows, share, shifted, window

CONFIG = read_config()
LENGTH = "output.length"
ROWS = 400


def hour(number):
    return START + number * HOUR


def pool(number, rejected=None, counts_from=1):
    """That of the hour with this number; the reference is the first hour unless told otherwise."""
    end = None if rejected is None else hour(rejected)
    return pool_of(hour(number), hour(number + 1), hour(counts_from), end, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"number": 1}, None),
        ({"number": 2}, Pool(hour(1), hour(3), 2)),
        ({"number": 3}, Pool(hour(1), hour(4), 3)),
        ({"number": 6}, Pool(hour(4), hour(7), 6, (hour(1), hour(4)))),
        # The rows between are those of a month at most.
        ({"number": 100}, Pool(hour(98), hour(101), 100, (hour(98 - MOST_BETWEEN), hour(98)))),
        # Windows up to one that alarmed do not count, nor do rows between them.
        ({"number": 6, "rejected": 6}, None),
        ({"number": 6, "rejected": 5}, Pool(hour(5), hour(7), 6)),
        ({"number": 6, "rejected": 3}, Pool(hour(4), hour(7), 6)),
        # A reference that ends within a window is counted from its end.
        ({"number": 1, "counts_from": 1.5}, None),
        ({"number": 2, "counts_from": 1.5}, Pool(hour(1.5), hour(3), 2)),
    ],
)
def test_a_window_is_looked_at_with_the_quiet_ones_before_it(given, expected):
    assert pool(**given) == expected


def judged(*after, number, between=False):
    """The hour with that number, after a quiet reference in the first."""
    reference, current = LogWindow(hour(0), hour(1)), LogWindow(hour(number), hour(number + 1))
    reader = InMemoryWindows(CONFIG, window(CONFIG, ROWS, 0), *after)
    frozen = freeze(reader, CONFIG.descriptors, "assistant", hour(0), hour(1), dimensions=CONFIG.slices)
    chosen = pool(number)
    chosen = dataclasses.replace(chosen, between=chosen.between if between else None)
    question = RunQuestion("assistant", WindowPair(reference, current), frozen, pool=chosen)
    return examine(reader, CONFIG, question, failures={})


def hours(by, numbers, **given):
    changes = {LENGTH: shifted(by), "output.refusal": share(0.08)}
    return [window(CONFIG, ROWS, number, hours=number, change=changes, **given) for number in numbers]


def test_a_small_shift_shows_in_three_windows_together_and_in_none_alone():
    result = judged(*hours(0.25, range(1, 4)), number=3)
    assert not any(part.drifted for part in result.slices)
    (alarm,) = result.alarms
    assert (alarm.what, alarm.kind, alarm.severity) == (LENGTH, "drift", "medium")
    assert "windows taken together, (1200 rows against 400" in alarm.why
    assert alarm.slices == ({"app": "assistant"}, {"release": "assistant@1"})
    assert set(alarm.rows) <= {f"s3r{row}" for row in range(ROWS)}, "rows of the newest window"
    assert not result.bad_by_itself
    assert judged(*hours(0, range(1, 3)), *hours(2.0, range(3, 4)), number=3).bad_by_itself
    told = result.to_json()["pooled"]
    assert (told["since"], told["rows"], told["reference_rows"]) == (hour(1).isoformat(), 3 * ROWS, ROWS)
    assert told["descriptors"][LENGTH]["drifted"]
    assert "output.refusal" not in told["descriptors"], "detectors watch it over days"


def test_quiet_rows_between_widen_the_reference():
    quiet, changed = hours(0, range(1, 5)), hours(0.3, range(5, 8))
    alone, wide = (judged(*quiet, *changed, number=7, between=between) for between in (False, True))
    p_values = [found.pooled.drift.descriptors[LENGTH].result.p_value for found in (alone, wide)]
    assert wide.pooled.drift.before.rows == 5 * ROWS
    assert p_values[1] < p_values[0] / 100


def test_windows_and_rows_between_of_a_release_that_answers_no_more_are_left_out():
    others = hours(1.0, range(1, 3), release="assistant@2")
    assert judged(*others, *hours(0, range(3, 4)), number=3).pooled is None
    between = hours(0.5, range(1, 3), release="assistant@2")
    found = judged(*between, *hours(0, range(3, 6)), number=5, between=True)
    assert found.pooled.drift.before.rows == ROWS
    assert found.alarms == []


def test_a_replay_takes_the_same_windows_together():
    since_pin, found = SincePin(), []
    for number in range(1, 8):
        look = since_pin.add(Summary(rows=10 ** (number - 1)))
        found.append(look and (look[0], look[1].rows, look[2].rows))
        if number == 5:
            since_pin.reject()
    assert found == [None, (2, 11, 0), (3, 111, 0), (4, 1110, 1), (5, 11100, 11), None, (7, 1_100_000, 0)]
