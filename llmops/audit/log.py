"""Appends to and reads the audit log: a table in the database of the production log.

Its triggers refuse everything but the next entry.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from llmops.audit.alias_state import AliasState, Move, Replay
from llmops.audit.entries import AuditEntry, Draft
from llmops.audit.move_lock import MoveLock, sqlite_file
from llmops.production_log.database import open_engine, translated
from llmops.production_log.writer_queue import WriterQueue

_LOCK = 0x6C6C6D03  # one of PostgreSQL's advisory locks, which are named by numbers

metadata = sa.MetaData()
# Numbered by its writer, so that a missing entry leaves a gap. `previous` is unique: a chain cannot fork.
audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
)

_REFUSAL = "the audit log is append-only"
# INSERT OR REPLACE deletes without asking the trigger of deletion, so an insert must go on from the last entry.
_SQLITE = [
    f"CREATE TRIGGER IF NOT EXISTS audit_log_no_{event.lower()} BEFORE {event} ON audit_log {when}"
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for event, when in (
        ("UPDATE", ""),
        ("DELETE", ""),
        ("INSERT", "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit_log) "),
    )
]
_POSTGRESQL = [
    f"""CREATE OR REPLACE FUNCTION audit_log_refuses() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$""",
    "CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuses()",
]


def is_made(connection: sa.Connection) -> bool:
    """Whether the table is there."""
    return sa.inspect(connection).has_table(audit_log.name)


def make_table(connection: sa.Connection) -> None:
    """Makes the table and its triggers. Call while the chain is held (`hold_chain`)."""
    connection.execute(sa.schema.CreateTable(audit_log))
    for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
        connection.exec_driver_sql(statement)


def hold_chain(connection: sa.Connection) -> None:
    """From here to the transaction's end no other writer continues the chain. SQLite's writers are alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


_IN_ORDER = sa.select(audit_log).order_by(audit_log.c.seq)
_BATCH = 1000


class AuditLog:
    """One chain of entries. Safe to share between threads and processes: a chain never forks.

    The database is opened for each call and the table made at the first entry: who only reads the registry needs
    neither. Every method raises StoreUnavailable when the database cannot be reached or written.

    actor: on whose behalf entries are made; None: the user of the operating system.
    """

    def __init__(self, url: str, actor: str | None = None) -> None:
        self.url = url
        self.actor = actor or os_user()
        self._turns = MoveLock(url)

    def turn(self) -> AbstractContextManager[None]:
        """Waits until no other move is under way, then holds all others up."""
        return self._turns.turn()

    def append(self, *drafts: Draft) -> list[AuditEntry]:
        """Writes entries, all or none; durable when it returns."""
        made: list[AuditEntry] = []
        with self._writing() as connection:
            hold_chain(connection)
            if not is_made(connection):
                make_table(connection)
            row = connection.execute(_IN_ORDER.order_by(None).order_by(audit_log.c.seq.desc()).limit(1)).mappings()
            last = _last(row.one_or_none())
            for draft in drafts:
                last = AuditEntry.chained(last, datetime.now(UTC).isoformat(), self.actor, draft)
                made.append(last)
            connection.execute(sa.insert(audit_log), [entry.to_row() for entry in made])
        return made

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row of the table as it stands there, in order, whether or not it is a sound entry."""
        with self._reading() as connection:
            if is_made(connection):
                found = connection.execution_options(yield_per=_BATCH).execute(_IN_ORDER).mappings()
                yield from map(_plain, found)

    def entries(self, name: str | None = None) -> list[AuditEntry]:
        """Entries, oldest first; only those about one app or model, or its versions, where `name` is given.

        Raises:
            Corrupted: an entry cannot be read; `llmops audit verify` says more.
        """
        query = _IN_ORDER
        if name is not None:
            subject = audit_log.c.subject
            query = query.where(sa.or_(subject == name, subject.startswith(f"{name}@", autoescape=True)))
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all() if is_made(connection) else []
        entries = [AuditEntry.from_row(_plain(row)) for row in rows]
        # SQLite's LIKE takes upper case for lower case.
        return [entry for entry in entries if name is None or entry.name == name]

    def replay(self, name: str) -> Replay:
        """How the aliases of one app or model stand by its entries. Raises Corrupted."""
        return Replay.of(self.entries(name)).get(name, Replay())

    def open(self, name: str, found: AliasState) -> None:
        """Begins the record of an app or model with the aliases that it was found with, if it has none yet. Call in
        `turn`. Raises Corrupted."""
        self._open(name, found, self.replay(name))

    def intend(self, move: Move, found: AliasState) -> AuditEntry:
        """Says what is about to be moved, before it is; `done` ends it. Call in `turn`. A move that was said before and
        not ended is the same entry. Aliases that stand otherwise than the log says are put on record first.

        Raises Corrupted.
        """
        replay = self.replay(move.name)
        self._open(move.name, found, replay)
        unexplained = replay.known and replay.differences(found)
        if unexplained:
            self.append(Draft("found", move.name, {"standing": dict(found), "expected": dict(replay.expected)}))
        elif replay.unfinished is not None and move.is_said_by(replay.unfinished):
            return replay.unfinished
        superseded = {} if replay.unfinished is None else {"supersedes": replay.unfinished.seq}
        details = {"phase": "intent", **move.details(found), **superseded}
        return self.append(Draft(move.action, move.subject, details))[0]

    def done(self, intent: AuditEntry) -> None:
        """Says that an intended move is done. Call in `turn`."""
        self.append(Draft(intent.action, intent.subject, {"phase": "done", "of": intent.seq}))

    def _open(self, name: str, found: AliasState, replay: Replay) -> None:
        if found and not replay.known:
            self.append(Draft("opening", name, {"standing": dict(found)}))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with translated(self.url), self._engine() as engine, engine.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with translated(self.url), self._engine() as engine, self._among_writers():
            # Read committed: what a writer reads once it holds the chain must be the chain's real end.
            option: dict[str, Any] = (
                {"isolation_level": "READ COMMITTED"} if engine.dialect.name == "postgresql" else {"writes": True}
            )
            with engine.execution_options(**option).begin() as connection:
                yield connection

    @contextmanager
    def _among_writers(self) -> Iterator[None]:
        """The gateway's writers of records hand the database on to each other; without a place in their queue a
        rollback could wait long."""
        file = sqlite_file(self.url)
        queue = None if file is None else WriterQueue(f"{file}-writers")
        try:
            with nullcontext() if queue is None else queue.turn():
                yield
        finally:
            if queue is not None:
                queue.close()

    @contextmanager
    def _engine(self) -> Iterator[sa.Engine]:
        engine = open_engine(self.url)
        try:
            yield engine
        finally:
            engine.dispose()


def os_user() -> str:
    """Name of the user that this process runs as; its number where it has none. Not from the environment, where
    anybody may write another name."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _plain(row: sa.RowMapping) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


def _last(row: sa.RowMapping | None) -> AuditEntry | None:
    """Only the place in the chain is needed of the last entry, which may have been tampered with."""
    return None if row is None else AuditEntry(**{**_plain(row), "details": {}})
