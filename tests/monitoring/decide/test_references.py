import dataclasses
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from llmops.errors import UsageError
from monitoring.config import ReferenceSettings
from monitoring.decide.pinned_summaries import WHOLE, PinnedSummaries
from monitoring.decide.references import AcceptedWindow, References
from monitoring.store.summaries import FlagSummary, Summary
from tests.moments import HOUR, START

FROZEN = PinnedSummaries({WHOLE: Summary(rows=100, flags={"error": FlagSummary(100, 3)}, versions={"error": "v1"})})


@pytest.fixture
def references(engine):
    return References(engine)


def test_the_newest_pin_of_the_app_counts(references):
    references.pin("assistant", START, START + HOUR, "first")
    references.pin("assistant", START + HOUR, START + 2 * HOUR, "second")
    references.pin("other", START, START + HOUR, "elsewhere")
    found = references.pinned("assistant")
    assert (found.since, found.until, found.why, found.source) == (START + HOUR, START + 2 * HOUR, "second", "by-hand")
    assert [each.why for each in references.all()] == ["elsewhere", "second", "first"]
    assert references.pinned("nobody") is None
    with pytest.raises(UsageError, match="must end after"):
        references.pin("assistant", START, START, "empty")


def test_a_rollback_returns_to_the_reference_of_the_release_it_returns_to(references):
    references.pin("assistant", START, START + HOUR, "of one", release="assistant@1")
    references.pin("assistant", START, START + HOUR, "of two", release="assistant@2")
    assert references.pinned("assistant", "assistant@2").why == "of two"
    assert references.pinned("assistant", "assistant@1").why == "of one"
    assert references.pinned("assistant", "assistant@3").why == "of two", "better an old one than none"
    references.pin("assistant", START, START + HOUR, "by hand, for any release")
    assert references.pinned("assistant", "assistant@1").why == "by hand, for any release"


def test_what_a_reference_was_like_is_kept_and_never_changes(references):
    pinned = references.pin("assistant", START, START + HOUR, "frozen", frozen=FROZEN)
    assert references.frozen(pinned).whole == FROZEN.whole
    later = references.pin("assistant", START, START + HOUR, "not yet")
    assert (later.frozen, references.frozen(later)) == (False, None)
    references.freeze(later, FROZEN)
    references.freeze(later, PinnedSummaries({WHOLE: Summary(rows=7)}))
    assert references.frozen(references.pinned("assistant")).whole.rows == 100


def test_a_promotion_awaits_the_first_window_until_something_is_pinned(references):
    references.pin("assistant", START, START + HOUR, "before")
    promoted = datetime.now(UTC)
    references.await_first_window("assistant", "assistant@2", promoted)
    assert references.awaited("assistant").release == "assistant@2"
    assert references.awaited("assistant", "assistant@1") is None, "it was rolled back before it had a window"
    references.pin("assistant", promoted, promoted + HOUR, "first window", release="assistant@2")
    assert references.awaited("assistant") is None


def test_a_window_that_became_the_reference_is_compared_again_with_the_one_before(references):
    before = references.pin("assistant", START, START + HOUR, "before")
    first = references.pin("assistant", START + HOUR, START + 2 * HOUR, "first window", release="assistant@2")
    again = references.pinned("assistant", "assistant@2", beside=(START + HOUR, START + 3 * HOUR))
    later = references.pinned("assistant", "assistant@2", beside=(START + 2 * HOUR, START + 3 * HOUR))
    alone = references.pinned("assistant", "assistant@2", beside=(START, START + 3 * HOUR))
    assert (again.id, later.id, alone.id) == (before.id, first.id, first.id)


def test_the_last_accepted_window_of_a_release_is_found(references):
    for hour, release in enumerate(["assistant@1", "assistant@1", "assistant@2"]):
        window = AcceptedWindow(START + hour * HOUR, START + (hour + 1) * HOUR, release, 50)
        references.accept("assistant", window)
        references.accept("assistant", window)
    assert references.last_accepted("assistant", "assistant@1").since == START + HOUR
    assert references.last_accepted("assistant").release == "assistant@2"
    assert references.last_accepted("assistant", "assistant@3") is None


def test_a_window_that_alarmed_is_remembered_until_it_is_accepted(references):
    window = AcceptedWindow(START, START + HOUR, "assistant@1", 50)
    references.accept("assistant", window)
    references.reject("assistant", window.until)
    references.reject("assistant", window.until)
    assert references.last_rejected("assistant", START, START + HOUR) == START + HOUR
    assert references.last_rejected("assistant", START + HOUR, START + 2 * HOUR) is None
    assert references.last_rejected("other", START, START + HOUR) is None
    assert references.last_accepted("assistant") is None
    references.accept("assistant", window)
    assert references.last_rejected("assistant", START, START + HOUR) is None


def test_a_window_up_to_which_a_reference_was_gathered_is_compared_with_the_one_before(references):
    before = references.pin("assistant", START, START + HOUR, "before")
    gathered = references.pin("assistant", START + HOUR, START + 3 * HOUR, "gathered", source="first-window")
    last = references.pinned("assistant", beside=(START + 2 * HOUR, START + 3 * HOUR))
    later = references.pinned("assistant", beside=(START + 3 * HOUR, START + 4 * HOUR))
    assert (last.id, later.id) == (before.id, gathered.id)


def test_pins_of_five_weeks_share_the_budget_of_first_pools(references):
    pins = [references.pin("assistant", START, START + HOUR, str(number)) for number in range(3)]
    references.pin("other", START, START + HOUR, "elsewhere")
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
        found = References(engine).all("assistant")
        assert [(each.why, each.until, each.frozen) for each in found] == [
            ("promotion", datetime(1970, 1, 1, 1, tzinfo=UTC), False)
        ]
    assert not sa.inspect(engine).has_table("reference_windows")


def test_an_unknown_way_to_pin_is_refused():
    assert ReferenceSettings("gate").at_promotion == "gate"
    with pytest.raises(UsageError, match="gate or first-window or previous-window"):
        ReferenceSettings("sometimes")
    with pytest.raises(UsageError, match="first_window_rows must be above 0"):
        ReferenceSettings(first_window_rows=0)
