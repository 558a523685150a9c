"""The alarm book: one entry while an alarm lasts, told with a cool-down, resolved by a quiet window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.errors import UsageError
from llmops.production_log import open_engine
from monitoring.act.action_tables import alarm_book, alert_outbox, alone, ensure_tables, forget_requests
from monitoring.act.alarm_book import AlarmBook, findings_of
from monitoring.act.alerts.message import text, title
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings, WebhookSettings
from monitoring.act.alerts.webhook import Webhook
from tests.monitoring.acting import START, Clock, finding

CHANNEL = Webhook(WebhookSettings("ops", url="http://127.0.0.1:9/"))
SETTINGS = AlertSettings(cool_down=3600.0)


@pytest.fixture
def engine(log_url: str) -> Iterator[sa.Engine]:
    made = open_engine(log_url)
    yield made
    made.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(engine: sa.Engine, clock: Clock) -> AlarmBook:
    return make_book(engine, clock)


def make_book(engine: sa.Engine, clock: Clock, settings: AlertSettings = SETTINGS) -> AlarmBook:
    ensure_tables(engine)
    return AlarmBook(engine, settings, Outbox(engine, [CHANNEL], now=clock))


def alerts(engine: sa.Engine) -> list[str]:
    with engine.begin() as connection:
        return list(connection.execute(sa.select(alert_outbox.c.alert_id).order_by(alert_outbox.c.id)).scalars())


def test_an_alarm_is_one_entry_while_it_lasts(book: AlarmBook, clock: Clock, engine: sa.Engine) -> None:
    first = book.record("assistant", "tick 1", [finding()], clock.at)
    again = book.record("assistant", "tick 2", [finding(why="more")], clock.move(minutes=1))

    assert len(first.opened) == 1
    assert len(again.lasting) == 1
    (entry,) = book.entries()
    assert (entry.times, entry.why, entry.first_at, entry.last_at) == (2, "more", START, clock.at)
    assert alerts(engine) == ["alarm-1-opened-1"]


def test_the_same_verdict_booked_again_changes_nothing(book: AlarmBook, clock: Clock, engine: sa.Engine) -> None:
    for _ in range(3):
        book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)

    assert book.entries()[0].times == 1
    assert alerts(engine) == ["alarm-1-opened-1"]


def test_another_release_slice_or_kind_is_another_alarm(book: AlarmBook, clock: Clock) -> None:
    others = [
        finding(release="assistant@3"),
        finding(kind="limit"),
        finding(slice={"language": "de"}),
        finding("error"),
    ]
    booked = book.record("assistant", "tick", [finding(), finding(), *others], clock.at)

    assert len(booked.opened) == 5


def test_a_lasting_alarm_is_told_again_after_the_cool_down(book: AlarmBook, clock: Clock, engine: sa.Engine) -> None:
    for number in range(7):
        book.record("assistant", f"tick {number}", [finding()], clock.move(minutes=20))

    assert alerts(engine) == ["alarm-1-opened-1", "alarm-1-lasting-2", "alarm-1-lasting-3"]


def test_a_quiet_window_resolves_and_says_so(book: AlarmBook, clock: Clock, engine: sa.Engine) -> None:
    book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)
    book.record("assistant", "tick", [], clock.move(hours=1))
    assert book.entries()[0].state == "open"

    resolved = book.record("assistant", "window 2", [], clock.move(hours=24), closes=clock.at).resolved

    assert [entry.id for entry in resolved] == [1]
    assert book.entries() == []
    assert book.entries(resolved=True)[0].resolved_at == clock.at
    assert alerts(engine) == ["alarm-1-opened-1", "alarm-1-resolved-1"]


def test_a_flapping_alarm_is_told_no_more_often_than_a_lasting_one(
    book: AlarmBook, clock: Clock, engine: sa.Engine
) -> None:
    for number in range(6):
        found = [finding()] if number % 2 == 0 else []
        book.record("assistant", f"window {number}", found, clock.move(minutes=10), closes=clock.at)

    assert alerts(engine) == ["alarm-1-opened-1", "alarm-1-resolved-1"]
    assert len(book.entries(resolved=True)) == 3


def test_an_acknowledged_alarm_is_told_no_more_while_it_lasts(book: AlarmBook, clock: Clock, engine: sa.Engine) -> None:
    book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)
    entry = book.acknowledge(1, "ada", clock.move(minutes=1))
    book.record("assistant", "window 2", [finding()], clock.move(hours=48), closes=clock.at)

    assert (entry.state, entry.acknowledged_by) == ("acknowledged", "ada")
    assert alerts(engine) == ["alarm-1-opened-1"]


def test_only_a_lasting_alarm_can_be_acknowledged(book: AlarmBook, clock: Clock) -> None:
    book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)
    book.record("assistant", "window 2", [], clock.move(hours=1), closes=clock.at)

    with pytest.raises(UsageError, match="over already"):
        book.acknowledge(1, "ada", clock.at)
    with pytest.raises(UsageError, match="no alarm 9"):
        book.acknowledge(9, "ada", clock.at)


def test_another_apps_window_resolves_nothing(book: AlarmBook, clock: Clock) -> None:
    book.record("assistant", "window 1", [finding()], clock.at, closes=clock.at)
    book.record("helper", "window 1", [], clock.at, closes=clock.at)

    assert len(book.entries()) == 1


def test_two_daemons_that_book_the_same_verdict_make_one_entry(engine: sa.Engine, clock: Clock) -> None:
    books = [make_book(engine, clock) for _ in range(4)]
    start = threading.Barrier(4)

    def work(book: AlarmBook) -> None:
        start.wait()
        book.record("assistant", "window 1", [finding(), finding("error")], clock.at, closes=clock.at)

    threads = [threading.Thread(target=work, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(entry.times for entry in books[0].entries()) == [1, 1]
    assert alerts(engine) == ["alarm-1-opened-1"]


def test_an_alert_and_its_entry_are_written_together_or_not_at_all(engine: sa.Engine, clock: Clock) -> None:
    class Broken(Outbox):
        def put(self, connection: sa.Connection, alert: Any) -> None:
            super().put(connection, alert)
            raise KeyboardInterrupt

    book = AlarmBook(engine, SETTINGS, Broken(engine, [CHANNEL], now=clock))
    with pytest.raises(KeyboardInterrupt):
        book.record("assistant", "tick", [finding()], clock.at)

    assert book.entries(resolved=True) == []
    assert alerts(engine) == []


def test_requests_that_are_deleted_are_taken_out_of_entries_and_alerts(
    book: AlarmBook, clock: Clock, engine: sa.Engine
) -> None:
    book.record("assistant", "tick", [finding(rows=("r1", "r2"))], clock.at)
    with alone(engine) as connection:
        assert forget_requests(connection, {"r1"}) == 2
        assert forget_requests(connection, {"r1"}) == 0
        kept = connection.execute(sa.select(alarm_book.c.rows)).scalar_one()
        payload = connection.execute(sa.select(alert_outbox.c.payload)).scalar_one()

    assert kept == ["r2"]
    assert [row["request_id"] for row in payload["rows"]] == ["r2"]
    assert [row["request_id"] for row in payload["parts"][0]["rows"]] == ["r2"]


@pytest.mark.parametrize("request_id", ["opened", "assistant", "high", "output.refusal"])
def test_a_request_that_is_called_like_something_else_takes_nothing_along(
    book: AlarmBook, engine: sa.Engine, clock: Clock, request_id: str
) -> None:
    book.record("assistant", "tick", [finding(rows=("r1", request_id))], clock.at)
    with alone(engine) as connection:
        before = connection.execute(sa.select(alert_outbox.c.payload)).scalar_one()
        assert forget_requests(connection, {request_id}) == 2
        after = connection.execute(sa.select(alert_outbox.c.payload)).scalar_one()

    assert [row["request_id"] for row in after["rows"]] == ["r1"]
    for payload in (before, after):
        payload["rows"] = payload["parts"][0]["rows"] = []
    assert after == before


def test_what_one_look_finds_is_one_alert_with_its_parts_and_is_told_to_be_over_likewise(
    book: AlarmBook, engine: sa.Engine, clock: Clock
) -> None:
    names = ("output.length", "output.refusal", "error", "output.words", "output.sentiment", "latency_ms")
    found = [finding(name, kind="drift", severity="high" if name == "error" else "low") for name in names]
    book.record("assistant", "tick", [finding("empty", severity="low")], clock.at)
    book.record("assistant", "window 1", found, clock.at, closes=clock.at - timedelta(days=1))  # the same tick's window
    book.record("helper", "window 1", [replace(finding(release="helper@1"), app="helper")], clock.at)
    book.record("assistant", "window 2", [], clock.move(days=1), closes=clock.at)

    with engine.connect() as connection:
        told = list(connection.execute(sa.select(alert_outbox.c.payload).order_by(alert_outbox.c.id)).scalars())
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


def test_an_alert_that_somebody_tried_to_deliver_gets_no_more_parts(engine: sa.Engine, clock: Clock) -> None:
    down = Webhook(WebhookSettings("down", url="http://127.0.0.1:9/"))
    outbox = Outbox(engine, [down], now=clock)
    book = AlarmBook(engine, SETTINGS, outbox)
    book.record("assistant", "tick 1", [finding()], clock.at)
    assert outbox.send_due().failed == 1
    book.record("assistant", "tick 2", [finding("error")], clock.at)
    assert alerts(engine) == ["alarm-1-opened-1", "alarm-2-opened-1"]


def test_a_clock_that_was_wrong_once_silences_no_alarm(book: AlarmBook, clock: Clock, engine: sa.Engine) -> None:
    book.record("assistant", "tick 1", [finding()], clock.move(days=4000))
    book.record("assistant", "tick 2", [finding()], clock.move(days=-4000))
    book.record("assistant", "tick 3", [finding()], clock.move(minutes=1))

    assert alerts(engine) == ["alarm-1-opened-1", "alarm-1-lasting-2"]


def result(*alarms: Any, releases: dict[str, int], rows: int = 100, cure: Any = None) -> Any:
    parts = [SimpleNamespace(label={"app": "assistant"}, rows=rows)]
    parts += [SimpleNamespace(label={"release": name}, rows=count) for name, count in releases.items()]
    return SimpleNamespace(app="assistant", alarms=alarms, slices=parts, window=SimpleNamespace(rows=rows), cure=cure)


def alarm(*slices: dict[str, str], **more: Any) -> Any:
    given = {"what": "output.refusal", "why": "rose", "rows": ("r1",), "side": "output", "kind": "drift"}
    return SimpleNamespace(slices=slices, severity="high", **{"explained": None, **given, **more})


def test_an_alarm_is_laid_to_the_releases_it_shows_in() -> None:
    found = list(
        findings_of(
            result(
                alarm({"app": "assistant"}, {"release": "assistant@2"}, {"language": "de"}),
                releases={"assistant@1": 50, "assistant@2": 50},
            )
        )
    )

    assert [(item.release, item.label) for item in found] == [("assistant@2", {"release": "assistant@2"})]


def test_an_alarm_of_the_whole_app_is_laid_to_the_only_release_or_to_none() -> None:
    whole = alarm({"app": "assistant"})

    (sole,) = findings_of(result(whole, releases={"assistant@1": 100}))
    (mixed,) = findings_of(result(whole, releases={"assistant@1": 60}))

    assert sole.release == "assistant@1"
    assert mixed.release is None


def test_what_changed_questions_explain_no_rollback_cures() -> None:
    cure = SimpleNamespace(helps=True, why="the output changed")
    judged = result(
        alarm({"release": "assistant@1"}, explained=True), alarm({"release": "assistant@1"}, what="error"),
        releases={"assistant@1": 100}, cure=cure,
    )  # fmt: skip

    first, second = findings_of(judged)

    assert first.cure is not None
    assert not first.cure.helps
    assert second.cure is not None
    assert second.cure.helps
