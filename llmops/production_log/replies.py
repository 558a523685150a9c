"""Replies kept for repetitions of a request with the same Idempotency-Key, and the claims of requests under way."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor

from llmops.processes import is_dead, this_process
from llmops.production_log.database import LogDatabase
from llmops.production_log.tables import idempotent_replies as table

_CLEANED_AT_ONCE = 500  # so that a cleaning never keeps the log's writers waiting for long

_CLAIM = """
INSERT INTO idempotent_replies (caller, key, fingerprint, token, process, expires_at)
VALUES ({0}, {0}, {0}, {0}, {0}, {0})
ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint, token = excluded.token,
    process = excluded.process, expires_at = excluded.expires_at, request_id = NULL, status = NULL, headers = NULL,
    body = NULL
WHERE idempotent_replies.expires_at <= {0} OR (idempotent_replies.status IS NULL AND idempotent_replies.process = {0})
"""
_SETTLE = """
UPDATE idempotent_replies SET status = {0}, headers = {0}, body = {0}, request_id = {0}, expires_at = {0}
WHERE caller = {0} AND key = {0} AND token = {0}
"""
_GIVE_UP = "DELETE FROM idempotent_replies WHERE caller = {0} AND key = {0} AND token = {0}"


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """The right of one request to run under its caller's key. token: tells it from a claim that came after it."""

    caller: str
    key: str
    token: str


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply as it was sent the first time. request_id: of that first request, whose record is in the log."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """What becomes of a claim when its record is written. reply: None gives the claim up, and a retry runs again.

    expires_at: seconds since the epoch.
    """

    claim: ClaimedKey
    reply: StoredReply | None
    expires_at: float


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """What stands under a key already. reply: None while the first request is still running."""

    fingerprint: str
    reply: StoredReply | None


class IdempotentReplies:
    """The table of claims and replies. Blocking; several processes may use it at once."""

    def __init__(self, database: LogDatabase) -> None:
        self._database = database
        mark = "%s" if database.is_postgresql else "?"
        self._claim, self._settle, self._give_up = (text.format(mark) for text in (_CLAIM, _SETTLE, _GIVE_UP))

    def claim(self, caller: str, key: str, fingerprint: str, seconds: float) -> ClaimedKey | KeyInUse:
        """Claims the key for this process, or says what stands under it.

        Of all processes that try at once exactly one succeeds. An expired row counts as absent, and so does the claim
        of a process on this machine that has ended.

        seconds: after which the claim expires, should this process vanish where nobody can see it.
        """
        ended = ""
        while True:
            claim = ClaimedKey(caller, key, uuid.uuid4().hex)
            now = time.time()
            values = (caller, key, fingerprint, claim.token, this_process(), now + seconds, now, ended)
            with self._database.writing() as connection:
                if connection.exec_driver_sql(self._claim, values).rowcount == 1:
                    return claim
                row = connection.execute(sa.select(table).where(*_named(caller, key))).mappings().one_or_none()
            if row is None:
                continue  # given up between the two statements
            if row["status"] is None and row["process"] != ended and is_dead(row["process"]):
                ended = row["process"]
                continue
            reply = None
            if row["status"] is not None:
                headers = tuple((name, value) for name, value in row["headers"])
                reply = StoredReply(row["status"], headers, bytes(row["body"]), row["request_id"])
            return KeyInUse(row["fingerprint"], reply)

    def settle(self, cursor: DBAPICursor, rows: Sequence[ReplyRow]) -> None:
        """Settles claims inside the transaction that writes their records.

        A claim that expired and went to another request in the meantime is left to that one.
        """
        for row in rows:
            held = (row.claim.caller, row.claim.key, row.claim.token)
            if (reply := row.reply) is None:
                cursor.execute(self._give_up, held)
            else:
                headers = orjson.dumps(reply.headers).decode()
                cursor.execute(
                    self._settle, (reply.status, headers, reply.body, reply.request_id, row.expires_at, *held)
                )

    def give_up(self, claim: ClaimedKey) -> None:
        """Frees the key, if the claim still stands."""
        with self._database.writing() as connection:
            connection.exec_driver_sql(self._give_up, (claim.caller, claim.key, claim.token))

    def clean(self) -> int:
        """Deletes some expired rows; returns how many. Raises StoreUnavailable."""
        now = time.time()
        some = sa.select(table.c.caller, table.c.key).where(table.c.expires_at <= now).limit(_CLEANED_AT_ONCE)
        with self._database.reading() as connection:
            expired = connection.execute(some).all()
        if not expired:
            return 0
        with self._database.writing() as connection:
            for caller, key in expired:
                # Looked at again: it may have been claimed anew.
                connection.execute(sa.delete(table).where(*_named(caller, key), table.c.expires_at <= now))
        return len(expired)


def _named(caller: str, key: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.caller == caller, table.c.key == key)
