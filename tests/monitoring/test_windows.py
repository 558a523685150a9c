from datetime import UTC, datetime, timedelta

import pytest

from llmops.errors import CannotRun, UsageError
from monitoring.database import open_database
from monitoring.windows import ReferenceWindows, choose_windows

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def references(settings, log):
    engine = open_database(settings.resolved_log_url)
    yield ReferenceWindows(engine)
    engine.dispose()


@pytest.fixture
def hundred(log, make_records):
    log.append(make_records(100))


def at(minutes):
    return START + minutes * MINUTE


def spans(pair):
    return [
        ((part.since - START) / MINUTE, (part.until - START) / MINUTE, part.rows)
        for part in (pair.reference, pair.current)
    ]


@pytest.mark.usefixtures("hundred")
def test_without_a_pin_the_rows_before_since_are_proposed(log, references):
    pair = choose_windows(log, references, "assistant", at(60), at(90))
    assert spans(pair) == [(0, 60, 60), (60, 90, 30)]
    assert pair.pinned is None
    assert references.pinned("assistant") is None


@pytest.mark.usefixtures("hundred")
def test_a_pinned_reference_stays_when_since_moves_on(log, references):
    references.pin("assistant", at(0), at(50), "promotion of assistant@1")
    assert spans(choose_windows(log, references, "assistant", at(80), at(100))) == [(0, 50, 50), (80, 100, 20)]


def test_the_newest_pin_of_the_app_counts(references):
    references.pin("assistant", at(0), at(50), "first")
    references.pin("assistant", at(50), at(70), "second")
    references.pin("other", at(0), at(10), "elsewhere")
    pinned = references.pinned("assistant")
    assert (pinned.since, pinned.until, pinned.why) == (at(50), at(70), "second")
    with pytest.raises(UsageError, match="must end after"):
        references.pin("assistant", at(5), at(5), "empty")


@pytest.mark.usefixtures("hundred")
@pytest.mark.parametrize(
    ("since", "until", "reference"),
    [(50, 90, (20, 50, 30)), (10, 40, (40, 60, 20)), (60, 90, (20, 60, 40)), (0, 20, (20, 60, 40))],
)
def test_rows_are_never_compared_with_themselves(log, references, since, until, reference):
    references.pin("assistant", at(20), at(60), "test")
    assert spans(choose_windows(log, references, "assistant", at(since), at(until)))[0] == reference


def test_a_window_over_the_whole_reference_is_refused(log, references):
    references.pin("assistant", at(20), at(60), "test")
    with pytest.raises(UsageError, match="covers the whole reference"):
        choose_windows(log, references, "assistant", at(10), at(70))


def test_the_default_window_is_the_last_day_after_the_reference(log, references):
    now = datetime.now(UTC)
    references.pin("assistant", now - timedelta(days=9), now - timedelta(days=8), "long ago")
    current = choose_windows(log, references, "assistant", None, None).current
    assert current.until - current.since == timedelta(hours=24)
    assert abs(current.until - now) < timedelta(minutes=1)
    references.pin("assistant", now - timedelta(days=9), now - timedelta(hours=2), "just now")
    assert choose_windows(log, references, "assistant", None, None).current.since == now - timedelta(hours=2)


@pytest.mark.usefixtures("hundred")
def test_errors_say_what_to_do(log, references):
    with pytest.raises(CannotRun, match="give --since TIME"):
        choose_windows(log, references, "assistant", None, None)
    with pytest.raises(CannotRun, match="no rows of app nobody"):
        choose_windows(log, references, "nobody", at(1), None)
    with pytest.raises(CannotRun, match="choose a later --since"):
        choose_windows(log, references, "assistant", at(0), None)
    with pytest.raises(UsageError, match="must be before --until"):
        choose_windows(log, references, "assistant", at(5), at(5))
