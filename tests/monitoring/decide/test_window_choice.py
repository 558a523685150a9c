from datetime import UTC, datetime, timedelta

import pytest

from llmops.errors import CannotRun, UsageError
from monitoring.decide.references import Awaited, PinnedReference
from monitoring.decide.window_choice import choose_windows
from tests.moments import MINUTE, START


def at(minutes):
    return START + minutes * MINUTE


def pinned(since, until, source="by-hand"):
    return PinnedReference(1, "assistant", since, until, until, "test", source, None, True)


def spans(pair):
    return [((part.since - START) / MINUTE, (part.until - START) / MINUTE) for part in (pair.reference, pair.current)]


@pytest.fixture
def hundred(log, make_records):
    log.append(make_records(100))


@pytest.mark.usefixtures("hundred")
def test_without_a_pin_the_rows_before_since_are_proposed(log):
    pair = choose_windows(log, None, None, "assistant", at(60), at(90))
    assert spans(pair) == [(0, 60), (60, 90)]
    assert pair.pinned is None


@pytest.mark.usefixtures("hundred")
def test_a_pinned_reference_stays_when_since_moves_on(log):
    pair = choose_windows(log, pinned(at(0), at(50)), None, "assistant", at(80), at(100))
    assert spans(pair) == [(0, 50), (80, 100)]
    assert pair.whole


@pytest.mark.parametrize(
    ("since", "until", "reference"), [(50, 90, (20, 50)), (10, 40, (40, 60)), (60, 90, (20, 60)), (0, 20, (20, 60))]
)
def test_rows_are_never_compared_with_themselves(log, since, until, reference):
    pair = choose_windows(log, pinned(at(20), at(60)), None, "assistant", at(since), at(until))
    assert spans(pair)[0] == reference
    assert pair.whole == (reference == (20, 60)), "frozen summaries are those of the whole reference only"


def test_a_window_over_the_whole_reference_is_refused(log):
    with pytest.raises(UsageError, match="covers the whole reference"):
        choose_windows(log, pinned(at(20), at(60)), None, "assistant", at(10), at(70))


def test_what_the_gate_saw_is_no_window_of_the_log_and_overlaps_none(log):
    pair = choose_windows(log, pinned(at(20), at(60), "gate"), None, "assistant", at(10), at(70))
    assert pair.whole
    assert spans(pair) == [(20, 60), (10, 70)]


def test_the_default_window_is_the_last_day_after_the_reference(log):
    now = datetime.now(UTC)
    old = pinned(now - timedelta(days=9), now - timedelta(days=8))
    current = choose_windows(log, old, None, "assistant", None, None).current
    assert current.until - current.since == timedelta(hours=24)
    assert abs(current.until - now) < timedelta(minutes=1)
    new = pinned(now - timedelta(days=9), now - timedelta(hours=2))
    assert choose_windows(log, new, None, "assistant", None, None).current.since == now - timedelta(hours=2)
    promoted = Awaited("assistant@2", now - timedelta(hours=1))
    assert choose_windows(log, new, promoted, "assistant", None, None).current.since == promoted.since


@pytest.mark.usefixtures("hundred")
def test_the_first_window_of_a_release_needs_no_reference(log):
    pair = choose_windows(log, None, Awaited("assistant@1", at(0)), "assistant", None, at(90))
    assert pair.reference is None


@pytest.mark.usefixtures("hundred")
@pytest.mark.parametrize(
    ("app", "since", "until", "error", "told"),
    [
        ("assistant", None, None, CannotRun, "give --since TIME"),
        ("nobody", at(1), None, CannotRun, "no rows of app nobody"),
        ("assistant", at(0), None, CannotRun, "choose a later --since"),
        ("assistant", at(5), at(5), UsageError, "must be before --until"),
    ],
)
def test_errors_say_what_to_do(log, app, since, until, error, told):
    with pytest.raises(error, match=told):
        choose_windows(log, None, None, app, since, until)
