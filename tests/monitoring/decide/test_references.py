"""What an app's windows are compared with: pins and accepted windows in the database, and the windows of a run."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun, UsageError
from monitoring.config import ReferenceSettings
from monitoring.decide.pinned_summaries import WHOLE, PinnedSummaries, count_families, slices_to_test
from monitoring.decide.references import AcceptedWindow, Awaited, PinnedReference, References
from monitoring.decide.window_choice import choose_windows
from monitoring.store.database import open_database
from monitoring.store.ingest import ingest
from monitoring.store.summaries import FlagSummary, Summary
from monitoring.store.windows import WindowReader
from tests.moments import HOUR, MINUTE, START
from tests.monitoring.described import cheap_set

FROZEN = PinnedSummaries({WHOLE: Summary(rows=100, flags={"error": FlagSummary(100, 3)}, versions={"error": "v1"})})


@pytest.fixture
def references(engine):
    return References(engine)


@pytest.fixture
def pin(references):
    """Pins the hours from `begin` to `end` after START."""

    def pin(why, begin=0, end=1, app="assistant", **given):
        return references.pin(app, START + begin * HOUR, START + end * HOUR, why, **given)

    return pin


def test_the_newest_pin_of_the_app_counts(references, pin):
    pin("first")
    pin("second", 1, 2)
    pin("elsewhere", app="other")
    found = references.pinned("assistant")
    assert (found.since, found.until, found.why, found.source) == (START + HOUR, START + 2 * HOUR, "second", "by-hand")
    assert [each.why for each in references.all()] == ["elsewhere", "second", "first"]
    assert references.pinned("nobody") is None
    with pytest.raises(UsageError, match="must end after"):
        pin("empty", 0, 0)


def test_a_rollback_returns_to_the_reference_of_the_release_it_returns_to(references, pin):
    pin("of one", release="assistant@1")
    pin("of two", release="assistant@2")
    assert references.pinned("assistant", "assistant@2").why == "of two"
    assert references.pinned("assistant", "assistant@1").why == "of one"
    assert references.pinned("assistant", "assistant@3").why == "of two", "better an old one than none"
    pin("by hand, for any release")
    assert references.pinned("assistant", "assistant@1").why == "by hand, for any release"


def test_what_a_reference_was_like_is_kept_and_never_changes(references, pin):
    pinned = pin("frozen", frozen=FROZEN)
    assert references.frozen(pinned).whole == FROZEN.whole
    later = pin("not yet")
    assert (later.frozen, references.frozen(later)) == (False, None)
    references.freeze(later, FROZEN)
    references.freeze(later, PinnedSummaries({WHOLE: Summary(rows=7)}))
    assert references.frozen(references.pinned("assistant")).whole.rows == 100


def test_a_promotion_awaits_the_first_window_until_something_is_pinned(references, pin):
    pin("before")
    promoted = datetime.now(UTC)
    references.await_first_window("assistant", "assistant@2", promoted)
    assert references.awaited("assistant") == Awaited("assistant@2", promoted)
    assert references.awaited("assistant", "assistant@1") is None, "it was rolled back before it had a window"
    pin("first window", release="assistant@2")
    assert references.awaited("assistant") is None


def test_a_window_that_became_the_reference_or_its_last_part_is_compared_again_with_the_one_before(references, pin):
    def beside(begin, end):
        return references.pinned("assistant", beside=(START + begin * HOUR, START + end * HOUR)).why

    pin("before")
    pin("first window", 1, 2)
    assert (beside(1, 3), beside(2, 3), beside(0, 3)) == ("before", "first window", "first window")
    pin("gathered", 3, 6, source="first-window")
    assert (beside(5, 6), beside(6, 7)) == ("first window", "gathered")


def test_the_last_accepted_window_of_a_release_is_found_and_one_that_alarmed_until_it_is_accepted(references):
    for hour, release in enumerate(["assistant@1", "assistant@1", "assistant@2"]):
        window = AcceptedWindow(START + hour * HOUR, START + (hour + 1) * HOUR, release, 50)
        references.accept("assistant", window)
        references.accept("assistant", window)
    assert references.last_accepted("assistant", "assistant@1").since == START + HOUR
    assert references.last_accepted("assistant") == window
    assert references.last_accepted("assistant", "assistant@3") is None
    for _ in range(2):
        references.reject("assistant", window.until)
    assert references.last_rejected("assistant", START, window.until) == window.until
    assert references.last_rejected("assistant", window.until, window.until + HOUR) is None
    assert references.last_rejected("other", START, window.until) is None
    assert references.last_accepted("assistant", "assistant@2") is None
    references.accept("assistant", window)
    assert references.last_rejected("assistant", START, window.until) is None


def test_pins_of_five_weeks_share_the_budget_of_first_pools(references, pin):
    pins = [pin(str(number)) for number in range(3)]
    pin("elsewhere", app="other")
    assert [references.pins_before(each) for each in pins] == [0, 1, 2]
    long_after = dataclasses.replace(pins[2], pinned_at=pins[2].pinned_at + 36 * 24 * HOUR)
    assert references.pins_before(long_after) == 0


def test_references_of_an_older_database_are_taken_over(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS reference_windows (id INTEGER PRIMARY KEY, app TEXT, since FLOAT, "
            "until FLOAT, pinned_at FLOAT, why TEXT)"
        )
        connection.exec_driver_sql("INSERT INTO reference_windows VALUES (1, 'assistant', 0, 3600, 7200, 'promotion')")
    for _ in range(2):
        (found,) = References(engine).all("assistant")
        assert (found.why, found.until, found.frozen) == ("promotion", datetime(1970, 1, 1, 1, tzinfo=UTC), False)
    assert not sa.inspect(engine).has_table("reference_windows")


def test_an_unknown_way_to_pin_is_refused():
    assert ReferenceSettings("gate").at_promotion == "gate"
    with pytest.raises(UsageError, match="gate or first-window or previous-window"):
        ReferenceSettings("sometimes")
    with pytest.raises(UsageError, match="first_window_rows must be above 0"):
        ReferenceSettings(first_window_rows=0)


def part(rows, hits=1, last_at=10.0):
    return Summary(rows, 0.0, last_at, flags={"error": FlagSummary(rows, hits)})


@pytest.mark.parametrize(
    ("whole", "slices", "families"),
    [
        (part(50), {"release": {"assistant@1": part(50)}}, 1),  # it answered everything
        (part(50), {"release": {"assistant@1": part(30), "assistant@2": part(20)}}, 3),
        (part(50), {"language": {"en": part(50)}}, 2),  # of all rows, and yet its past is another
        (part(50, last_at=0.0), {"release": {"assistant@1": part(25, 1), "assistant@2": part(25, 2)}}, 3),
    ],
)
def test_slices_of_the_same_rows_and_reference_are_one_family(whole, slices, families):
    reference = PinnedSummaries({WHOLE: part(100), ("language", "en"): part(80)})
    assert count_families(slices_to_test("assistant", whole, slices, reference, 20)) == families


def at(minutes):
    return START + minutes * MINUTE


def pinned(since, until, source="by-hand"):
    return PinnedReference(1, "assistant", since, until, until, "test", source, None, True)


def spans(pair):
    return [((each.since - START) / MINUTE, (each.until - START) / MINUTE) for each in (pair.reference, pair.current)]


@pytest.fixture
def reader(log, make_records):
    """Of a hundred rows, a minute apart from START on."""
    log.append(make_records(100))
    engine, descriptors = open_database(log.url), cheap_set()
    ingest(log, engine, descriptors)
    yield WindowReader(engine, descriptors)
    engine.dispose()


def test_without_a_pin_the_rows_before_since_are_proposed_and_a_first_window_needs_none(reader):
    pair = choose_windows(reader, None, None, "assistant", at(60), at(90))
    assert (spans(pair), pair.pinned) == ([(0, 60), (60, 90)], None)
    assert choose_windows(reader, None, Awaited("assistant@1", at(0)), "assistant", None, at(90)).reference is None


@pytest.mark.parametrize(
    ("since", "until", "reference"),
    [(80, 100, (20, 60)), (50, 90, (20, 50)), (10, 40, (40, 60)), (60, 90, (20, 60)), (0, 20, (20, 60))],
)
def test_a_pinned_reference_stays_and_rows_are_never_compared_with_themselves(reader, since, until, reference):
    pair = choose_windows(reader, pinned(at(20), at(60)), None, "assistant", at(since), at(until))
    assert spans(pair) == [reference, (since, until)]
    assert pair.whole == (reference == (20, 60)), "frozen summaries are those of the whole reference only"


def test_a_window_over_the_whole_reference_is_refused_but_what_the_gate_saw_is_no_window_of_the_log(reader):
    with pytest.raises(UsageError, match="covers the whole reference"):
        choose_windows(reader, pinned(at(20), at(60)), None, "assistant", at(10), at(70))
    pair = choose_windows(reader, pinned(at(20), at(60), "gate"), None, "assistant", at(10), at(70))
    assert (pair.whole, spans(pair)) == (True, [(20, 60), (10, 70)])


def test_the_default_window_is_the_last_day_after_the_reference(reader):
    now = datetime.now(UTC)
    old = pinned(now - timedelta(days=9), now - timedelta(days=8))
    current = choose_windows(reader, old, None, "assistant", None, None).current
    assert current.until - current.since == timedelta(hours=24)
    assert abs(current.until - now) < timedelta(minutes=1)
    new = pinned(now - timedelta(days=9), now - timedelta(hours=2))
    assert choose_windows(reader, new, None, "assistant", None, None).current.since == now - timedelta(hours=2)
    promoted = Awaited("assistant@2", now - timedelta(hours=1))
    assert choose_windows(reader, new, promoted, "assistant", None, None).current.since == promoted.since


@pytest.mark.parametrize(
    ("app", "since", "until", "error", "told"),
    [
        ("assistant", None, None, CannotRun, "give --since TIME"),
        ("nobody", at(1), None, CannotRun, "no rows of app nobody"),
        ("assistant", at(0), None, CannotRun, "choose a later --since"),
        ("assistant", at(5), at(5), UsageError, "must be before --until"),
    ],
)
def test_errors_say_what_to_do(reader, app, since, until, error, told):
    with pytest.raises(error, match=told):
        choose_windows(reader, None, None, app, since, until)
