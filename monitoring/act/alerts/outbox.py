"""Alerts on their way: written in the transaction that makes them true, delivered afterwards, at least once.

What was written is delivered after a `kill -9` too. An alert may arrive twice when the process dies between the
receiver's answer and the note of it; its id is then the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from llmops.errors import LlmopsError
from monitoring.act.action_tables import alert_outbox as table
from monitoring.act.action_tables import alone
from monitoring.act.alerts.channel import Channel, NotDelivered
from monitoring.act.alerts.email import Email
from monitoring.act.alerts.settings import AlertSettings, EmailSettings, SlackSettings
from monitoring.act.alerts.webhook import Slack, Webhook
from monitoring.act.clocks import is_due
from monitoring.store.database import reading

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 10.0, 3600.0
_LONGEST_SECONDS = 60.0
_CLAIM_SECONDS = 120.0
"""How long nobody else tries an alert that somebody tries: longer than any attempt can take."""
_AT_ONCE = 100
_TOGETHER_SECONDS = 60.0
"""Alerts put within so long are of one look."""
_LEAST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """What one round did. errors: what each failed attempt said."""

    delivered: int = 0
    failed: int = 0
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


def make_channels(settings: AlertSettings, variables: Mapping[str, str]) -> tuple[Channel, ...]:
    """The configured channels. variables: the environment variables that `settings.variables` names."""
    made: list[Channel] = []
    for channel in settings.channels:
        if isinstance(channel, EmailSettings):
            made.append(Email(channel, variables))
        elif isinstance(channel, SlackSettings):
            made.append(Slack(channel, variables))
        else:
            made.append(Webhook(channel, variables))
    return tuple(made)


class Outbox:
    """The alerts of one database, and the channels they leave by.

    give_up_after: seconds from an alert's making until no more attempts are made. now: the time, in seconds.
    longest: seconds that one attempt may take in all.
    """

    def __init__(
        self,
        engine: sa.Engine,
        channels: Sequence[Channel],
        give_up_after: float = 24 * 3600.0,
        now: Callable[[], float] = time.time,
        longest: float = _LONGEST_SECONDS,
    ) -> None:
        self._engine, self._channels = engine, {channel.name: channel for channel in channels}
        self._give_up_after, self._now, self._longest = give_up_after, now, longest
        self._hanging: dict[str, threading.Thread] = {}
        insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        self._insert = insert(table).on_conflict_do_nothing(index_elements=["alert_id", "channel"])

    def put(self, connection: sa.Connection, alert: Mapping[str, Any]) -> None:
        """Writes an alert for every channel that is told of its app, in the caller's transaction; once for each id.

        Alarms that are found by the same look have one cause as a rule: an alert with `parts` becomes further parts of
        one of the same app and event that was put a moment ago and that nobody has tried to deliver yet.
        """
        now = self._now()
        if "parts" in alert and (waiting := self._waiting(connection, alert["app"], [alert["event"]])):
            for row in waiting:
                known = {part["alarm"] for part in row.payload["parts"]}
                more = [part for part in alert["parts"] if part["alarm"] not in known]
                self._rewrite(connection, row, {"parts": [*row.payload["parts"], *more]})
            return
        rows = [
            {"alert_id": alert["id"], "channel": channel.name, "payload": dict(alert), "created_at": now,
             "next_try_at": now, "attempts": 0}
            for channel in self._channels.values()
            if not channel.apps or alert["app"] in channel.apps
        ]  # fmt: skip
        if rows:
            connection.execute(self._insert, rows)

    def add_decision(self, app: str, decision: Mapping[str, Any]) -> None:
        """Lets alerts of alarms say what the app's policy came to, as far as nobody has tried to deliver them yet.

        Raises StoreUnavailable.
        """
        with alone(self._engine) as connection:
            for row in self._waiting(connection, app, ["opened", "lasting"]):
                self._rewrite(connection, row, {"policy": dict(decision)})

    def _waiting(self, connection: sa.Connection, app: str, events: Sequence[str]) -> list[sa.Row[Any]]:
        """The newest alert of these events that was put a moment ago, as a row for each channel; none where one of
        them was tried: what was said is not changed."""
        now = self._now()
        recent = table.c.created_at.between(now - _TOGETHER_SECONDS, now)
        newest = connection.execute(sa.select(table).where(recent).order_by(table.c.id.desc())).all()
        of_app = [row for row in newest if row.payload["app"] == app and row.payload["event"] in events]
        waiting = [row for row in of_app if "parts" in row.payload and row.alert_id == of_app[0].alert_id]
        return waiting if all(row.attempts == 0 for row in waiting) else []

    def _rewrite(self, connection: sa.Connection, row: sa.Row[Any], values: Mapping[str, Any]) -> None:
        payload = {**row.payload, **values}
        connection.execute(sa.update(table).where(table.c.id == row.id).values(payload=payload))

    def send_due(self, should_stop: Callable[[], bool] = lambda: False) -> Sent:
        """Tries every alert that is due once. A channel that fails is left alone for the rest of the round, so that a
        receiver which hangs costs one time-out. Raises StoreUnavailable."""
        delivered = failed = given_up = 0
        errors: list[str] = []
        silent: set[str] = set()
        for row_id in self._due():
            if should_stop():
                break
            row = self._claim(row_id, silent)
            if row is None:
                continue
            error = self._attempt(row)
            if error is None:
                delivered += 1
                continue
            silent.add(row.channel)
            failed += 1
            given_up += self._postpone(row, error)
            errors.append(str(error))
        return Sent(delivered, failed, given_up, tuple(errors))

    def deliveries(self) -> list[Delivery]:
        """How every channel fares, by name. Raises StoreUnavailable."""
        sent, given_up = table.c.sent_at.is_not(None), table.c.given_up_at.is_not(None)
        failed = table.c.attempts - sa.case((sent, 1), else_=0)
        counts = (
            sa.func.sum(sa.case((sent, 1), else_=0)),
            sa.func.sum(sa.case((sent | given_up, 0), else_=1)),
            sa.func.sum(sa.case((given_up, 1), else_=0)),
            sa.func.sum(failed),
        )
        query = sa.select(table.c.channel, *counts).group_by(table.c.channel).order_by(table.c.channel)
        errors = sa.select(table.c.channel, table.c.last_error).where(table.c.last_error.is_not(None))
        with reading(self._engine) as connection:
            last = dict(connection.execute(errors.order_by(table.c.id)).all())
            rows = connection.execute(query).all()
        return [
            Delivery(name, int(sent_), int(waiting), int(over), int(failed_), last.get(name))
            for name, sent_, waiting, over, failed_ in rows
        ]

    def _due(self) -> list[int]:
        due = is_due(table.c.next_try_at, self._now(), MOST_PAUSE_SECONDS)
        open_rows = (table.c.sent_at.is_(None), table.c.given_up_at.is_(None), due)
        query = sa.select(table.c.id).where(*open_rows, table.c.channel.in_(self._channels))
        with reading(self._engine) as connection:
            return list(connection.execute(query.order_by(table.c.id).limit(_AT_ONCE)).scalars())

    def _claim(self, row_id: int, silent: set[str]) -> sa.Row[Any] | None:
        """The row, if nobody else is at it. The attempt counts from here on: one that kills us counts too."""
        now = self._now()
        due = (table.c.id == row_id, table.c.sent_at.is_(None), table.c.given_up_at.is_(None))
        with alone(self._engine) as connection:
            may = is_due(table.c.next_try_at, now, MOST_PAUSE_SECONDS)
            row = connection.execute(sa.select(table).where(*due, may)).one_or_none()
            if row is None or row.channel in silent:
                return None
            claim = {"attempts": row.attempts + 1, "next_try_at": now + _CLAIM_SECONDS}
            connection.execute(sa.update(table).where(table.c.id == row_id).values(claim))
            return row

    def _attempt(self, row: sa.Row[Any]) -> LlmopsError | None:
        try:
            self._send(row.channel, row.payload)
        except LlmopsError as error:
            return error
        except Exception as error:  # noqa: BLE001 - an alert that cannot be put into words holds up no other
            # Without its text, in which an address or a password may stand.
            return NotDelivered(f"{row.channel}: unexpected {type(error).__name__}")
        with alone(self._engine) as connection:
            done = {"sent_at": self._now(), "last_error": None}
            connection.execute(sa.update(table).where(table.c.id == row.id).values(done))
        return None

    def _send(self, channel: str, payload: Mapping[str, Any]) -> None:
        """In a thread, as a server that sends a byte now and then never runs into a socket's time-out. While it does so
        nothing else is tried on its channel."""
        if (busy := self._hanging.get(channel)) is not None and busy.is_alive():
            raise NotDelivered(f"{channel}: an earlier attempt has not come to its end")
        raised: list[BaseException] = []

        def send() -> None:
            try:
                self._channels[channel].send(payload)
            except BaseException as error:  # noqa: BLE001 - raised below
                raised.append(error)

        thread = threading.Thread(target=send, name=f"alert to {channel}", daemon=True)
        thread.start()
        thread.join(self._longest)
        if thread.is_alive():
            self._hanging[channel] = thread
            raise NotDelivered(f"{channel}: no end after {self._longest:g} s")
        if raised:
            raise raised[0]

    def _postpone(self, row: sa.Row[Any], error: LlmopsError) -> bool:
        """Notes the failure; True when it was the last attempt."""
        now = self._now()
        pause = min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(row.attempts, 20))
        if isinstance(error, NotDelivered) and error.retry_after is not None:
            pause = max(pause, min(error.retry_after, MOST_PAUSE_SECONDS))
        # A clock that leaps makes an alert old at once: only one that was tried several times is given up.
        over = row.attempts + 1 >= _LEAST_ATTEMPTS and bool(now + pause > row.created_at + self._give_up_after)
        values = {"next_try_at": now + pause, "last_error": str(error), "given_up_at": now if over else None}
        with alone(self._engine) as connection:
            connection.execute(sa.update(table).where(table.c.id == row.id).values(values))
        return over
