"""Appends to, reads and verifies the audit log: a table in the database of the production log.

Its triggers refuse everything but the next entry.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from llmops.audit.entries import AliasState, AuditEntry, Chain, Difference, Draft, Move, Replay, check_chain
from llmops.errors import StoreUnavailable
from llmops.processes import ProcessLock
from llmops.production_log.database import WriterQueue, database_url, open_engine, translated
from llmops.state_files import sqlite_path

_CHAIN_LOCK, _MOVE_LOCK = 0x6C6C6D03, 0x6C6C6D04  # two of PostgreSQL's advisory locks, which are named by numbers
_LOOK_AGAIN_SECONDS = 0.02
_BATCH = 1000

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


class AuditLog:
    """One chain of entries. Safe to share between threads and processes: a chain never forks.

    The database is opened for each call and the table made at the first entry: who only reads the registry needs
    neither. Every method raises StoreUnavailable when the database cannot be reached or written.

    actor: on whose behalf entries are made; None: the user of the operating system.
    """

    def __init__(self, url: str, actor: str | None = None) -> None:
        self.url = url
        self.actor = actor or os_user()
        self._moves = MoveLock(url)

    def turn(self) -> AbstractContextManager[None]:
        """Waits until no other move is under way, then holds all others up."""
        return self._moves.turn()

    def append(self, *drafts: Draft) -> list[AuditEntry]:
        """Writes entries, all or none; durable when it returns."""
        made: list[AuditEntry] = []
        with self._writing() as connection:
            is_postgresql = connection.dialect.name == "postgresql"
            if is_postgresql:  # from here on no other writer continues the chain; SQLite's writers are alone anyway
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CHAIN_LOCK})")
            if not sa.inspect(connection).has_table(audit_log.name):
                connection.execute(sa.schema.CreateTable(audit_log))
                for statement in _POSTGRESQL if is_postgresql else _SQLITE:
                    connection.exec_driver_sql(statement)
            newest = sa.select(audit_log).order_by(audit_log.c.seq.desc()).limit(1)
            row = connection.execute(newest).mappings().one_or_none()
            # Only the place in the chain is needed of the last entry, which may have been tampered with.
            last = None if row is None else AuditEntry(**{**row, "details": {}})
            for draft in drafts:
                last = AuditEntry.chained(last, datetime.now(UTC).isoformat(), self.actor, draft)
                made.append(last)
            connection.execute(sa.insert(audit_log), [entry.to_row() for entry in made])
        return made

    def rows(self, name: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Every row of the table as it stands there, in order, whether or not it is a sound entry; with a name, only
        those about that app or model, or its versions."""
        query = sa.select(audit_log).order_by(audit_log.c.seq)
        if name is not None:
            subject = audit_log.c.subject
            query = query.where(sa.or_(subject == name, subject.startswith(f"{name}@", autoescape=True)))
        with translated(self.url), contextlib.ExitStack() as closing:
            engine = open_engine(self.url)
            closing.callback(engine.dispose)
            connection = closing.enter_context(engine.begin())
            if sa.inspect(connection).has_table(audit_log.name):
                for row in connection.execution_options(yield_per=_BATCH).execute(query).mappings():
                    yield dict(row)

    def entries(self, name: str | None = None) -> list[AuditEntry]:
        """Entries, oldest first; only those about one app or model, or its versions, where `name` is given.

        Raises:
            Corrupted: an entry cannot be read; `llmops audit verify` says more.
        """
        entries = [AuditEntry.from_row(row) for row in self.rows(name)]
        # SQLite's LIKE takes upper case for lower case.
        return [entry for entry in entries if name is None or entry.name == name]

    def replay(self, name: str) -> Replay:
        """How the aliases of one app or model stand by its entries. Raises Corrupted."""
        replay = Replay()
        for entry in self.entries(name):
            replay = (replay if replay.known else Replay(name)).followed_by(entry)
        return replay

    def open(self, name: str, found: AliasState) -> Replay:
        """Begins the record of an app or model with the aliases that it was found with, if it has none yet; returns how
        they stood by it until now. Call in `turn`. Raises Corrupted."""
        replay = self.replay(name)
        if found and not replay.known:
            self.append(Draft("opening", name, {"standing": dict(found)}))
        return replay

    def intend(self, move: Move, found: AliasState) -> AuditEntry:
        """Says what is about to be moved, before it is; `done` ends it. Call in `turn`. A move that was said before and
        not ended is the same entry. Aliases that stand otherwise than the log says are put on record first.

        Raises Corrupted.
        """
        replay = self.open(move.name, found)
        if replay.known and replay.differences(found):
            self.append(Draft("found", move.name, {"standing": dict(found), "expected": dict(replay.expected)}))
        elif replay.unfinished is not None and move.is_said_by(replay.unfinished):
            return replay.unfinished
        superseded = {} if replay.unfinished is None else {"supersedes": replay.unfinished.seq}
        details = {"phase": "intent", **move.details(found), **superseded}
        return self.append(Draft(move.action, move.subject, details))[0]

    def done(self, intent: AuditEntry) -> None:
        """Says that an intended move is done. Call in `turn`."""
        self.append(Draft(intent.action, intent.subject, {"phase": "done", "of": intent.seq}))

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with translated(self.url), contextlib.ExitStack() as closing:
            engine = open_engine(self.url)
            closing.callback(engine.dispose)
            # Read committed: what a writer reads once it holds the chain must be the chain's real end.
            option: dict[str, Any] = {"isolation_level": "READ COMMITTED"}
            if engine.dialect.name == "sqlite":
                option = {"writes": True}
                # The gateway's writers of records hand the database on to each other; without a place in their queue a
                # rollback could wait long.
                if (path := sqlite_path(self.url)) is not None:
                    queue = WriterQueue(f"{path}-writers")
                    closing.callback(queue.close)
                    closing.enter_context(queue.turn())
            yield closing.enter_context(engine.execution_options(**option).begin())


class MoveLock:
    """A lock between threads and processes that share a log's database: whoever moves aliases, or registers, waits for
    the one at work. Two moves that overlap could leave aliases as neither of them meant, and a log that no longer says
    how they stand. A process that is killed lets go of it.

    The same thread may take it again while it holds it. patience: seconds to wait for it.
    """

    def __init__(self, url: str, patience: float = 60.0) -> None:
        self._url, self._patience = url, patience
        self._threads = threading.RLock()
        self._depth = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Holds the lock. Raises StoreUnavailable where another one holds it for too long."""
        too_long = StoreUnavailable(
            f"another process has been moving aliases or registering for {self._patience:g} s; try again when it ends"
        )
        deadline = time.monotonic() + self._patience
        if not self._threads.acquire(timeout=self._patience):
            raise too_long
        try:
            with contextlib.ExitStack() as held:
                if self._depth == 0:
                    ask = held.enter_context(self._asking())
                    while not ask():
                        if time.monotonic() >= deadline:
                            raise too_long
                        time.sleep(_LOOK_AGAIN_SECONDS)
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
        finally:
            self._threads.release()

    @contextmanager
    def _asking(self) -> Iterator[Callable[[], bool]]:
        """Gives what asks for the lock once; whoever got it holds it up to the end of the block."""
        if database_url(self._url).get_backend_name() == "postgresql":
            engine = open_engine(self._url)
            try:
                with translated(self._url):
                    connection = engine.connect()
                with connection:  # one transaction, and with it the lock
                    yield lambda: _locked_in(connection, self._url)
            finally:
                engine.dispose()
        elif (path := sqlite_path(self._url)) is not None:
            with translated(self._url):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = ProcessLock(f"{path}-moves")
            try:
                yield lambda: lock.acquire(wait=False)
            finally:
                lock.close()
        else:
            yield lambda: True


def _locked_in(connection: sa.Connection, url: str) -> bool:
    with translated(url):
        return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_MOVE_LOCK})").scalar_one())


@dataclass(frozen=True, slots=True)
class Verification:
    """What `llmops audit verify` says.

    differences: aliases and traffic policies that were moved around the log. unfinished: moves that began and did not
    end, such as by a kill; repeating the command ends them. unaudited: apps and models with aliases from before the log
    began, of which it says nothing yet.
    """

    chain: Chain
    differences: tuple[Difference, ...] = ()
    unfinished: tuple[AuditEntry, ...] = ()
    unaudited: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing was tampered with, as far as can be seen."""
        return self.chain.broken is None and not self.differences

    def to_json(self) -> dict[str, Any]:
        """What the command prints."""
        broken = self.chain.broken
        return {
            "whole": self.whole,
            "entries": self.chain.entries,
            "head": self.chain.head,
            "broken": None if broken is None else {"seq": broken.seq, "why": broken.why},
            "moved": [difference.to_json() for difference in self.differences],
            "unfinished": [entry.to_json() for entry in self.unfinished],
            "unaudited": list(self.unaudited),
        }


def verify(
    log: AuditLog, standings: Callable[[], Mapping[str, AliasState]] | None = None, head: str | None = None
) -> Verification:
    """Reads the whole chain, and compares what it comes to with how the registry's apps and models stand.

    log: whose chain is read.
    standings: reads those of all apps and models; None: only the chain is looked at.
    head: a hash that was the chain's last one before; the chain must still hold it.

    Raises StoreUnavailable.
    """
    with log.turn():  # a move under way would look like one around the log
        chain = check_chain(log.rows(), head)
        found = standings() if standings is not None and chain.broken is None else None
    differences = [
        difference
        for name, replay in sorted(chain.replays.items())
        if found is not None
        for difference in replay.differences(found.get(name, {}))
    ]
    return Verification(
        chain,
        tuple(differences),
        tuple(replay.unfinished for replay in chain.replays.values() if replay.unfinished is not None),
        tuple(sorted(name for name, standing in (found or {}).items() if standing and name not in chain.replays)),
    )


def os_user() -> str:
    """Name of the user that this process runs as; its number where it has none. Not from the environment, where
    anybody may write another name."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
