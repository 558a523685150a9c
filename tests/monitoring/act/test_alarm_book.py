"""The alarm book: one entry while an alarm lasts, told with a cool-down, resolved by a quiet window."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from llmops.errors import UsageError
from llmops.production_log import Belongings
from monitoring.act.action_tables import alert_outbox
from monitoring.act.alarm_book import AlarmBook, BookChanges, sightings_of
from monitoring.act.alerts import AlertSettings, Webhook, text, title
from monitoring.act.outbox import Outbox
from monitoring.decide.result import Cure
from monitoring.forgetting import forget_in_database
from tests.at_once import at_once
from tests.monitoring.acting import START, finding
from tests.monitoring.described import selected

CHANNEL = Webhook("ops", url="http://127.0.0.1:9/")
SETTINGS = AlertSettings(cool_down=3600.0)


@pytest.fixture
def book(engine, clock):
    return make_book(engine, clock)


def make_book(engine, clock):
    return AlarmBook(engine, SETTINGS, Outbox(engine, [CHANNEL], now=clock))


def put(engine, column=alert_outbox.c.alert_id):
    """A column of the outbox, in the order of the alerts."""
    return selected(engine, sa.select(column).order_by(alert_outbox.c.id))


def forget_request(engine, request_id):
    with engine.begin() as connection:
        return forget_in_database(connection, Belongings(request_ids=frozenset([request_id])))["alarm_book"]


def test_an_alarm_is_one_entry_while_it_lasts_and_each_sighting_of_it_counts_once(book, clock, engine):
    first = book.record("assistant", "tick 1", [finding()], clock.at)
    assert book.record("assistant", "tick 1", [finding()], clock.at) == BookChanges()
    again = book.record("assistant", "tick 2", [finding(why="more")], clock.move(minutes=1))
    assert (len(first.opened), len(again.lasting)) == (1, 1)
    (entry,) = book.entries()
    assert (entry.times, entry.why, entry.first_at, entry.last_at) == (2, "more", START, clock.at)
    assert put(engine) == ["alarm-1-opened-1"]


def test_another_release_slice_or_kind_is_another_alarm(book, clock):
    others = [
        finding(release="assistant@3"),
        finding(kind="limit"),
        finding(slice={"language": "de"}),
        finding("error"),
    ]
    booked = book.record("assistant", "tick", [finding(), finding(), *others], clock.at)
    assert len(booked.opened) == 5


def test_a_lasting_alarm_is_told_again_after_the_cool_down(book, clock, engine):
    for number in range(7):
        book.record("assistant", f"tick {number}", [finding()], clock.move(minutes=20))
    assert put(engine) == ["alarm-1-opened-1", "alarm-1-lasting-2", "alarm-1-lasting-3"]


def test_a_quiet_window_of_the_app_resolves_and_says_so(book, clock, engine):
    book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)
    book.record("helper", "window 1", [], clock.at, closes=clock.at)
    book.record("assistant", "tick", [], clock.move(hours=1))
    assert [entry.state for entry in book.entries()] == ["open"]
    resolved = book.record("assistant", "window 2", [], clock.move(hours=24), closes=clock.at).resolved
    assert [entry.id for entry in resolved] == [1]
    assert (book.entries(), book.entries(resolved=True)[0].resolved_at) == ([], clock.at)
    assert put(engine) == ["alarm-1-opened-1", "alarm-1-resolved-1"]


def test_a_flapping_alarm_is_told_no_more_often_than_a_lasting_one(book, clock, engine):
    for number in range(6):
        found = [finding()] if number % 2 == 0 else []
        book.record("assistant", f"window {number}", found, clock.move(minutes=10), closes=clock.at)
    assert put(engine) == ["alarm-1-opened-1", "alarm-1-resolved-1"]
    assert len(book.entries(resolved=True)) == 3


def test_an_acknowledged_alarm_is_told_no_more_while_it_lasts(book, clock, engine):
    book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)
    entry = book.acknowledge(1, "ada", clock.move(minutes=1))
    assert (entry.state, entry.acknowledged_by) == ("acknowledged", "ada")
    assert book.acknowledge(1, "bob", clock.move(minutes=1)) == entry, "who came first sees to it"
    book.record("assistant", "window 2", [finding()], clock.move(hours=48), closes=clock.at)
    assert put(engine) == ["alarm-1-opened-1"]
    book.record("assistant", "window 3", [], clock.move(hours=1), closes=clock.at)
    for number, problem in ((1, "over already"), (9, "no alarm 9")):
        with pytest.raises(UsageError, match=problem):
            book.acknowledge(number, "ada", clock.at)


def test_two_daemons_that_book_the_same_verdict_make_one_entry(engine, clock):
    books = [make_book(engine, clock) for _ in range(4)]
    found = [finding(), finding("error")]
    record = [partial(book.record, "assistant", "window 1", found, clock.at, closes=clock.at) for book in books]
    at_once(*record)
    assert sorted(entry.times for entry in books[0].entries()) == [1, 1]
    assert put(engine) == ["alarm-1-opened-1"]


def test_an_alert_and_its_entry_are_written_together_or_not_at_all(engine, clock):
    class Broken(Outbox):
        def put(self, connection, alert):
            super().put(connection, alert)
            raise KeyboardInterrupt

    book = AlarmBook(engine, SETTINGS, Broken(engine, [CHANNEL], now=clock))
    with pytest.raises(KeyboardInterrupt):
        book.record("assistant", "tick", [finding()], clock.at)
    assert book.entries(resolved=True) == []
    assert put(engine) == []


@pytest.mark.parametrize("request_id", ["r2", "opened", "assistant", "high", "output.refusal"])
def test_a_deleted_request_is_taken_out_of_entries_and_alerts_and_takes_nothing_along(book, engine, clock, request_id):
    book.record("assistant", "tick", [finding(rows=("r1", request_id))], clock.at)
    (before,) = put(engine, alert_outbox.c.payload)
    assert [forget_request(engine, request_id), forget_request(engine, request_id)] == [2, 0]
    assert [entry.rows for entry in book.entries()] == [("r1",)]
    (after,) = put(engine, alert_outbox.c.payload)
    for part in (after, *after["parts"]):
        assert [row["request_id"] for row in part["rows"]] == ["r1"]
    for payload in (before, after):
        payload["rows"] = payload["parts"][0]["rows"] = []
    assert after == before


def test_what_one_look_finds_is_one_alert_with_its_parts_and_is_told_to_be_over_likewise(book, engine, clock):
    names = ("output.length", "output.refusal", "error", "output.words", "output.sentiment", "latency_ms")
    found = [finding(name, kind="drift", severity="high" if name == "error" else "low") for name in names]
    book.record("assistant", "tick", [finding("empty", severity="low")], clock.at)
    book.record("assistant", "window 1", found, clock.at, closes=clock.at - timedelta(days=1))  # the same tick's window
    book.record("helper", "window 1", [replace(finding(release="helper@1"), app="helper")], clock.at)
    book.record("assistant", "window 2", [], clock.move(days=1), closes=clock.at)
    told = put(engine, alert_outbox.c.payload)
    assert [(alert["event"], alert["app"], len(alert["parts"])) for alert in told] == [
        ("opened", "assistant", 7), ("opened", "helper", 1), ("resolved", "assistant", 7),
    ]  # fmt: skip
    opened = told[0]
    assert (opened["what"], opened["id"], opened["parts"][0]["alarm"]) == ("empty", "alarm-1-opened-1", 1)
    assert [part["what"] for part in opened["parts"][1:]] == ["error", *(each for each in names if each != "error")]
    assert title(opened) == "ALARM empty (sequential, low) and 6 more in assistant@2"
    shown = text(opened)
    for name in names:
        assert f"{name} rose" in shown


def test_an_alert_that_somebody_tried_to_deliver_gets_no_more_parts(engine, clock):
    outbox = Outbox(engine, [CHANNEL], now=clock)
    book = AlarmBook(engine, SETTINGS, outbox)
    book.record("assistant", "tick 1", [finding()], clock.at)
    assert len(outbox.send_due().errors) == 1
    book.record("assistant", "tick 2", [finding("error")], clock.at)
    assert put(engine) == ["alarm-1-opened-1", "alarm-2-opened-1"]


@pytest.mark.parametrize(
    ("ticks", "alerts"),
    [
        (((1, 4000), (2, -4000), (3, 0)), ["alarm-1-opened-1", "alarm-1-lasting-2"]),
        (((1, 0), (1, 1), (1, -1)), ["alarm-1-opened-1"]),
    ],
    ids=["silences no alarm", "tells none twice"],
)
def test_a_clock_that_leaps(book, clock, engine, ticks, alerts):
    for number, days in ticks:
        book.record("assistant", f"tick {number}", [finding()], clock.move(days=days, minutes=1))
    assert put(engine) == alerts


def result(*alarms, releases, rows=100):
    parts = [SimpleNamespace(label={"app": "assistant"}, rows=rows)]
    parts += [SimpleNamespace(label={"release": name}, rows=count) for name, count in releases.items()]
    window, cure = SimpleNamespace(rows=rows), Cure(True, "the output changed")
    return SimpleNamespace(app="assistant", alarms=alarms, slices=parts, window=window, cure=cure)


def alarm(*slices, **more):
    given = {"what": "output.refusal", "why": "rose", "rows": ("r1",), "side": "output", "kind": "drift"}
    return SimpleNamespace(slices=slices, severity="high", **{"explained": None, **given, **more})


WHOLE, SECOND, GERMAN = {"app": "assistant"}, {"release": "assistant@2"}, {"language": "de"}


@pytest.mark.parametrize(
    ("slices", "releases", "found"),
    [
        ((WHOLE, SECOND, GERMAN), {"assistant@1": 50, "assistant@2": 50}, ("assistant@2", SECOND)),
        ((WHOLE,), {"assistant@1": 100}, ("assistant@1", WHOLE)),
        ((WHOLE,), {"assistant@1": 60}, (None, WHOLE)),
    ],
    ids=["the release it shows in", "the only release", "none of several"],
)
def test_an_alarm_is_laid_to_the_releases_it_shows_in_or_to_the_only_one(slices, releases, found):
    (item,) = sightings_of(result(alarm(*slices), releases=releases))
    assert (item.release, item.label) == found


def test_what_changed_questions_explain_no_rollback_cures():
    alarms = alarm(SECOND, explained=True), alarm(SECOND, what="error")
    assert [item.cure.helps for item in sightings_of(result(*alarms, releases={"assistant@2": 100}))] == [False, True]
