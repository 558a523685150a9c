"""The monitor as one process: looks at the log at every tick, tests each window once, tells and acts.

    tick ── ingest new rows ─ advance the sequential detectors ─ test a window that has closed ─ decide and act
            ─ deliver alerts ─ retention ─ Prometheus file

Each part of a tick stands alone: one that fails is logged and counted (`daemon_stages`), and the others go on. All that
must survive a crash is in the database, so that a tick may be cut off anywhere and done again by another daemon.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from llmops.errors import CannotRun, LlmopsError
from monitoring.act.action_tables import alone, daemon_stages, ensure_tables, tested_windows
from monitoring.act.actions import ActionQueue, Actuator, MonitorAction, read_actions
from monitoring.act.alarm_book import AlarmBook, Booked, findings_of
from monitoring.act.alerts import AlertSettings
from monitoring.act.lease import Lease, was_noted
from monitoring.act.outbox import Outbox
from monitoring.act.policy import Decision, Policy, decide
from monitoring.act.prometheus import exposition, stage_counts, write_textfile
from monitoring.daemon.work import LogWork, WindowSchedule
from monitoring.decide.result import MonitorResult
from monitoring.store.database import reading, upsert

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
    booked: list[Booked] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    acted: list[MonitorAction] = field(default_factory=list)
    delivered: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DaemonSettings:
    """What a daemon is to do.

    record: puts a window's verdict on record in MLflow and returns the run's id.
    every: seconds between two ticks.
    lease_seconds: after which another daemon takes over from one that died.
    """

    alerts: AlertSettings
    policies: Mapping[str, Policy]
    schedule: WindowSchedule
    record: Callable[[MonitorResult], str | None]
    every: float = 60.0
    lease_seconds: float = LEASE_SECONDS


class Daemon:
    """One daemon of possibly several on a database. now: the time, in seconds."""

    def __init__(
        self,
        engine: sa.Engine,
        work: LogWork,
        actuator: Actuator,
        settings: DaemonSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        ensure_tables(engine)
        self._engine, self._work, self._actuator = engine, work, actuator
        self._settings, self._now = settings, now
        self.holder = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        alerts = settings.alerts
        self._outbox = Outbox(engine, alerts.channels, alerts.give_up_after, now)
        self._book = AlarmBook(engine, alerts, self._outbox)
        self._actions = ActionQueue(engine, actuator, self._outbox, alerts, settings.policies, self.holder, now)
        self._lease = Lease(engine, "monitor daemon", self.holder, settings.lease_seconds)
        self._stop = threading.Event()
        self._slow: threading.Thread | None = None
        self._stages = Stages(engine, now, lambda: self._stop.is_set())
        self._slow_stages = Stages(engine, now)
        self._holding = False
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
                pause = min(self._settings.every, self._settings.lease_seconds / 2) if waiting else self._settings.every
                stop.wait(max(0.0, pause - (time.monotonic() - began)))
        finally:
            ended.set()
            self._close()
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
        elif stages.run("act", partial(self._actions.are_due, slow=True)) and not (
            self._slow and self._slow.is_alive()
        ):
            # In a thread of their own, one at a time: the detectors go on meanwhile.
            self._slow = threading.Thread(target=self._carry_out_slow, name="monitor actions", daemon=True)
            self._slow.start()
        stages.run("alerts", partial(self._deliver, tick))
        stages.run("retention", self._work.retain)
        tick.alarms = len(stages.run("book", self._book.entries) or ())
        stages.run("prometheus", self._expose)
        stages.keep()
        _log(tick)
        return tick

    def _advance(self, tick: Tick, app: str) -> None:
        findings = self._work.advance(app)
        if findings:
            at = datetime.fromtimestamp(self._now(), UTC)
            tick.booked.append(self._book.record(app, f"tick at {at.isoformat()}", findings, at))

    def _test_window(self, tick: Tick, app: str) -> None:
        """Tests the window that closed last, unless it was tested. Those missed before it are left out: their alarms
        would come too late to act on."""
        since, until = self._settings.schedule.last_closed(datetime.fromtimestamp(self._now(), UTC))
        if was_noted(self._untestable.get((app, until), math.inf), self._now()):
            return
        same = (tested_windows.c.app == app, tested_windows.c.until == until.timestamp())
        with reading(self._engine) as connection:
            tested_at = connection.execute(sa.select(tested_windows.c.tested_at).where(*same)).scalar()
        # By a clock that was right: one that was ahead has tested windows before they came.
        if tested_at is not None and was_noted(tested_at, self._now()):
            return
        try:
            result = self._work.test_window(app, since, until)
        except CannotRun as error:
            if type(error) is not CannotRun:
                raise
            self._untestable[app, until] = self._now()  # such as a first window, with nothing before it to compare with
            logger.info("%s: window until %s: %s", app, until.isoformat(), error)
            return
        run_id = self._stages.run("record", partial(self._settings.record, result))
        source = f"window until {until.isoformat()}"
        closes = None if result.state == "too-few-rows" else since
        # The detectors' alarms are booked when they come, at a tick.
        found = list(findings_of(result, leave_out=("sequential",)))
        tick.booked.append(self._book.record(app, source, found, until, closes=closes, run_id=run_id))
        verdict = {
            "since": since.timestamp(),
            "tested_at": self._now(),
            "state": result.state,
            "run_id": run_id,
            "result": result.to_json(),
        }
        with alone(self._engine) as connection:
            key = {"app": app, "until": until.timestamp()}
            upsert(connection, tested_windows, [{**key, **verdict}], tuple(verdict))
        logger.info("%s: window until %s: %s", app, until.isoformat(), result.note or result.state)

    def _decide(self, tick: Tick, app: str) -> None:
        policy = self._settings.policies.get(app, Policy())
        alarms = self._book.entries(app=app)
        if policy.action == "observe" or not alarms:
            return
        situation = self._actuator.situation(app)
        decision = decide(app, alarms, policy, situation)
        tick.decided[app] = decision.why
        if decision.declined:
            self._decline(app, policy, decision)
        else:
            self._declined.pop(app, None)
        if self._actions.put(decision, situation):
            mode = "would (dry run)" if decision.dry_run else "will"
            logger.warning("%s: %s %s of %s: %s", app, mode, decision.action, decision.release, decision.why)

    def _decline(self, app: str, policy: Policy, decision: Decision) -> None:
        """Says once, in the log and in the alerts of the alarms, why the policy does nothing about them."""
        told = {"wanted": policy.action, "done": None, "dry_run": policy.dry_run, "why": decision.why}
        self._outbox.add_decision(app, told)
        why = (policy.action, decision.why, tuple(alarm.id for alarm in decision.declined))
        if self._declined.get(app) != why:
            self._declined[app] = why
            alarms = ", ".join(str(alarm.id) for alarm in decision.declined)
            logger.warning("%s: no %s for alarm %s: %s", app, policy.action, alarms, decision.why)

    def _deliver(self, tick: Tick) -> None:
        sent = self._outbox.send_due(self._stop.is_set)
        tick.delivered = sent.delivered
        for error in sent.errors:
            logger.warning("alert not delivered: %s", error)
        if sent.given_up:
            logger.error("%d alerts could not be delivered and are given up", sent.given_up)

    def _expose(self) -> None:
        path = self._settings.alerts.prometheus.textfile
        if path:
            actions, counts = read_actions(self._engine, limit=1000), stage_counts(self._engine)
            deliveries = self._outbox.deliveries()
            write_textfile(Path(path), exposition(self._book.entries(), deliveries, actions, counts, self._now()))

    def _carry_out_slow(self) -> None:
        carry_out = partial(self._actions.carry_out_due, slow=True)
        for action in self._slow_stages.run("slow actions", carry_out) or ():
            _log_action(action)
        self._slow_stages.keep()

    def _renew(self, ended: threading.Event) -> None:
        """Renews lease and claims, also while a tick takes longer than they last."""
        while not ended.wait(self._settings.lease_seconds / 3):
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

    def _close(self) -> None:
        """Lets others take over at once."""
        if self._slow is not None:
            self._slow.join(_END_SECONDS)
        self._holding = False
        try:
            self._actions.release_claims()
            self._lease.give_back()
        except LlmopsError as error:
            logger.warning("lease not given back: %s; it ends by itself", error)


class Stages:
    """Runs the parts of a tick, each alone, and counts them in the database.

    now: the time, in seconds. should_stop: whether no more of them are to run. failed: gets the names of those that
    fail.
    """

    def __init__(
        self, engine: sa.Engine, now: Callable[[], float], should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._engine, self._now, self._should_stop = engine, now, should_stop
        self._runs: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        self.failed: list[str] = []

    def run(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where it failed, which is logged and counted, or where no more are to run."""
        if self._should_stop():
            return None
        self._runs[name] += 1
        try:
            return work()
        except LlmopsError as error:
            self._errors[name] = str(error)
            logger.warning("%s failed: %s", name, error)
        except Exception as error:
            self._errors[name] = f"unexpected {type(error).__name__}: {error}"
            logger.exception("%s failed", name)
        self._failures[name] += 1
        self.failed.append(name)
        return None

    def keep(self) -> None:
        """Adds what was counted to the database; where that fails, it is logged and kept for the next time."""
        table, now = daemon_stages, self._now()
        try:
            with alone(self._engine) as connection:
                for name, runs in sorted(self._runs.items()):
                    failures, told = self._failures[name], self._errors.get(name)
                    error = {} if told is None else {"last_failure_at": now, "last_error": told}
                    grown = {"runs": table.c.runs + runs, "failures": table.c.failures + failures}
                    update = sa.update(table).where(table.c.stage == name).values(**grown, last_run_at=now, **error)
                    if not connection.execute(update).rowcount:
                        values = {"stage": name, "runs": runs, "failures": failures, "last_run_at": now, **error}
                        connection.execute(sa.insert(table).values(values))
        except LlmopsError as error:
            logger.warning("counts of the tick's parts not kept: %s", error)
            return
        self._runs.clear()
        self._failures.clear()
        self._errors.clear()


def _log(tick: Tick) -> None:
    """The process's own log of a tick: alarms and actions as warnings, a quiet tick for those who look closely."""
    for booked in tick.booked:
        for entry in booked.opened:
            logger.warning("alarm %d: %s of %s: %s", entry.id, entry.what, entry.release or entry.app, entry.why)
        for entry in booked.resolved:
            logger.info("alarm %d is over: %s of %s", entry.id, entry.what, entry.release or entry.app)
    for action in tick.acted:
        _log_action(action)
    if tick.ingested or tick.delivered:
        logger.info("%d new rows, %d alerts delivered", tick.ingested, tick.delivered)


def _log_action(action: MonitorAction) -> None:
    mode, outcome = " (dry run)" if action.dry_run else "", dict(action.outcome or {})
    logger.warning("%s of %s%s: %s: %s", action.kind, action.release, mode, action.status, outcome)
