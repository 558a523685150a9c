"""Alerts on their way: written in the transaction that makes them true, delivered afterwards, at least once.

What was written is delivered after a `kill -9` too. An alert may arrive twice when the process dies between the
receiver's answer and the note of it; its id is then the same.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmops.errors import LlmopsError
from llmops.production_log import insert_into
from monitoring.act.action_tables import alert_outbox as table
from monitoring.act.action_tables import change, is_due
from monitoring.act.alerts import Channel, NotDelivered
from monitoring.store.database import reading, writing_alone

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 10.0, 3600.0
_LONGEST_SECONDS = 60.0
_CLAIM_SECONDS = 120.0
"""How long nobody else tries an alert that somebody tries: longer than any attempt can take."""
_AT_ONCE = 100
_TOGETHER_SECONDS = 60.0
"""Alerts put within so long are of one look."""
_LEAST_ATTEMPTS = 3
"""A clock that leaps makes an alert old at once: only one that was tried so often is given up."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one round did. errors: what each failed attempt said. given_up: of those, the last ones of their alert."""

    delivered: int = 0
    given_up: int = 0
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where one channel stands. waiting: alerts not delivered yet; given_up: that never will be."""

    channel: str
    delivered: int
    waiting: int
    given_up: int
    failed_attempts: int
    last_error: str | None


class Outbox:
    """The alerts of one database, and the channels they leave by.

    give_up_after: seconds from an alert's making until no more attempts are made.
    now: the time, in seconds.
    longest: seconds that one attempt may take in all.
    """

    def __init__(
        self,
        engine: sa.Engine,
        channels: Sequence[Channel] = (),
        give_up_after: float = 24 * 3600.0,
        now: Callable[[], float] = time.time,
        longest: float = _LONGEST_SECONDS,
    ) -> None:
        self._engine, self._channels = engine, {channel.name: channel for channel in channels}
        self._give_up_after, self._now, self._longest = give_up_after, now, longest
        self._hanging: dict[str, threading.Thread] = {}

    def put(self, connection: sa.Connection, alert: Mapping[str, Any]) -> None:
        """Writes an alert for every channel that is told of its app, in the caller's transaction; once for each id.

        Alarms that are found by the same look have one cause as a rule: an alert with `parts` becomes further parts of
        one of the same app and event that was put a moment ago and that nobody has tried to deliver yet.
        """
        if "parts" in alert and (waiting := self._waiting(connection, alert["app"], [alert["event"]])):
            for row in waiting:
                known = {part["alarm"] for part in row.payload["parts"]}
                more = [part for part in alert["parts"] if part["alarm"] not in known]
                payload = {**row.payload, "parts": [*row.payload["parts"], *more]}
                change(connection, table, {"payload": payload}, table.c.id == row.id)
            return
        put = {"alert_id": alert["id"], "payload": dict(alert), "created_at": self._now(), "next_try_at": self._now()}
        rows = [
            {**put, "channel": channel.name, "attempts": 0}
            for channel in self._channels.values()
            if not channel.apps or alert["app"] in channel.apps
        ]
        if rows:
            insert = insert_into(connection.dialect, table)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["alert_id", "channel"]), rows)

    def add_decision(self, app: str, decision: Mapping[str, Any]) -> None:
        """Lets alerts of alarms say what the app's policy came to, as far as nobody has tried to deliver them yet.

        Raises StoreUnavailable.
        """
        with writing_alone(self._engine) as connection:
            for row in self._waiting(connection, app, ["opened", "lasting"]):
                payload = {**row.payload, "policy": dict(decision)}
                change(connection, table, {"payload": payload}, table.c.id == row.id)

    def send_due(self, should_stop: Callable[[], bool] = lambda: False) -> Sent:
        """Tries every alert that is due once. A channel that fails is left alone for the rest of the round, so that a
        receiver which hangs costs one time-out. Raises StoreUnavailable."""
        delivered = given_up = 0
        failed: dict[str, str] = {}  # by channel
        with reading(self._engine) as connection:
            query = sa.select(table.c.id, table.c.channel).where(*self._due(), table.c.channel.in_(self._channels))
            due = connection.execute(query.order_by(table.c.id).limit(_AT_ONCE)).all()
        for row_id, channel in due:
            if should_stop():
                break
            if channel in failed:
                continue
            # The attempt counts from here on: one that kills us counts too.
            claim = {"attempts": table.c.attempts + 1, "next_try_at": self._now() + _CLAIM_SECONDS}
            with writing_alone(self._engine) as connection:
                row = change(connection, table, claim, table.c.id == row_id, *self._due())
            if row is None:  # somebody else is at it
                continue
            error = self._attempt(row)
            if error is None:
                delivered += 1
                outcome = {"sent_at": self._now(), "last_error": None}
            else:
                failed[channel] = str(error)
                outcome = self._postponed(row, error)
                given_up += outcome["given_up_at"] is not None
            with writing_alone(self._engine) as connection:
                change(connection, table, outcome, table.c.id == row_id)
        return Sent(delivered, given_up, tuple(failed.values()))

    def deliveries(self) -> list[Delivery]:
        """How every channel fares, by name. Raises StoreUnavailable."""
        sent, given_up = table.c.sent_at.is_not(None), table.c.given_up_at.is_not(None)
        counts = (
            sa.func.sum(sa.case((sent, 1), else_=0)),
            sa.func.sum(sa.case((sent | given_up, 0), else_=1)),
            sa.func.sum(sa.case((given_up, 1), else_=0)),
            sa.func.sum(table.c.attempts - sa.case((sent, 1), else_=0)),
        )
        query = sa.select(table.c.channel, *counts).group_by(table.c.channel).order_by(table.c.channel)
        errors = sa.select(table.c.channel, table.c.last_error).where(table.c.last_error.is_not(None))
        with reading(self._engine) as connection:
            last = dict(connection.execute(errors.order_by(table.c.id)).all())
            return [
                Delivery(name, int(sent), int(waiting), int(over), int(failed), last.get(name))
                for name, sent, waiting, over, failed in connection.execute(query)
            ]

    def _waiting(self, connection: sa.Connection, app: str, events: Sequence[str]) -> list[sa.Row[Any]]:
        """The newest alert of these events that was put a moment ago, as a row for each channel; none where one of
        them was tried: what was said is not changed."""
        now = self._now()
        recent = table.c.created_at.between(now - _TOGETHER_SECONDS, now)
        newest = connection.execute(sa.select(table).where(recent).order_by(table.c.id.desc())).all()
        of_app = [row for row in newest if row.payload["app"] == app and row.payload["event"] in events]
        waiting = [row for row in of_app if "parts" in row.payload and row.alert_id == of_app[0].alert_id]
        return waiting if all(row.attempts == 0 for row in waiting) else []

    def _due(self) -> tuple[sa.ColumnElement[bool], ...]:
        due = is_due(table.c.next_try_at, self._now(), MOST_PAUSE_SECONDS)
        return table.c.sent_at.is_(None), table.c.given_up_at.is_(None), due

    def _attempt(self, row: sa.Row[Any]) -> LlmopsError | None:
        """Sends in a thread, as a server that sends a byte now and then never runs into a socket's time-out. While it
        does so nothing else is tried on its channel."""
        name, raised = row.channel, list[Exception]()
        if (busy := self._hanging.get(name)) is not None and busy.is_alive():
            return NotDelivered(f"{name}: an earlier attempt has not come to its end")

        def send() -> None:
            try:
                self._channels[name].send(row.payload)
            except Exception as error:  # noqa: BLE001 - an alert that cannot be put into words holds up no other
                raised.append(error)

        thread = threading.Thread(target=send, name=f"alert to {name}", daemon=True)
        thread.start()
        thread.join(self._longest)
        if thread.is_alive():
            self._hanging[name] = thread
            return NotDelivered(f"{name}: no end after {self._longest:g} s")
        if not raised:
            return None
        error = raised[0]
        # Without the text of one that is not ours, in which an address or a password may stand.
        return error if isinstance(error, LlmopsError) else NotDelivered(f"{name}: unexpected {type(error).__name__}")

    def _postponed(self, row: sa.Row[Any], error: LlmopsError) -> dict[str, Any]:
        """The columns of an alert after a failed attempt: when it is due again, or that it is given up."""
        now = self._now()
        pause = min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(row.attempts - 1, 20))
        if isinstance(error, NotDelivered) and error.retry_after is not None:
            pause = max(pause, min(error.retry_after, MOST_PAUSE_SECONDS))
        over = row.attempts >= _LEAST_ATTEMPTS and now + pause > row.created_at + self._give_up_after
        return {"next_try_at": now + pause, "last_error": str(error), "given_up_at": now if over else None}
