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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import sqlalchemy as sa

from llmops.errors import CannotRun, LlmopsError
from monitoring.act.action_tables import alone, ensure_tables, tested_windows
from monitoring.act.actions import ActionRecord, Actions, Actuator, read_actions
from monitoring.act.alarm_book import AlarmBook, Booked, Finding, findings_of
from monitoring.act.alerts.channel import Channel
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.prometheus import exposition, write_textfile
from monitoring.act.alerts.settings import AlertSettings
from monitoring.act.clocks import was_noted
from monitoring.act.lease import Lease
from monitoring.act.policy import Decision, Policy, decide
from monitoring.act.schedule import WindowSchedule
from monitoring.daemon.stages import Stages
from monitoring.store.database import reading, upsert

if TYPE_CHECKING:
    from monitoring.decide.result import MonitorResult

logger = logging.getLogger("llmops.monitoring")

LEASE_SECONDS = 45.0
_END_SECONDS = 10.0
"""How long a slow action gets to end after SIGTERM."""

T = TypeVar("T")


class Work(Protocol):
    """What a tick looks with. Every method raises LlmopsError."""

    def ingest(self) -> int:
        """Describes the log's new rows; returns how many."""
        ...

    def apps(self) -> Sequence[str]: ...

    def advance(self, app: str) -> Sequence[Finding]:
        """Takes the sequential detectors over the app's new rows; what has crossed its bound."""
        ...

    def test_window(self, app: str, since: datetime, until: datetime) -> MonitorResult: ...

    def retain(self) -> None:
        """Deletes what is older than the settings say; nothing when they say nothing."""
        ...


@dataclass
class Tick:
    """What one tick did. alarms: that last at its end. failed: parts of it that failed."""

    ingested: int = 0
    alarms: int = 0
    booked: list[Booked] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    acted: list[ActionRecord] = field(default_factory=list)
    delivered: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DaemonSettings:
    """What a daemon is to do. record: puts a window's verdict on record in MLflow and returns the run's id.

    every: seconds between two ticks. lease_seconds: after which another daemon takes over from one that died.
    """

    alerts: AlertSettings
    policies: Mapping[str, Policy]
    channels: Sequence[Channel]
    schedule: WindowSchedule
    record: Callable[[MonitorResult], str | None]
    every: float = 60.0
    lease_seconds: float = LEASE_SECONDS


class Daemon:
    """One daemon of possibly several on a database. now: the time, in seconds."""

    def __init__(
        self,
        engine: sa.Engine,
        work: Work,
        actuator: Actuator,
        daemon_settings: DaemonSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        ensure_tables(engine)
        self._engine, self._work, self._actuator, self._settings, self._now = (
            engine,
            work,
            actuator,
            daemon_settings,
            now,
        )
        self.holder = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._outbox = Outbox(engine, daemon_settings.channels, daemon_settings.alerts.give_up_after, now)
        self._book = AlarmBook(engine, daemon_settings.alerts, self._outbox)
        self._actions = Actions(
            engine, actuator, self._outbox, daemon_settings.alerts, daemon_settings.policies, self.holder, now
        )
        self._lease = Lease(engine, "monitor daemon", self.holder, daemon_settings.lease_seconds)
        self._stop = threading.Event()
        self._slow: threading.Thread | None = None
        self._stages, self._slow_stages = Stages(engine, now), Stages(engine, now)
        self._holding = False
        self._declined: dict[str, tuple[object, ...]] = {}  # what was said last of a policy that does nothing
        self._untestable: dict[tuple[str, datetime], float] = {}  # and when that was found

    def run(self, stop: threading.Event, *, once: bool = False) -> Tick | None:
        """Ticks until `stop` is set; with `once`, one tick, slow actions included. Returns the last tick.

        While another daemon holds the lease it waits; `once` then does nothing and returns None.
        """
        self._stop = stop
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended,), name="monitor lease", daemon=True)
        beat.start()
        last: Tick | None = None
        waiting = False
        try:
            while not stop.is_set():
                began = time.monotonic()
                if self._holds_lease():
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
            beat.join(_END_SECONDS)
        return last

    def tick(self, *, slow_too: bool = False) -> Tick:
        """One tick. slow_too: waits for slow actions, instead of leaving them to a thread."""
        tick = Tick()
        tick.ingested = self._stage(tick, "ingest", self._work.ingest) or 0
        for app in self._stage(tick, "apps", self._work.apps) or ():
            self._stage(tick, "sequential", partial(self._advance, tick, app))
            self._stage(tick, "window", partial(self._test_window, tick, app))
            self._stage(tick, "decide", partial(self._decide, tick, app))
        tick.acted += self._stage(tick, "act", partial(self._actions.carry_out_due, slow=False)) or ()
        if slow_too:
            tick.acted += self._stage(tick, "act", partial(self._actions.carry_out_due, slow=True)) or ()
        elif self._stage(tick, "act", partial(self._actions.are_due, slow=True)):
            self._start_slow()
        self._stage(tick, "alerts", partial(self._deliver, tick))
        self._stage(tick, "retention", self._work.retain)
        tick.alarms = len(self._stage(tick, "book", self._book.entries) or ())
        self._stage(tick, "prometheus", self._expose)
        self._stages.keep()
        _tell(tick)
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
        if was_noted(self._untestable.get((app, until), math.inf), self._now()) or self._was_tested(app, until):
            return
        try:
            result = self._work.test_window(app, since, until)
        except CannotRun as error:
            if type(error) is not CannotRun:
                raise
            self._untestable[app, until] = self._now()  # such as a first window, with nothing before it to compare with
            logger.info("%s: window until %s: %s", app, until.isoformat(), error)
            return
        run_id = self._stage(tick, "record", partial(self._settings.record, result))
        source = f"window until {until.isoformat()}"
        closes = None if result.state == "too-few-rows" else since
        # The detectors' alarms are booked when they come, at a tick.
        found = list(findings_of(result, leave_out=("sequential",)))
        tick.booked.append(self._book.record(app, source, found, until, closes=closes, run_id=run_id))
        values = {
            "app": app, "until": until.timestamp(), "since": since.timestamp(), "tested_at": self._now(),
            "state": result.state, "run_id": run_id, "result": result.to_json(),
        }  # fmt: skip
        with alone(self._engine) as connection:
            upsert(connection, tested_windows, [values], ("since", "tested_at", "state", "run_id", "result"))
        logger.info("%s: window until %s: %s", app, until.isoformat(), result.note or result.state)

    def _was_tested(self, app: str, until: datetime) -> bool:
        """By a clock that was right: one that was ahead has tested windows before they came."""
        same = (tested_windows.c.app == app, tested_windows.c.until == until.timestamp())
        with reading(self._engine) as connection:
            tested_at = connection.execute(sa.select(tested_windows.c.tested_at).where(*same)).scalar()
        return tested_at is not None and was_noted(tested_at, self._now())

    def _decide(self, tick: Tick, app: str) -> None:
        policy = self._settings.policies.get(app, Policy())
        alarms = self._book.entries(app=app)
        if policy.action == "observe" or not alarms:
            return
        situation = self._actuator.situation(app)
        decision = decide(app, alarms, policy, situation)
        tick.decided[app] = decision.why
        self._tell_declined(app, policy, decision)
        if self._actions.claim(decision, situation):
            mode = "would (dry run)" if decision.dry_run else "will"
            logger.warning("%s: %s %s of %s: %s", app, mode, decision.action, decision.release, decision.why)

    def _tell_declined(self, app: str, policy: Policy, decision: Decision) -> None:
        """Says once, in the log and in the alerts of the alarms, why the policy does nothing about them."""
        if not decision.declined:
            self._declined.pop(app, None)
            return
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
            actions = read_actions(self._engine, limit=1000)
            text = exposition(
                self._book.entries(), self._outbox.deliveries(), actions, self._stages.counts(), self._now()
            )
            write_textfile(Path(path), text)

    def _stage(self, tick: Tick, name: str, work: Callable[[], T]) -> T | None:
        """Runs a part of a tick; None where it failed, or where the daemon is to end."""
        if self._stop.is_set():
            return None
        value, failed = self._stages.run(name, work)
        if failed:
            tick.failed.append(name)
        return value

    def _start_slow(self) -> None:
        """Leaves slow actions to a thread of their own, one at a time: the detectors go on meanwhile."""
        if self._slow is None or not self._slow.is_alive():
            self._slow = threading.Thread(target=self._carry_out_slow, name="monitor actions", daemon=True)
            self._slow.start()

    def _carry_out_slow(self) -> None:
        ended, _ = self._slow_stages.run("slow actions", lambda: self._actions.carry_out_due(slow=True))
        self._slow_stages.keep()
        for record in ended or ():
            _tell_action(record)

    def _beat(self, ended: threading.Event) -> None:
        """Renews lease and claims, also while a tick takes longer than they last."""
        while not ended.wait(self._settings.lease_seconds / 3):
            try:
                if self._holding:
                    self._holding = self._lease.take()
                    self._actions.renew_claims()
            except LlmopsError as error:
                logger.warning("lease not renewed: %s", error)

    def _holds_lease(self) -> bool:
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


def _tell(tick: Tick) -> None:
    """The process's own log of a tick: alarms and actions as warnings, a quiet tick for those who look closely."""
    for booked in tick.booked:
        for entry in booked.opened:
            logger.warning("alarm %d: %s of %s: %s", entry.id, entry.what, entry.release or entry.app, entry.why)
        for entry in booked.resolved:
            logger.info("alarm %d is over: %s of %s", entry.id, entry.what, entry.release or entry.app)
    for record in tick.acted:
        _tell_action(record)
    if tick.ingested or tick.delivered:
        logger.info("%d new rows, %d alerts delivered", tick.ingested, tick.delivered)


def _tell_action(record: ActionRecord) -> None:
    order = record.order
    mode = " (dry run)" if order.dry_run else ""
    logger.warning("%s of %s%s: %s: %s", order.action, order.release, mode, record.status, dict(record.outcome or {}))
