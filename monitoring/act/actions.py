"""Actions: claimed, carried out and recorded, each once, by whichever daemon is there.

    decided ── claim ──▶ claimed ── actuator ──▶ acted ── recorded in MLflow ──▶ done
                            │ a transient error: tried again, ever more rarely
                            └ any other error, or too many of them ──▶ failed

A claim that its holder does not renew ends, and another daemon goes on from the last status: the actuator is asked
again only for what may not have happened, and must then find it done.
"""

from __future__ import annotations

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
from monitoring.act.action_tables import alone, ensure_tables, tested_windows
from monitoring.act.action_tables import monitor_actions as table
from monitoring.act.alerts.message import row_links, run_url
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings
from monitoring.act.clocks import is_due
from monitoring.act.policy import Action, Decision, Policy, Situation
from monitoring.store.database import reading

logger = logging.getLogger("llmops.monitoring")

CLAIM_SECONDS, SLOW_CLAIM_SECONDS = 30.0, 300.0
MOST_ATTEMPTS = 8
_MOST_ALERT_ID = 200
FIRST_PAUSE_SECONDS = 5.0
_LONGEST_CLAIM_SECONDS = max(SLOW_CLAIM_SECONDS, FIRST_PAUSE_SECONDS * 2.0**MOST_ATTEMPTS)
SLOW: frozenset[str] = frozenset({"re-evaluate", "retrain"})
"""Actions that may take minutes or hours."""


class Interrupted(StoreUnavailable):
    """The action was stopped because the daemon ends; the next one begins it anew."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """One action to carry out. evidence: alarms, situation and verdict that led to it, as JSON. policy: the app's."""

    key: str
    app: str
    action: Action
    release: str
    why: str
    dry_run: bool
    evidence: Mapping[str, Any]
    policy: Policy


class Actuator(Protocol):
    """What acts on the registry, and records.

    Each of the four actions may be asked for again after a crash, and then does only what is missing. It returns what
    it did, in words and numbers (JSON). Raises LlmopsError; StoreUnavailable where trying again may help.
    """

    def situation(self, app: str) -> Situation: ...

    def stop_canary(self, order: ActionRequest) -> Mapping[str, Any]: ...

    def roll_back(self, order: ActionRequest) -> Mapping[str, Any]: ...

    def re_evaluate(self, order: ActionRequest) -> Mapping[str, Any]: ...

    def retrain(self, order: ActionRequest) -> Mapping[str, Any]: ...

    def record(self, order: ActionRequest, outcome: Mapping[str, Any]) -> str | None:
        """Puts the action on record with its evidence, once for each key; returns the id of its run in MLflow."""
        ...


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """An action on the books."""

    order: ActionRequest
    status: str
    outcome: Mapping[str, Any] | None
    attempts: int
    decided_at: datetime
    finished_at: datetime | None
    run_id: str | None

    def to_json(self) -> dict[str, Any]:
        order = {name: getattr(self.order, name) for name in ("key", "app", "action", "release", "why", "dry_run")}
        return {
            **order,
            "status": self.status,
            "outcome": dict(self.outcome) if self.outcome is not None else None,
            "attempts": self.attempts,
            "decided_at": self.decided_at.isoformat(),
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "run_id": self.run_id,
        }


class Actions:
    """Takes decisions to their end.

    holder: names this process. policies: of each app, as configured now. now: the time, in seconds.
    """

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

    def claim(self, decision: Decision, situation: Situation) -> bool:
        """Puts a decision on the books, claimed by this process; False where it was put there before."""
        if decision.action is None:
            return False
        first, last = decision.alarms[0].id, decision.alarms[-1].id
        same = (table.c.app == decision.app, table.c.action == decision.action,
                table.c.release == decision.release, table.c.dry_run == decision.dry_run)  # fmt: skip
        with alone(self._engine) as connection:
            # An action answers the alarms that came while its own lasted, too.
            answered = sa.select(table.c.key).where(*same, table.c.through >= first)
            known = connection.execute(answered.order_by(table.c.through.desc()).limit(1)).scalar()
            if known is not None:
                grown = sa.update(table).where(table.c.key == known, table.c.through < last)
                connection.execute(grown.values(through=last))
                return False
            evidence = {
                "alarms": [alarm.to_json() for alarm in decision.alarms],
                "situation": situation.to_json(),
                "verdict": _newest_verdict(connection, decision.app),
            }
            values = {
                "key": decision.key, "app": decision.app, "action": decision.action, "release": decision.release,
                "dry_run": decision.dry_run, "first_alarm": first, "through": last, "status": "claimed",
                "why": decision.why, "evidence": evidence, "attempts": 0, "decided_at": self._now(),
                "claimed_by": self._holder, "claimed_until": self._now(),
            }  # fmt: skip
            connection.execute(sa.insert(table).values(values))
        return True

    def carry_out_due(self, *, slow: bool) -> list[ActionRecord]:
        """Carries out what is claimed by nobody, or by one whose claim has ended; returns what came to an end.

        slow: the actions of `SLOW` instead of the others.
        """
        ended = []
        for key in self._due(slow):
            record = self._take(key, SLOW_CLAIM_SECONDS if slow else CLAIM_SECONDS)
            if record is not None and (end := self._carry_out(record)) is not None:
                ended.append(end)
        return ended

    def are_due(self, *, slow: bool) -> bool:
        """Whether `carry_out_due` has anything to do."""
        return bool(self._due(slow))

    def renew_claims(self) -> None:
        """Keeps what this process is at from being taken up by others; to be called while a slow action runs."""
        mine = (table.c.claimed_by == self._holder, table.c.finished_at.is_(None), table.c.claimed_until > self._now())
        with alone(self._engine) as connection:
            busy = sa.update(table).where(*mine, table.c.action.in_(SLOW))
            connection.execute(busy.values(claimed_until=self._now() + SLOW_CLAIM_SECONDS))

    def release_claims(self) -> None:
        """Lets others take up at once what this process leaves undone."""
        mine = (table.c.claimed_by == self._holder, table.c.finished_at.is_(None))
        with alone(self._engine) as connection:
            connection.execute(sa.update(table).where(*mine).values(claimed_until=self._now()))

    def _due(self, slow: bool) -> list[str]:
        kind = table.c.action.in_(SLOW) if slow else table.c.action.not_in(SLOW)
        query = sa.select(table.c.key).where(table.c.finished_at.is_(None), self._claimable(), kind)
        with reading(self._engine) as connection:
            return list(connection.execute(query.order_by(table.c.decided_at)).scalars())

    def _claimable(self) -> sa.ColumnElement[bool]:
        return is_due(table.c.claimed_until, self._now(), _LONGEST_CLAIM_SECONDS)

    def _take(self, key: str, seconds: float) -> ActionRecord | None:
        due = (table.c.key == key, table.c.finished_at.is_(None), self._claimable())
        mine = {
            "claimed_by": self._holder,
            "claimed_until": self._now() + seconds,
            "attempts": table.c.attempts + 1,
        }
        with alone(self._engine) as connection:
            row = connection.execute(sa.update(table).where(*due).values(mine).returning(table)).one_or_none()
        return None if row is None else self._record(row)

    def _carry_out(self, record: ActionRecord) -> ActionRecord | None:
        order = record.order
        try:
            outcome = record.outcome
            if outcome is None:
                outcome = self._act(order)
                self._note(order.key, status="acted", outcome=dict(outcome))
            run_id = self._actuator.record(order, outcome)
        except (StoreUnavailable, EngineUnavailable) as error:
            return self._try_again(record, error)
        except LlmopsError as error:
            return self._end(order, "failed", {"error": str(error)})
        except Exception as error:
            logger.exception("%s of %s failed unexpectedly", order.action, order.release)
            return self._end(order, "failed", {"error": f"unexpected {type(error).__name__}: {error}"})
        return self._end(order, "done", outcome, run_id)

    def _act(self, order: ActionRequest) -> Mapping[str, Any]:
        if order.dry_run:
            return {"would": f"{order.action} of {order.release}"}
        actions: dict[str, Callable[[ActionRequest], Mapping[str, Any]]] = {
            "stop-canary": self._actuator.stop_canary,
            "rollback": self._actuator.roll_back,
            "re-evaluate": self._actuator.re_evaluate,
            "retrain": self._actuator.retrain,
        }
        return actions[order.action](order)

    def _try_again(self, record: ActionRecord, error: LlmopsError) -> ActionRecord | None:
        if isinstance(error, Interrupted):
            self._note(record.order.key, claimed_until=self._now(), attempts=record.attempts - 1)
            return None
        logger.warning("%s of %s, attempt %d: %s", record.order.action, record.order.release, record.attempts, error)
        if record.attempts >= MOST_ATTEMPTS:
            acted = record.outcome or self._outcome(record.order.key)
            status = "failed" if acted is None else "done"  # then only its record in MLflow is missing
            return self._end(record.order, status, {**(acted or {}), "error": str(error)})
        self._note(record.order.key, claimed_until=self._now() + FIRST_PAUSE_SECONDS * 2.0 ** (record.attempts - 1))
        return None

    def _outcome(self, key: str) -> Mapping[str, Any] | None:
        with reading(self._engine) as connection:
            found: Mapping[str, Any] | None = connection.execute(
                sa.select(table.c.outcome).where(table.c.key == key)
            ).scalar_one()
            return found

    def _note(self, key: str, **values: Any) -> None:
        with alone(self._engine) as connection:
            connection.execute(sa.update(table).where(table.c.key == key).values(values))

    def _end(
        self, order: ActionRequest, status: str, outcome: Mapping[str, Any], run_id: str | None = None
    ) -> ActionRecord | None:
        """Notes the end and tells of it in one transaction; None where another process was first."""
        values = {"status": status, "outcome": dict(outcome), "finished_at": self._now(), "run_id": run_id}
        with alone(self._engine) as connection:
            unfinished = (table.c.key == order.key, table.c.finished_at.is_(None))
            row = connection.execute(sa.update(table).where(*unfinished).values(values).returning(table)).one_or_none()
            if row is None:
                return None
            record = self._record(row)
            self._outbox.put(connection, alert_of_action(record, self._settings))
        return record

    def _record(self, row: sa.Row[Any]) -> ActionRecord:
        return _record(row, self._policies.get(row.app, Policy()))


def read_actions(engine: sa.Engine, *, app: str | None = None, limit: int = 50) -> list[ActionRecord]:
    """Actions, newest first. Raises StoreUnavailable."""
    query = sa.select(table).order_by(table.c.decided_at.desc()).limit(limit)
    query = query if app is None else query.where(table.c.app == app)
    with reading(engine) as connection:
        return [_record(row, Policy()) for row in connection.execute(query)]


def evidence_folder(home: Path) -> Path:
    """Where retrain commands find what they are asked for: a JSON file for each order."""
    return home / "monitor" / "evidence"


def alert_of_action(record: ActionRecord, settings: AlertSettings) -> dict[str, Any]:
    """The alert of an action that came to its end, in the shape of `monitoring.act.alerts.message`."""
    order = record.order
    rows = [request_id for alarm in order.evidence["alarms"] for request_id in alarm["rows"]]
    return {
        "id": _alert_id(order.key),
        "event": "action",
        "app": order.app,
        "release": order.release,
        "action": order.action,
        "dry_run": order.dry_run,
        "succeeded": record.status == "done",
        "why": order.why,
        "outcome": dict(record.outcome or {}),
        "rows": row_links(settings, list(dict.fromkeys(rows))[:20]),
        "run_url": run_url(settings, record.run_id),
    }


def _alert_id(key: str) -> str:
    """As readable as fits into the outbox, whose database refuses more."""
    shown = f"action-{key.replace('/', '-').replace('@', '-')}"
    return shown if len(shown) <= _MOST_ALERT_ID else f"{shown[: _MOST_ALERT_ID - 17]}-{content_hash(key)[:16]}"


def _newest_verdict(connection: sa.Connection, app: str) -> Any:
    query = sa.select(tested_windows.c.result).where(tested_windows.c.app == app)
    return connection.execute(query.order_by(tested_windows.c.until.desc()).limit(1)).scalar()


def _record(row: sa.Row[Any], policy: Policy) -> ActionRecord:
    order = ActionRequest(row.key, row.app, row.action, row.release, row.why, row.dry_run, row.evidence, policy)
    finished = None if row.finished_at is None else datetime.fromtimestamp(row.finished_at, UTC)
    decided = datetime.fromtimestamp(row.decided_at, UTC)
    return ActionRecord(order, row.status, row.outcome, row.attempts, decided, finished, row.run_id)
