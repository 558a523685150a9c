"""Appends to, reads and verifies the audit log: a table in the database of the production log.

Its triggers refuse everything but the next entry.
"""

import contextlib
import dataclasses
import functools
import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from llmops.audit.entries import AliasReplay, AliasState, AuditEntry, Move, Verification, check_chain
from llmops.errors import StoreUnavailable
from llmops.processes import ProcessLock
from llmops.production_log.database import database_url, open_engine, translated
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


def make_table(connection: sa.Connection) -> None:
    """Makes the audit log's table, with the triggers that guard it, where it is absent."""
    if not sa.inspect(connection).has_table(audit_log.name):
        connection.execute(sa.schema.CreateTable(audit_log))
        for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
            connection.exec_driver_sql(statement)


@dataclasses.dataclass(eq=False)
class AuditLog:
    """One chain of entries. Safe to share between threads and processes: a chain never forks.

    The database is opened for each call and the table made at the first entry: who only reads the registry needs
    neither. Every method raises StoreUnavailable when the database cannot be reached or written.

    actor: on whose behalf entries are made; None: the user of the operating system. patience: seconds `turn` waits.
    """

    url: str
    actor: str | None = None
    patience: float = dataclasses.field(default=60.0, kw_only=True)
    _threads: Any = dataclasses.field(default_factory=threading.RLock, init=False, repr=False)
    _depth: int = dataclasses.field(default=0, init=False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A lock between threads and processes: whoever moves aliases, or registers, waits for the one at work, for two
        moves that overlap could leave aliases as neither of them meant. A killed process lets go of it; a thread may
        take it again while it holds it. Raises StoreUnavailable also where another one holds it for too long.
        """
        too_long = StoreUnavailable(
            f"another process has been moving aliases or registering for {self.patience:g} s; try again when it ends"
        )
        deadline = time.monotonic() + self.patience
        if not self._threads.acquire(timeout=self.patience):
            raise too_long
        try:
            with contextlib.ExitStack() as held:
                if self._depth == 0:
                    ask = self._lock(held)
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

    def _lock(self, held: contextlib.ExitStack) -> Callable[[], bool]:
        """What asks for the lock of all processes once; whoever got it has it until `held` closes."""
        path = sqlite_path(self.url)
        with translated(self.url):
            if database_url(self.url).get_backend_name() == "postgresql":
                engine = open_engine(self.url)
                held.callback(engine.dispose)
                connection = held.enter_context(engine.connect())  # one transaction, and with it the lock
                query = f"SELECT pg_try_advisory_xact_lock({_MOVE_LOCK})"

                def ask() -> bool:
                    with translated(self.url):
                        return bool(connection.exec_driver_sql(query).scalar_one())

                return ask
            if path is None:  # in memory: this process's alone
                return lambda: True
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = ProcessLock(f"{path}-moves")
        held.callback(lock.close)
        return functools.partial(lock.acquire, wait=False)

    def append(self, action: str, subject: str, details: Mapping[str, Any] = MappingProxyType({})) -> AuditEntry:
        """Writes an entry; durable when it returns."""
        with self._transaction(writes=True) as connection:
            # From here on no other writer continues the chain; SQLite's writers are alone anyway.
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CHAIN_LOCK})")
            make_table(connection)
            newest = sa.select(audit_log).order_by(audit_log.c.seq.desc()).limit(1)
            row = connection.execute(newest).mappings().one_or_none()
            # Only the place in the chain is needed of the last entry, which may have been tampered with.
            last = None if row is None else AuditEntry(**{**row, "details": {}})
            at, actor = datetime.now(UTC).isoformat(), self.actor or os_user()
            entry = AuditEntry.chained(last, at, actor, action, subject, dict(details))
            connection.execute(sa.insert(audit_log), entry.to_row())
        return entry

    def rows(self, name: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Every row of the table as it stands there, in order, whether or not it is a sound entry; with a name, only
        those about that app or model, or its versions."""
        query = sa.select(audit_log).order_by(audit_log.c.seq)
        if name is not None:
            subject = audit_log.c.subject
            query = query.where(sa.or_(subject == name, subject.startswith(f"{name}@", autoescape=True)))
        with self._transaction() as connection:
            if sa.inspect(connection).has_table(audit_log.name):
                for row in connection.execution_options(yield_per=_BATCH).execute(query).mappings():
                    yield dict(row)

    def entries(self, name: str | None = None) -> list[AuditEntry]:
        """Entries, oldest first; only those about one app or model, or its versions, where `name` is given.

        Raises Corrupted: an entry cannot be read; `llmops audit verify` says more.
        """
        entries = [AuditEntry.from_row(row) for row in self.rows(name)]
        # SQLite's LIKE takes upper case for lower case.
        return [entry for entry in entries if name is None or entry.name == name]

    def replay(self, name: str) -> AliasReplay:
        """How the aliases of one app or model stand by its entries. Raises Corrupted."""
        replay = AliasReplay()
        for entry in self.entries(name):
            replay = (replay if replay.known else AliasReplay(name)).followed_by(entry)
        return replay

    def open(self, name: str, found: AliasState) -> AliasReplay:
        """Begins the record of an app or model with the aliases that it was found with, if it has none yet; returns how
        they stood by it until now. Call in `turn`. Raises Corrupted."""
        replay = self.replay(name)
        if found and not replay.known:
            self.append("opening", name, {"standing": dict(found)})
        return replay

    def intend(self, move: Move, found: AliasState) -> AuditEntry:
        """Says what is about to be moved, before it is; `done` ends it. Call in `turn`. A move that was said before and
        not ended is the same entry. Aliases that stand otherwise than the log says are put on record first. Raises
        Corrupted."""
        replay = self.open(move.name, found)
        intent = replay.unfinished
        if replay.known and replay.differences(found):
            self.append("found", move.name, {"standing": dict(found), "expected": dict(replay.expected)})
        elif intent is not None:
            said = (intent.action, intent.subject, intent.details.get("why"))
            if said == (move.action, move.subject, move.why):
                return intent
        superseded = {} if intent is None else {"supersedes": intent.seq}
        details = {"phase": "intent", **move.details(found), **superseded}
        return self.append(move.action, move.subject, details)

    def done(self, intent: AuditEntry) -> None:
        """Says that an intended move is done. Call in `turn`."""
        self.append(intent.action, intent.subject, {"phase": "done", "of": intent.seq})

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        with translated(self.url), contextlib.ExitStack() as closing:
            engine = open_engine(self.url)
            closing.callback(engine.dispose)
            options: dict[str, Any] = {}
            if writes and engine.dialect.name == "sqlite":
                options = {"writes": True}
                # The gateway's writers of records hand the database on to each other; without a place in their queue a
                # rollback could wait long.
                if (path := sqlite_path(self.url)) is not None:
                    queue = ProcessLock(f"{path}-writers")
                    closing.callback(queue.close)
                    closing.enter_context(queue)
            elif writes:  # what a writer reads once it holds the chain must be the chain's real end
                options = {"isolation_level": "READ COMMITTED"}
            yield closing.enter_context(engine.execution_options(**options).begin())


def verify(
    log: AuditLog, standings: Callable[[], Mapping[str, AliasState]] | None = None, head: str | None = None
) -> Verification:
    """Reads the whole chain, and compares what it comes to with how the registry's apps and models stand.

    standings: reads those of all apps and models; None: only the chain is looked at.
    head: a hash that was the chain's last one before; the chain must still hold it.
    """
    with log.turn():  # a move under way would look like one around the log
        chain = check_chain(log.rows(), head)
        if standings is None or chain.broken is not None:
            return chain
        standing_now = standings()
    replays = sorted(chain.replays.items())
    moved = (difference for name, replay in replays for difference in replay.differences(standing_now.get(name, {})))
    unaudited = sorted(name for name, standing in standing_now.items() if standing and name not in chain.replays)
    return dataclasses.replace(chain, differences=tuple(moved), unaudited=tuple(unaudited))


def os_user() -> str:
    """Name of the user that this process runs as; its number where it has none. Not from the environment, where
    anybody may write another name."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
