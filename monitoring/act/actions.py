"""Actions: queued, carried out and recorded, each once, by whichever daemon is there.

    decided ── queued ──▶ claimed ── actuator ──▶ acted ── recorded in MLflow ──▶ done
                             │ a transient error: tried again, ever more rarely
                             └ any other error, or too many of them ──▶ failed

A claim that its holder does not renew ends, and another daemon goes on from the last status: the actuator is asked
again only for what may not have happened, and must then find it done.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from llmops.errors import EngineUnavailable, LlmopsError, StoreUnavailable
from llmops.hashing import content_hash
from llmops.text_io import json_fields
from monitoring.act.action_tables import change, ensure_tables, is_due, tested_windows
from monitoring.act.action_tables import monitor_actions as table
from monitoring.act.alerts import AlertSettings
from monitoring.act.outbox import Outbox
from monitoring.act.policy import Action, Decision, Policy, Situation
from monitoring.store.database import reading, writing_alone

logger = logging.getLogger("llmops.monitoring")

CLAIM_SECONDS, SLOW_CLAIM_SECONDS = 30.0, 300.0
MOST_ATTEMPTS = 8
FIRST_PAUSE_SECONDS = 5.0
_LONGEST_CLAIM_SECONDS = max(SLOW_CLAIM_SECONDS, FIRST_PAUSE_SECONDS * 2.0**MOST_ATTEMPTS)
_MOST_ALERT_ID = 200
SLOW: frozenset[str] = frozenset({"re-evaluate", "retrain"})
"""Actions that may take minutes or hours."""


class Interrupted(StoreUnavailable):
    """The action was stopped because the daemon ends; the next one begins it anew."""


@dataclass(frozen=True, slots=True)
class MonitorAction:
    """An action on the books.

    evidence: alarms, situation and verdict that led to it, as JSON.
    policy: the app's, as configured now.
    status: `claimed` until the effect is there, then `acted`; at the end `done` or `failed`.
    """

    key: str
    app: str
    kind: Action
    release: str
    why: str
    dry_run: bool
    evidence: Mapping[str, Any]
    policy: Policy
    status: str = "claimed"
    outcome: Mapping[str, Any] | None = None
    attempts: int = 0
    decided_at: datetime | None = None
    finished_at: datetime | None = None
    run_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Without evidence and policy, times as ISO texts."""
        values = json_fields(self)
        shown = {name: value for name, value in values.items() if name not in ("kind", "evidence", "policy")}
        return {**shown, "action": self.kind}


class Actuator(Protocol):
    """What acts on the registry, and records."""

    def situation(self, app: str) -> Situation:
        """Who serves the app."""
        ...

    def carry_out(self, action: MonitorAction) -> Mapping[str, Any]:
        """Acts: what it did, in words and numbers (JSON).

        An action may be asked for again after a crash; then only what is missing of it is done.

        Raises LlmopsError; StoreUnavailable where trying again may help.
        """
        ...

    def record(self, action: MonitorAction, outcome: Mapping[str, Any]) -> str | None:
        """Puts the action on record with its evidence, once for each key; returns the id of its run in MLflow."""
        ...


class ActionQueue:
    """Takes decisions to their end. policies: of each app. holder: names this process. now: the time, in seconds."""

    def __init__(
        self,
        engine: sa.Engine,
        actuator: Actuator,
        outbox: Outbox,
        settings: AlertSettings,
        policies: Mapping[str, Policy],
        holder: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        ensure_tables(engine)
        self._engine, self._actuator, self._outbox = engine, actuator, outbox
        self._settings, self._policies, self._holder, self._now = settings, policies, holder, now

    def put(self, decision: Decision, situation: Situation) -> bool:
        """Queues the action of a decision; False where it was queued before, or where there is none."""
        if decision.action is None:
            return False
        first, last = decision.alarms[0].id, decision.alarms[-1].id
        same = {name: getattr(decision, name) for name in ("app", "action", "release", "dry_run")}
        with writing_alone(self._engine) as connection:
            # An action answers the alarms that came while its own lasted, too.
            answered = sa.select(table.c.key).filter_by(**same).where(table.c.through >= first)
            known = connection.execute(answered.order_by(table.c.through.desc()).limit(1)).scalar()
            if known is not None:
                change(connection, table, {"through": last}, table.c.key == known, table.c.through < last)
                return False
            tested = sa.select(tested_windows.c.result).where(tested_windows.c.app == decision.app)
            evidence = {
                "alarms": [alarm.to_json() for alarm in decision.alarms],
                "situation": json_fields(situation),
                "verdict": connection.execute(tested.order_by(tested_windows.c.until.desc()).limit(1)).scalar(),
            }
            queued = sa.insert(table).values(
                **same,
                key=decision.key,
                first_alarm=first,
                through=last,
                status="claimed",
                why=decision.why,
                evidence=evidence,
                attempts=0,
                decided_at=self._now(),
                claimed_by=self._holder,
                claimed_until=self._now(),
            )
            connection.execute(queued)
        return True

    def due(self, *, slow: bool) -> list[str]:
        """Keys of the actions that nobody has claimed, or whose claim has ended, the oldest first.

        slow: the actions of `SLOW` instead of the others.
        """
        kind = table.c.action.in_(SLOW) if slow else table.c.action.not_in(SLOW)
        query = sa.select(table.c.key).where(table.c.finished_at.is_(None), self._claimable(), kind)
        with reading(self._engine) as connection:
            return list(connection.execute(query.order_by(table.c.decided_at)).scalars())

    def carry_out_due(self, *, slow: bool) -> list[MonitorAction]:
        """Claims and carries out the actions that are `due`; returns what came to an end."""
        seconds, ended = SLOW_CLAIM_SECONDS if slow else CLAIM_SECONDS, []
        for key in self.due(slow=slow):
            claim = {
                "claimed_by": self._holder,
                "claimed_until": self._now() + seconds,
                "attempts": table.c.attempts + 1,
            }
            row = self._update(key, claim, self._claimable())
            if row is not None and (end := self._carry_out(self._action(row))) is not None:
                ended.append(end)
        return ended

    def renew_claims(self) -> None:
        """Keeps what this process is at from being taken up by others; to be called while a slow action runs."""
        lasting = (table.c.claimed_until > self._now(), table.c.action.in_(SLOW))
        self._claim_until(self._now() + SLOW_CLAIM_SECONDS, *lasting)

    def release_claims(self) -> None:
        """Lets others take up at once what this process leaves undone."""
        self._claim_until(self._now())

    def _claim_until(self, moment: float, *where: sa.ColumnElement[bool]) -> None:
        mine = (table.c.claimed_by == self._holder, table.c.finished_at.is_(None), *where)
        with writing_alone(self._engine) as connection:
            connection.execute(sa.update(table).where(*mine).values(claimed_until=moment))

    def _claimable(self) -> sa.ColumnElement[bool]:
        return is_due(table.c.claimed_until, self._now(), _LONGEST_CLAIM_SECONDS)

    def _carry_out(self, action: MonitorAction) -> MonitorAction | None:
        """Acts, and records it; what came to an end, None for what is to be tried again."""
        outcome, run_id = action.outcome, None
        try:
            if outcome is None:
                would = {"would": f"{action.kind} of {action.release}"}
                outcome = would if action.dry_run else self._actuator.carry_out(action)
                self._update(action.key, {"status": "acted", "outcome": dict(outcome)})
            run_id = self._actuator.record(action, outcome)
            status = "done"
        except Interrupted:
            self._update(action.key, {"claimed_until": self._now(), "attempts": action.attempts - 1})
            return None
        except (StoreUnavailable, EngineUnavailable) as error:
            logger.warning("%s of %s, attempt %d: %s", action.kind, action.release, action.attempts, error)
            if action.attempts < MOST_ATTEMPTS:
                pause = FIRST_PAUSE_SECONDS * 2.0 ** (action.attempts - 1)
                self._update(action.key, {"claimed_until": self._now() + pause})
                return None
            status = "failed" if outcome is None else "done"  # then only its record in MLflow is missing
            outcome = {**(outcome or {}), "error": str(error)}
        except LlmopsError as error:
            status, outcome = "failed", {"error": str(error)}
        except Exception as error:
            logger.exception("%s of %s failed unexpectedly", action.kind, action.release)
            status, outcome = "failed", {"error": f"unexpected {type(error).__name__}: {error}"}
        # The end and the alert that tells of it are one transaction.
        end = {"status": status, "outcome": dict(outcome), "finished_at": self._now(), "run_id": run_id}
        with writing_alone(self._engine) as connection:
            row = change(connection, table, end, table.c.key == action.key, table.c.finished_at.is_(None))
            if row is None:  # another process was first
                return None
            ended = self._action(row)
            self._outbox.put(connection, alert_of_action(ended, self._settings))
        return ended

    def _update(self, key: str, values: Mapping[str, Any], *where: sa.ColumnElement[bool]) -> sa.Row[Any] | None:
        """Changes an unfinished action; the new row, None where the conditions do not hold."""
        with writing_alone(self._engine) as connection:
            return change(connection, table, values, table.c.key == key, table.c.finished_at.is_(None), *where)

    def _action(self, row: sa.Row[Any]) -> MonitorAction:
        return _action(row, self._policies.get(row.app, Policy()))


def read_actions(engine: sa.Engine, *, app: str | None = None, limit: int = 50) -> list[MonitorAction]:
    """Actions, newest first. Raises StoreUnavailable."""
    query = sa.select(table).order_by(table.c.decided_at.desc()).limit(limit)
    query = query if app is None else query.where(table.c.app == app)
    with reading(engine) as connection:
        return [_action(row, Policy()) for row in connection.execute(query)]


def evidence_folder(home: Path) -> Path:
    """Where retrain commands find what they are asked for: a JSON file for each action."""
    return home / "monitor" / "evidence"


def alert_of_action(action: MonitorAction, settings: AlertSettings) -> dict[str, Any]:
    """The alert of an action that came to its end, in the shape of docs/alerts.md."""
    rows = [request_id for alarm in action.evidence["alarms"] for request_id in alarm["rows"]]
    # As readable as fits into the outbox, whose database refuses more.
    alert_id = f"action-{action.key.replace('/', '-').replace('@', '-')}"
    if len(alert_id) > _MOST_ALERT_ID:
        alert_id = f"{alert_id[: _MOST_ALERT_ID - 17]}-{content_hash(action.key)[:16]}"
    return {
        "id": alert_id,
        "event": "action",
        "app": action.app,
        "release": action.release,
        "action": action.kind,
        "dry_run": action.dry_run,
        "succeeded": action.status == "done",
        "why": action.why,
        "outcome": dict(action.outcome or {}),
        "rows": settings.row_links(list(dict.fromkeys(rows))[:20]),
        "run_url": settings.run_url(action.run_id),
    }


def _action(row: sa.Row[Any], policy: Policy) -> MonitorAction:
    values = {name: getattr(row, name) for name in MonitorAction.__slots__ if name not in ("kind", "policy")}
    for name in ("decided_at", "finished_at"):
        values[name] = None if values[name] is None else datetime.fromtimestamp(values[name], UTC)
    return MonitorAction(**values, kind=row.action, policy=policy)
