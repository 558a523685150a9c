"""A system clock that leaps, ahead and back, between ticks of the daemon: what is held up, missed or deleted by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.production_log import LogRecord, ProductionLog, open_engine
from llmops.settings import Settings
from monitoring import pin_reference
from monitoring.act.action_tables import alert_outbox, monitor_actions, monitor_leases
from monitoring.act.actions import Actions
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings, WebhookSettings
from monitoring.act.alerts.webhook import Webhook
from monitoring.act.clocks import RetentionClock, was_noted
from monitoring.act.lease import Lease
from monitoring.act.policy import Policy, Situation, decide
from monitoring.act.schedule import WindowSchedule
from monitoring.config import MonitorConfig, read_config
from monitoring.daemon.work import LogWork
from monitoring.decide.detector_store import DetectorStore
from monitoring.descriptors import DescriptorSet
from monitoring.store.database import open_database
from tests.monitoring.acting import Clock, NotingActuator, finding, http_receiver
from tests.monitoring.conftest import REFUSAL

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SITUATION = Situation("assistant@2", None, "assistant@1")


@pytest.fixture
def engine(log_url: str) -> Iterator[sa.Engine]:
    made = open_engine(log_url)
    yield made
    made.dispose()


def test_a_lease_taken_by_a_clock_that_was_ahead_holds_up_no_other_daemon(engine: sa.Engine) -> None:
    dead, other = (Lease(engine, "daemon", holder, 45) for holder in ("dead", "other"))
    assert dead.take()
    assert not other.take()
    with engine.begin() as connection:  # as it looks when the clock went back an hour
        connection.execute(sa.update(monitor_leases).values(until=monitor_leases.c.until + 3600))

    assert other.held_by() is None
    assert other.take()
    assert not dead.take(), "whoever lives notices that it holds the lease no more"


def test_alerts_put_off_by_a_clock_that_was_ahead_leave_when_it_is_right_again(engine: sa.Engine) -> None:
    with http_receiver() as receiver:
        receiver.answers = [500]
        clock = Clock()
        outbox = Outbox(engine, [Webhook(WebhookSettings("ops", url=receiver.url))], now=clock)
        book = AlarmBook(engine, AlertSettings(), outbox)
        clock.move(days=3)
        book.record("assistant", "tick", [finding()], clock.at)
        assert outbox.send_due().failed == 1
        clock.move(days=-3)
        assert outbox.send_due().delivered == 1


def test_an_alert_is_not_given_up_because_the_clock_leapt_once(engine: sa.Engine) -> None:
    with http_receiver() as receiver:
        receiver.answers = [500]
        clock = Clock()
        outbox = Outbox(engine, [Webhook(WebhookSettings("ops", url=receiver.url))], now=clock)
        AlarmBook(engine, AlertSettings(), outbox).record("assistant", "tick", [finding()], clock.at)
        clock.move(days=30)
        assert outbox.send_due().given_up == 0
        clock.move(days=-30)
        assert outbox.send_due().delivered == 1


def test_an_action_claimed_by_a_clock_that_was_ahead_is_taken_up_when_it_is_right_again(engine: sa.Engine) -> None:
    clock, actuator = Clock(), NotingActuator(SITUATION)
    outbox = Outbox(engine, (), now=clock)
    policies = {"assistant": Policy("rollback", dry_run=False)}
    book = AlarmBook(engine, AlertSettings(), outbox)
    actions = Actions(engine, actuator, outbox, AlertSettings(), policies, "one", clock)
    book.record("assistant", "tick", [finding()], clock.at)
    clock.move(days=3)
    assert actions.claim(decide("assistant", book.entries(), policies["assistant"], SITUATION), SITUATION)
    with engine.begin() as connection:  # its holder died
        connection.execute(sa.update(monitor_actions).values(claimed_by="dead", claimed_until=clock() + 30))
    clock.move(days=-3)

    actions.carry_out_due(slow=False)

    assert actuator.did == [("rollback", "assistant@2")]


def test_clocks_of_two_machines_may_differ_a_little() -> None:
    assert was_noted(1000.0, 990.0)
    assert not was_noted(90_000.0, 1000.0)


@pytest.fixture
def believes(log_url: str, any_log: ProductionLog) -> Iterator[Callable[[datetime], bool]]:
    """Asks a retention clock on a log whose newest record is a day old."""
    any_log.append([LogRecord("r1", Clock().at - DAY, 200, "ok", "What?", "This.", "assistant@1")])
    made = open_database(log_url)
    lease = Lease(made, "daemon", "one", 45)  # makes the tables
    assert lease.take()
    clock = RetentionClock(made)
    yield lambda at: clock.believes(at.timestamp())
    made.dispose()


def test_a_leap_ahead_deletes_nothing_before_it_has_lasted_a_day(believes: Callable[[datetime], bool]) -> None:
    now = Clock().at
    assert believes(now)
    assert not believes(now + 365 * DAY)
    assert not believes(now + 365 * DAY + 23 * HOUR)
    assert believes(now + 366 * DAY)
    assert believes(now + 366 * DAY + HOUR)


def test_a_leap_ahead_and_back_leaves_no_trace(believes: Callable[[datetime], bool]) -> None:
    now = Clock().at
    assert not believes(now + 40 * DAY), "it is far from the newest record, too"
    assert believes(now)
    assert not believes(now + 40 * DAY)
    assert believes(now + HOUR)


def test_a_daily_look_is_believed_and_so_is_a_clock_that_goes_back(believes: Callable[[datetime], bool]) -> None:
    now = Clock().at
    assert [believes(now + days * DAY) for days in (0, 1, 2.5, 1)] == [True] * 4


DESCRIPTORS = [{"name": "output.refusal", "kind": "refusal", "of": "output"}]
REFERENCE_ROWS = 300


@dataclasses.dataclass
class Watch:
    """A daemon's work over one log with a pinned reference, by a clock that can be moved."""

    settings: Settings
    config: MonitorConfig
    log: ProductionLog
    clock: Clock

    def answer(self, rows: int, refusing: bool) -> None:
        """Rows of the minutes before now."""
        self.log.append(
            [
                LogRecord(
                    f"{self.clock.at.isoformat()}-{number}", self.clock.at - timedelta(seconds=number), 200, "ok",
                    "What is it?", REFUSAL if refusing or number % 20 == 0 else "It is this.", "assistant@1",
                )
                for number in range(1, rows + 1)
            ]
        )  # fmt: skip

    @contextmanager
    def work(self) -> Iterator[LogWork]:
        with LogWork(
            self.settings, self.config, WindowSchedule(), lambda _: "assistant@1", settle=0, now=self.clock
        ) as work:
            yield work

    def counted_until(self) -> float | None:
        with self.work() as work:
            return DetectorStore(work.engine).counted_until("assistant")

    def alarms(self) -> list[Any]:
        with self.work() as work:
            work.ingest()
            return list(work.advance("assistant"))


@pytest.fixture
def watch(settings: Settings, log: ProductionLog) -> Watch:
    descriptors = DescriptorSet.from_config(DESCRIPTORS, settings)
    config = dataclasses.replace(read_config(settings), descriptors=descriptors)
    found = Watch(settings, config, log, Clock(datetime.now(UTC)))
    found.answer(REFERENCE_ROWS, refusing=False)
    at = found.clock.at
    pin_reference(settings, "assistant", at - HOUR, at, "a test", config=config)
    return found


def test_detectors_that_a_clock_took_ahead_see_a_bad_release_when_it_is_right_again(watch: Watch) -> None:
    watch.clock.move(minutes=10)
    watch.answer(100, refusing=False)
    assert watch.alarms() == []
    watch.clock.move(days=40)
    assert watch.alarms() == []
    watch.clock.move(days=-40, minutes=10)
    watch.answer(100, refusing=True)
    assert {(alarm.what, alarm.release) for alarm in watch.alarms()} == {("output.refusal", "assistant@1")}


def test_detectors_wait_for_a_clock_that_went_back_while_rows_come_at_the_right_time(watch: Watch) -> None:
    watch.clock.move(minutes=10)
    watch.answer(100, refusing=False)
    assert watch.alarms() == []
    before = watch.counted_until()
    watch.clock.move(hours=-5)
    assert watch.alarms() == []
    watch.clock.move(hours=5, minutes=10)
    watch.answer(100, refusing=True)
    assert watch.counted_until() == before
    assert watch.alarms()


def test_a_daemon_deletes_no_texts_because_the_clock_leapt(watch: Watch) -> None:
    watch.settings = dataclasses.replace(watch.settings, retention_days=30)
    with watch.work() as work:
        work.ingest()
        for leap in (40, -40):
            work.retain()
            watch.clock.move(days=leap)
        assert all(record.input for record in watch.log.read(app="assistant"))
        watch.clock.move(days=31)
        work.retain()
        watch.clock.move(days=1)
        work.retain()
        assert not any(record.input for record in watch.log.read(app="assistant"))


def test_a_reference_pinned_by_a_clock_that_was_ahead_silences_no_detector(watch: Watch) -> None:
    pinned_at = watch.clock.at
    watch.clock.move(days=-3)
    reference = watch.clock.at
    watch.answer(REFERENCE_ROWS, refusing=False)
    pin_reference(watch.settings, "assistant", reference - HOUR, reference, "by a wrong clock", config=watch.config)
    watch.clock.move(minutes=10)
    watch.answer(100, refusing=True)
    assert watch.clock.at < pinned_at
    assert watch.alarms()


def test_an_alert_is_in_the_outbox_once_however_the_clock_leaps(engine: sa.Engine) -> None:
    clock = Clock()
    outbox = Outbox(engine, [Webhook(WebhookSettings("ops", url="http://127.0.0.1:9/"))], now=clock)
    book = AlarmBook(engine, AlertSettings(), outbox)
    for leap in (0, 1, -1):
        book.record("assistant", "one tick", [finding()], clock.move(hours=leap))
    with engine.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(alert_outbox)).scalar_one() == 1
