"""The daemon: ticks, windows once, faults that end nothing, two of them at once."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable, UsageError
from monitoring.act.alarm_book import AlarmBook, Sighting
from monitoring.act.alerts import AlertSettings, PrometheusSettings, Webhook, text
from monitoring.act.outbox import Outbox
from monitoring.act.policy import Policy, Situation
from monitoring.act.prometheus import stage_counts
from monitoring.daemon.loop import Daemon
from monitoring.daemon.work import WindowSchedule
from monitoring.decide.result import Cure
from tests.at_once import wait_until
from tests.monitoring.acting import START, Clock, NotingActuator, finding

ROLLED_BACK = [("rollback", "assistant@2")]


@dataclass
class FakeWork:
    """Finds what it is told to find. broken: stages that fail."""

    engine: sa.Engine
    config: Any = None
    schedule: WindowSchedule = field(default_factory=WindowSchedule)
    found: list[Sighting] = field(default_factory=list)
    alarms: list[Any] = field(default_factory=list)
    state: str = "ok"
    windows: list[tuple[datetime, datetime]] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    ticks: int = 0
    held: threading.Lock = field(default_factory=threading.Lock)
    side_by_side: int = 0

    def ingest(self):
        if not self.held.acquire(blocking=False):
            self.side_by_side += 1
        else:
            time.sleep(0.01)
            self.held.release()
        self.ticks += 1
        self._fail("ingest")
        return 3

    def apps(self):
        return ["assistant"]

    def advance(self, app):
        self._fail("advance")
        return self.found

    def test_window(self, app, since, until):
        self.windows.append((since, until))
        self._fail("window")
        shown = {"kind": "drift", "severity": "high", "slices": ({"release": "assistant@2"},), "explained": None}
        alarms = [SimpleNamespace(what=what, why="rose", side="output", rows=("r1",), **shown) for what in self.alarms]
        return SimpleNamespace(
            app=app, alarms=alarms, slices=[], window=SimpleNamespace(rows=100), cure=Cure(True, "it helps"), note="",
            state="alarm" if alarms else self.state, to_json=lambda: {"app": app},
        )  # fmt: skip

    def retain(self):
        self._fail("retain")

    def _fail(self, stage):
        if stage in self.broken:
            raise self.broken[stage]


class Bench:
    """Daemons on one database, by one clock, which is moved; what they find, and what they do."""

    def __init__(self, engine):
        self.clock, self.work = Clock(START + timedelta(hours=9)), FakeWork(engine)
        self.actuator = NotingActuator(Situation("assistant@2", None, "assistant@1"))

    def daemon(
        self,
        policy=Policy("rollback", dry_run=False),  # noqa: B008 - it is frozen
        alerts=AlertSettings(),  # noqa: B008
        record=lambda _: "run-1",
        lease_seconds=0.4,
    ):
        self.work.config = SimpleNamespace(alerts=alerts, policies={"assistant": policy})
        times = {"every": 0.02, "lease_seconds": lease_seconds, "now": self.clock}
        return Daemon(self.work, self.actuator, record, **times)  # type: ignore[arg-type]

    def tick(self, **move):
        """One tick of a new daemon, after the clock has moved."""
        self.clock.move(**move)
        return self.daemon().tick()

    def entries(self):
        return AlarmBook(self.work.engine, AlertSettings(), Outbox(self.work.engine)).entries(resolved=True)

    def states(self):
        return [entry.state for entry in self.entries()]

    def windows(self):
        """The days after START at which the windows ended that were tested."""
        return [(until - START).days for _, until in self.work.windows]


@pytest.fixture
def bench(engine):
    return Bench(engine)


def telling(receiver):
    """Settings by which a receiver is told of everything."""
    return AlertSettings(webhook=(Webhook("ops", url=receiver.url),))


def test_a_tick_books_decides_acts_and_tells(bench, receiver):
    bench.work.found = [finding()]
    tick = bench.daemon(alerts=telling(receiver)).tick()
    assert (tick.ingested, tick.alarms, tick.delivered, tick.failed) == (3, 1, 2, [])
    assert bench.actuator.did == ROLLED_BACK
    assert [got.body["event"] for got in receiver.got] == ["opened", "action"]


def test_a_declined_rollback_is_in_the_alert_and_once_in_the_log(bench, receiver, caplog):
    bench.actuator.now = Situation("assistant@2", None, None, no_return="assistant@1 was itself rolled back")
    bench.work.found, bench.work.alarms = [finding()], ["output.refusal", "output.length"]
    with caplog.at_level("WARNING", "llmops.monitoring"):
        daemon = bench.daemon(alerts=telling(receiver))
        for _ in range(3):
            daemon.tick()
    (alert,) = (got.body for got in receiver.got)
    assert (alert["event"], len(alert["parts"])) == ("opened", 3)
    why = "assistant@1 was itself rolled back"
    assert alert["policy"] == {"wanted": "rollback", "done": None, "dry_run": False, "why": why}
    assert f"no rollback was made: {why}" in text(alert)
    told = [record.message for record in caplog.records if "no rollback" in record.message]
    assert told == [f"assistant: no rollback for alarm 1, 2, 3: {why}"]
    assert bench.actuator.did == []


@pytest.mark.parametrize("days", [(0, 0, 0, 1), (0, 1, -1, 1)], ids=["time goes on", "the clock goes back"])
def test_each_window_is_tested_once_by_whichever_daemon(bench, days):
    bench.work.alarms = ["output.length"]
    for each in days:
        bench.tick(days=each)
    day = timedelta(days=1)
    assert bench.work.windows == [(START - day, START), (START, START + day)]
    (entry,) = bench.entries()
    assert (entry.times, entry.run_id) == (2, "run-1")


@pytest.mark.parametrize(
    ("error", "failed", "tested"),
    [(StoreUnavailable("away"), ["window"], 2), (CannotRun("no rows before --since"), [], 1)],
    ids=["failed: tested again", "nothing to compare with: no fault"],
)
def test_a_window_that_could_not_be_tested(bench, error, failed, tested):
    bench.work.broken["window"] = error
    daemon = bench.daemon()
    assert daemon.tick().failed == failed
    bench.work.broken.clear()
    assert [daemon.tick().failed, daemon.tick().failed] == [[], []]
    assert len(bench.work.windows) == tested


def test_a_window_tested_before_it_came_is_tested_when_it_comes(bench):
    daemon = bench.daemon()
    daemon.tick()
    bench.clock.move(days=3)
    bench.work.broken["window"] = CannotRun("no rows")
    daemon.tick()
    bench.work.broken.clear()
    bench.tick()
    bench.clock.move(days=-3, hours=1)
    daemon.tick()  # what the right clock tested stays tested
    bench.clock.move(days=2, hours=14, minutes=10)
    daemon.tick()
    assert bench.windows() == [0, 3, 3, 3]


@pytest.mark.parametrize(
    ("found", "days", "states"),
    [
        # At last the detector reports it once more: it is booked, and over.
        (finding(source="sequential at noon"), (0, 1, 1, 0), ("open", "open", "resolved", "resolved")),
        (finding(source="sequential in a time to come"), (40, -40), ("open", "resolved")),
    ],
    ids=["outlasts the window it came in", "seen by a clock that was ahead is over with the first quiet window"],
)
def test_a_sequential_alarm(bench, found, days, states):
    for each, state in zip(days, states, strict=True):
        bench.work.found = [found] if each >= 0 else []
        bench.tick(days=each)
        assert bench.states() == [state]


def test_a_window_with_too_few_rows_resolves_nothing(bench):
    bench.work.alarms = ["output.length"]
    bench.tick()
    bench.work.alarms = []
    for state, found in (("too-few-rows", "open"), ("ok", "resolved")):
        bench.work.state = state
        bench.tick(days=1)
        assert bench.states() == [found]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a bug")])
@pytest.mark.parametrize("stage", ["ingest", "advance", "window", "retain"])
def test_a_part_that_fails_is_counted_and_ends_nothing(bench, stage, error):
    bench.work.broken[stage] = error
    bench.work.found = [finding()]
    daemon = bench.daemon()
    assert [len(daemon.tick().failed) for _ in range(2)] == [1, 1]
    assert [count.failures for count in stage_counts(bench.work.engine) if count.failures] == [2]
    assert bench.actuator.did == ([] if stage == "advance" else ROLLED_BACK)


def test_a_verdict_that_cannot_be_recorded_is_booked_nonetheless(bench):
    def away(_):
        raise StoreUnavailable("MLflow is away")

    bench.work.alarms = ["output.length"]
    assert bench.daemon(record=away).tick().failed == ["record"]
    assert [entry.run_id for entry in bench.entries()] == [None]


def test_prometheus_gets_a_file(bench, tmp_path):
    bench.work.found = [finding()]
    path = tmp_path / "llmops.prom"
    bench.daemon(alerts=AlertSettings(prometheus=PrometheusSettings(str(path)))).tick()
    assert 'llmops_monitor_app_alarms{app="assistant"} 1' in path.read_text()
    assert 'llmops_monitor_actions{action="rollback",app="assistant",dry_run="false",status="done"}' in path.read_text()


@contextmanager
def running(daemon):
    """The daemon in a thread, which has ended afterwards, however the test ends; setting the event ends it sooner."""
    stop = threading.Event()
    thread = threading.Thread(target=daemon.run, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_of_two_daemons_one_works_and_the_other_takes_over(bench):
    bench.work.found = [finding()]
    # Long: a lease that runs out while its holder stands still on a busy machine is taken over, as it should be.
    with running(bench.daemon(lease_seconds=60.0)) as stop:
        wait_until(lambda: bench.work.ticks)
        assert bench.daemon(lease_seconds=60.0).run(threading.Event(), once=True) is None, "beside one at work"
        with running(bench.daemon(lease_seconds=60.0)):
            wait_until(lambda: bench.work.ticks > 5)
            stop.set()
            done = bench.work.ticks
            wait_until(lambda: bench.work.ticks > done + 2)
    assert bench.daemon().run(threading.Event(), once=True) is not None
    assert bench.work.side_by_side == 0
    assert bench.actuator.did == ROLLED_BACK


def test_slow_actions_hold_up_no_tick(bench):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(NotingActuator):
        def carry_out(self, action):
            begun.set()
            assert go_on.wait(60)
            return super().carry_out(action)

    bench.work.found = [finding()]
    bench.actuator = Slow(bench.actuator.now)
    with running(bench.daemon(Policy("retrain", dry_run=False, retrain_command=("true",)))):
        try:
            assert begun.wait(60)
            ticks = bench.work.ticks
            wait_until(lambda: bench.work.ticks > ticks + 2)
        finally:
            go_on.set()
        wait_until(lambda: bench.actuator.recorded)
    assert bench.actuator.did == [("retrain", "assistant@2")]


@pytest.mark.parametrize(
    ("now", "at", "length", "window"),
    [
        ("2026-01-02T00:00", "00:00", 24, ("2026-01-01T00:00", "2026-01-02T00:00")),
        ("2026-01-02T23:59", "00:00", 24, ("2026-01-01T00:00", "2026-01-02T00:00")),
        ("2026-01-02T03:00", "06:00", 24, ("2025-12-31T06:00", "2026-01-01T06:00")),
        ("2026-01-02T03:10", "00:30", 1, ("2026-01-02T01:30", "2026-01-02T02:30")),
    ],
)
def test_the_window_that_closed_last(now, at, length, window):
    schedule = WindowSchedule(time_of_day.fromisoformat(at), timedelta(hours=length))
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert schedule.last_closed(moment) == tuple(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in window)
    assert schedule.windows_a_month == 30 * 24 // length
    with pytest.raises(UsageError, match="does not divide a day"):
        WindowSchedule(length=timedelta(hours=5))
