"""The monitor as one process: looks at the log at every tick, tests each window once, tells and acts.

    tick ── ingest new rows ─ advance the sequential detectors ─ test a window that has closed ─ decide and act
            ─ deliver alerts ─ retention ─ Prometheus file

Each part of a tick stands alone: one that fails is logged and counted (`daemon_stages`), and the others go on. All that
must survive a crash is in the database, so that a tick may be cut off anywhere and done again by another daemon.
"""

import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from llmops.errors import CannotRun, LlmopsError
from monitoring.act.action_tables import Lease, daemon_stages, tested_windows, was_noted
from monitoring.act.actions import ActionQueue, Actuator, MonitorAction, read_actions
from monitoring.act.alarm_book import AlarmBook, BookChanges, BookedAlarm, sightings_of
from monitoring.act.outbox import Outbox
from monitoring.act.policy import Policy, decide
from monitoring.act.prometheus import exposition, stage_counts, write_textfile
from monitoring.daemon.work import LogWork
from monitoring.decide.result import MonitorResult
from monitoring.store.database import reading, upsert, writing_alone

logger = logging.getLogger("llmops.monitoring")

LEASE_SECONDS = 45.0
_END_SECONDS = 10.0
"""How long a slow action gets to end after SIGTERM."""

T = TypeVar("T")


@dataclass
class Tick:
    """What one tick did. alarms: that last at its end. failed: parts of it that failed."""

    ingested: int = 0
    alarms: int = 0
    opened: list[BookedAlarm] = field(default_factory=list)
    resolved: list[BookedAlarm] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    acted: list[MonitorAction] = field(default_factory=list)
    delivered: int = 0
    failed: list[str] = field(default_factory=list)


class Daemon:
    """One daemon of possibly several on a database.

    work: the log, its configuration and schedule.
    record: puts a window's verdict on record in MLflow and returns the run's id.
    every: seconds between two ticks.
    lease_seconds: after which another daemon takes over from one that died.
    now: the time, in seconds.
    """

    def __init__(
        self,
        work: LogWork,
        actuator: Actuator,
        record: Callable[[MonitorResult], str | None],
        *,
        every: float = 60.0,
        lease_seconds: float = LEASE_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._work, self._actuator, self._record = work.engine, work, actuator, record
        self._every, self._now = every, now
        alerts, self._policies = work.config.alerts, work.config.policies
        self._textfile = alerts.prometheus.textfile
        self.holder = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._outbox = Outbox(work.engine, alerts.channels, alerts.give_up_after, now)
        self._book = AlarmBook(work.engine, alerts, self._outbox)
        self._actions = ActionQueue(work.engine, actuator, self._outbox, alerts, self._policies, self.holder, now)
        self._lease = Lease(work.engine, "monitor daemon", self.holder, lease_seconds)
        self._holding = False
        self._stop = threading.Event()
        self._slow: threading.Thread | None = None
        self._stages = Stages(work.engine, now, lambda: self._stop.is_set())
        self._slow_stages = Stages(work.engine, now)
        self._declined: dict[str, tuple[object, ...]] = {}  # what was logged last of a policy that does nothing
        self._untestable: dict[tuple[str, datetime], float] = {}  # and when that was found

    def run(self, stop: threading.Event, *, once: bool = False) -> Tick | None:
        """Ticks until `stop` is set; with `once`, one tick, slow actions included. Returns the last tick.

        While another daemon holds the lease it waits; `once` then does nothing and returns None.
        """
        self._stop = stop
        ended = threading.Event()
        heartbeat = threading.Thread(target=self._renew, args=(ended,), name="monitor lease", daemon=True)
        heartbeat.start()
        last: Tick | None = None
        waiting = False
        try:
            while not stop.is_set():
                began = time.monotonic()
                if self._take_lease():
                    waiting = False
                    last = self.tick(slow_too=once)
                elif not waiting:
                    waiting = True
                    logger.info("another daemon is at work; waiting for its lease to end")
                if once:
                    break
                pause = min(self._every, self._lease.seconds / 2) if waiting else self._every
                stop.wait(max(0.0, pause - (time.monotonic() - began)))
        finally:
            ended.set()
            if self._slow is not None:
                self._slow.join(_END_SECONDS)
            self._holding = False
            try:  # others may take over at once
                self._actions.release_claims()
                self._lease.give_back()
            except LlmopsError as error:
                logger.warning("lease not given back: %s; it ends by itself", error)
            heartbeat.join(_END_SECONDS)
        return last

    def tick(self, *, slow_too: bool = False) -> Tick:
        """One tick. slow_too: waits for slow actions, instead of leaving them to a thread."""
        tick = Tick()
        stages = self._stages
        stages.failed = tick.failed
        tick.ingested = stages.run("ingest", self._work.ingest) or 0
        for app in stages.run("apps", self._work.apps) or ():
            stages.run("sequential", partial(self._advance, tick, app))
            stages.run("window", partial(self._test_window, tick, app))
            stages.run("decide", partial(self._decide, tick, app))
        tick.acted += stages.run("act", partial(self._actions.carry_out_due, slow=False)) or ()
        if slow_too:
            tick.acted += stages.run("act", partial(self._actions.carry_out_due, slow=True)) or ()
        elif stages.run("act", partial(self._actions.due, slow=True)) and not (self._slow and self._slow.is_alive()):
            # In a thread of their own, one at a time: the detectors go on meanwhile.
            self._slow = threading.Thread(target=self._carry_out_slow, name="monitor actions", daemon=True)
            self._slow.start()
        stages.run("alerts", partial(self._deliver, tick))
        stages.run("retention", self._work.retain)
        tick.alarms = len(stages.run("book", self._book.entries) or ())
        stages.run("prometheus", self._expose)
        stages.keep()
        _log_actions(tick.acted)
        if tick.ingested or tick.delivered:
            logger.info("%d new rows, %d alerts delivered", tick.ingested, tick.delivered)
        return tick

    def _advance(self, tick: Tick, app: str) -> None:
        if findings := self._work.advance(app):
            at = datetime.fromtimestamp(self._now(), UTC)
            self._keep(tick, self._book.record(app, f"tick at {at.isoformat()}", findings, at))

    def _test_window(self, tick: Tick, app: str) -> None:
        """Tests the window that closed last, unless it was tested. Those missed before it are left out: their alarms
        would come too late to act on."""
        since, until = self._work.schedule.last_closed(datetime.fromtimestamp(self._now(), UTC))
        key = {"app": app, "until": until.timestamp()}
        with reading(self._engine) as connection:
            tested_at = connection.execute(sa.select(tested_windows.c.tested_at).filter_by(**key)).scalar()
        # By a clock that was right: one that was ahead has tested windows before they came.
        looks = (tested_at, self._untestable.get((app, until)))
        if any(look is not None and was_noted(look, self._now()) for look in looks):
            return
        try:
            result = self._work.test_window(app, since, until)
        except CannotRun as error:
            if type(error) is not CannotRun:
                raise
            self._untestable[app, until] = self._now()  # such as a first window, with nothing before it to compare with
            logger.info("%s: window until %s: %s", app, until.isoformat(), error)
            return
        run_id = self._stages.run("record", partial(self._record, result))
        closes = None if result.state == "too-few-rows" else since
        # The detectors' alarms are booked when they come, at a tick.
        sightings = list(sightings_of(result, leave_out=("sequential",)))
        source = f"window until {until.isoformat()}"
        self._keep(tick, self._book.record(app, source, sightings, until, closes=closes, run_id=run_id))
        verdict = {
            "since": since.timestamp(),
            "tested_at": self._now(),
            "state": result.state,
            "run_id": run_id,
            "result": result.to_json(),
        }
        with writing_alone(self._engine) as connection:
            upsert(connection, tested_windows, [{**key, **verdict}], tuple(verdict))
        logger.info("%s: window until %s: %s", app, until.isoformat(), result.note or result.state)

    def _keep(self, tick: Tick, booked: BookChanges) -> None:
        tick.opened += booked.opened
        tick.resolved += booked.resolved
        for entry in booked.opened:
            logger.warning("alarm %d: %s of %s: %s", entry.id, entry.what, entry.release or entry.app, entry.why)
        for entry in booked.resolved:
            logger.info("alarm %d is over: %s of %s", entry.id, entry.what, entry.release or entry.app)

    def _decide(self, tick: Tick, app: str) -> None:
        policy = self._policies.get(app, Policy())
        alarms = self._book.entries(app=app)
        if policy.action == "observe" or not alarms:
            return
        situation = self._actuator.situation(app)
        decision = decide(app, alarms, policy, situation)
        tick.decided[app] = decision.why
        if decision.declined:
            # The alerts of the alarms say why the policy does nothing about them; the log does once.
            told = {"wanted": policy.action, "done": None, "dry_run": policy.dry_run, "why": decision.why}
            self._outbox.add_decision(app, told)
            why = (policy.action, decision.why, *(alarm.id for alarm in decision.declined))
            if self._declined.get(app) != why:
                alarmed = ", ".join(str(alarm.id) for alarm in decision.declined)
                logger.warning("%s: no %s for alarm %s: %s", app, policy.action, alarmed, decision.why)
            self._declined[app] = why
        else:
            self._declined.pop(app, None)
        if self._actions.put(decision, situation):
            mode = "would (dry run)" if decision.dry_run else "will"
            logger.warning("%s: %s %s of %s: %s", app, mode, decision.action, decision.release, decision.why)

    def _deliver(self, tick: Tick) -> None:
        sent = self._outbox.send_due(self._stop.is_set)
        tick.delivered = sent.delivered
        for error in sent.errors:
            logger.warning("alert not delivered: %s", error)
        if sent.given_up:
            logger.error("%d alerts could not be delivered and are given up", sent.given_up)

    def _expose(self) -> None:
        if self._textfile:
            alarms, deliveries = self._book.entries(), self._outbox.deliveries()
            actions, counts = read_actions(self._engine, limit=1000), stage_counts(self._engine)
            write_textfile(Path(self._textfile), exposition(alarms, deliveries, actions, counts, self._now()))

    def _carry_out_slow(self) -> None:
        carry_out = partial(self._actions.carry_out_due, slow=True)
        _log_actions(self._slow_stages.run("slow actions", carry_out) or [])
        self._slow_stages.keep()

    def _renew(self, ended: threading.Event) -> None:
        """Renews lease and claims, also while a tick takes longer than they last."""
        while not ended.wait(self._lease.seconds / 3):
            try:
                if self._holding:
                    self._holding = self._lease.take()
                    self._actions.renew_claims()
            except LlmopsError as error:
                logger.warning("lease not renewed: %s", error)

    def _take_lease(self) -> bool:
        try:
            self._holding = self._lease.take()
        except LlmopsError as error:
            logger.warning("lease not taken: %s", error)
            self._holding = False
        return self._holding


class Stages:
    """Runs the parts of a tick, each alone, and counts them in the database.

    now: the time, in seconds. should_stop: whether no more of them are to run. failed: gets the names of those that
    fail.
    """

    def __init__(
        self, engine: sa.Engine, now: Callable[[], float], should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._engine, self._now, self._should_stop = engine, now, should_stop
        self._counts: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []

    def run(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where it failed, which is logged and counted, or where no more are to run."""
        if self._should_stop():
            return None
        count = self._counts.setdefault(name, {"runs": 0, "failures": 0})
        count["runs"] += 1
        try:
            return work()
        except LlmopsError as error:
            told = str(error)
            logger.warning("%s failed: %s", name, error)
        except Exception as error:
            told = f"unexpected {type(error).__name__}: {error}"
            logger.exception("%s failed", name)
        count |= {"failures": count["failures"] + 1, "last_failure_at": self._now(), "last_error": told}
        self.failed.append(name)
        return None

    def keep(self) -> None:
        """Adds what was counted to the database; where that fails, it is logged and kept for the next time."""
        sums = ("runs", "failures")
        try:
            with writing_alone(self._engine) as connection:
                for name, count in sorted(self._counts.items()):
                    row = {"stage": name, **count, "last_run_at": self._now()}
                    upsert(connection, daemon_stages, [row], row.keys() - {"stage", *sums}, sums)
        except LlmopsError as error:
            logger.warning("counts of the tick's parts not kept: %s", error)
            return
        self._counts.clear()


def _log_actions(actions: list[MonitorAction]) -> None:
    for action in actions:
        mode, outcome = " (dry run)" if action.dry_run else "", dict(action.outcome or {})
        logger.warning("%s of %s%s: %s: %s", action.kind, action.release, mode, action.status, outcome)
