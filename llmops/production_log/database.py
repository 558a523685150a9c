"""The log's database: SQLite or PostgreSQL, durable, its tables made or brought up to date when it is opened."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPICursor

from llmops.errors import StoreUnavailable, first_line
from llmops.processes import ProcessLock
from llmops.production_log.tables import is_complete, json_or_text, migrate_schema
from llmops.state_files import (
    BUSY_SECONDS,
    FileIdentity,
    WatchedFile,
    advised,
    make_private_folder,
    shown,
    sqlite_path,
    write_ahead,
)

_WRITING_LOCK = 0x6C6C6D02  # one of PostgreSQL's advisory locks, which are named by numbers
_UNREACHABLE_SECONDS = 30
LOCK_SECONDS = int(BUSY_SECONDS)
"""How long PostgreSQL waits for a lock that somebody holds, as long as SQLite waits for another writer."""
_READ_ONLY = "25006"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
_CHECK = "llmops check"  # where SQLAlchemy keeps what raises StoreUnavailable once a connection's file is another
_Inserter = tuple[Any, Callable[[], object]]
"""A connection for inserting, and what raises StoreUnavailable once it is open on another file than the log's."""


class RecordRefused(StoreUnavailable):
    """The database works and refuses this row: it cannot hold it, or has its key already."""


def database_url(url: str) -> URL:
    """The URL as SQLAlchemy takes it: `postgresql://` means psycopg. Raises StoreUnavailable."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreUnavailable("production log: (not a database URL)") from error
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def open_engine(url: str, file: FileIdentity | None = None) -> sa.Engine:
    """An engine for a database in which an acknowledged write is durable; its file's folder is made when absent.

    A transaction on a SQLite file begins and ends only while the file is still the one opened first, and whole. file:
    which one that must be; None: whichever is there, or made.

    With the execution option `writes=True` a transaction on SQLite takes the write lock when it begins: writers then
    queue. A transaction that first reads and then writes would fail at once when another has written in between.

    Raises StoreUnavailable: neither SQLite nor PostgreSQL, or the folder cannot be made. Connections and transactions
    raise it for a file that was taken away, replaced or cut short.
    """
    parsed = database_url(url)
    kind = parsed.get_backend_name()
    with translated(url):
        if kind == "sqlite":
            engine, path = sa.create_engine(parsed, json_deserializer=json_or_text), sqlite_path(url)
            if path is not None and file is None:
                make_private_folder(path.parent)
            _prepare_sqlite(engine, path, file)
            return engine
        if kind == "postgresql":
            defaults = {
                "connect_timeout": 10,
                "tcp_user_timeout": _UNREACHABLE_SECONDS * 1000,
                "fallback_application_name": "llmops",  # by which `llmops migrate` finds who uses the database
            }
            given = {name: value for name, value in defaults.items() if name not in parsed.query}
            # A server that was restarted must not cost the next record: connections are tried before they are used.
            more: dict[str, Any] = {"connect_args": given, "json_deserializer": json_or_text}
            engine = sa.create_engine(parsed, pool_pre_ping=True, **more)
            sa.event.listen(engine, "connect", _limit_waits)
            sa.event.listen(engine, "handle_error", _leave_read_only)
            return engine
    raise StoreUnavailable(f"production log {shown(url)}: must be SQLite or PostgreSQL")


class LogDatabase:
    """The log's tables in one database. Safe to share between threads."""

    def __init__(self, url: str, file: FileIdentity | None = None) -> None:
        """Opens the database; makes absent tables. file: as `open_engine`. Raises StoreUnavailable."""
        self.url = url
        self.engine = open_engine(url, file)
        self.is_postgresql = self.engine.dialect.name == "postgresql"
        lock = f"SELECT pg_advisory_xact_lock_shared({_WRITING_LOCK})"
        self._begin_insert = lock if self.is_postgresql else "BEGIN IMMEDIATE"
        self._driver: Any = self.engine.dialect.loaded_dbapi
        self._refusals: Any = (self._driver.DataError, self._driver.IntegrityError)
        self._writing = self.engine.execution_options(writes=True)
        self.file = sqlite_path(url)
        self._inserters: list[_Inserter] = []
        # Only orders the writers of a SQLite file that ask. SQLite's own lock still decides, but lets a writer that
        # finds another one at work sleep and look again, up to 0.1 s at a time: with four processes writing, one in a
        # hundred records waited 0.2 to 1 s. Here the kernel wakes the next one: three to six times less.
        self._queue: ProcessLock | None = None
        with translated(url):
            if self.file is not None:
                self._queue = ProcessLock(f"{self.file}-writers")
            with self.reading() as connection:
                complete = is_complete(connection)
            if not complete:
                with self.writing() as connection:
                    migrate_schema(connection)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises StoreUnavailable."""
        with translated(self.url), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; durable when the block has ended. Raises StoreUnavailable, RecordRefused."""
        with translated(self.url), self._queue or nullcontext(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def inserting(self, *, one_statement: bool = False) -> Iterator[DBAPICursor]:
        """As `writing`, with the driver's own cursor, and for numbered rows: `settled` waits for its end.

        one_statement: the block executes one. On SQLite it is a transaction of its own: to begin and to commit another
        would let go of Python's lock each time, and wait for it beside a busy event loop.

        Its connections are kept open outside SQLAlchemy's pool, which would look after them at every transaction: half
        of the processor time of a request's record. One that has failed is not used again.
        """
        with translated(self.url), self._queue or nullcontext():
            connection: Any = None
            try:
                (connection, check), cursor = self._begun_insert(one_statement)
                yield cursor
                connection.commit()  # of SQLite's one statement, which is durable already, nothing
                check()  # only now is it certain where it went
            except BaseException as error:
                if connection is not None:
                    # Closing alone would leave a transaction open on SQLite, as long as somebody holds a cursor of it.
                    with suppress(self._driver.Error):  # it may have lost its server
                        connection.rollback()
                    connection.close()
                if not isinstance(error, self._driver.Error):
                    raise
                kind = RecordRefused if isinstance(error, self._refusals) else StoreUnavailable
                raise kind(f"production log {shown(self.url)}: {advised(first_line(error))}") from error
            self._inserters.append((connection, check))

    @contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """A connection without a transaction, while no writer that asks for its turn writes. Raises StoreUnavailable.

        Its statements take effect one by one. For what databases do only outside of transactions, such as VACUUM.
        """
        with translated(self.url), self._queue or nullcontext():
            # The driver's own way of doing without transactions would, on SQLite, not be undone when it is given back.
            option: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if self.is_postgresql else {"bare": True}
            with self.engine.execution_options(**option).connect() as connection:
                yield connection

    def hold_sequence(self, connection: sa.Connection) -> None:
        """As `inserting`, for a transaction that has begun in another way."""
        if self.is_postgresql:
            connection.exec_driver_sql(self._begin_insert)

    def hold_writers(self, connection: sa.Connection) -> None:
        """Waits for transactions that insert, and has new ones wait for this one's end; on SQLite they do anyway."""
        if self.is_postgresql:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITING_LOCK})")

    def settled(self, table: sa.Table) -> int:
        """The highest number up to which every row of the table is written for good.

        PostgreSQL numbers rows before they are committed, so a lower number may appear after a higher one. Waiting
        once for the writers under way, after the highest visible number was read, settles all numbers up to it; a
        single statement does both, for its snapshot comes first. On SQLite writers come one after the other.
        """
        wait = f", pg_advisory_xact_lock({_WRITING_LOCK})" if self.is_postgresql else ""
        query = f'SELECT highest{wait} FROM (SELECT coalesce(max(seq), 0) AS highest FROM "{table.name}") AS of_all'  # noqa: S608
        with translated(self.url), self.engine.connect() as connection:
            # Without a transaction around it, so that a reader which stops here never holds the lock.
            alone = connection.execution_options(isolation_level="AUTOCOMMIT") if self.is_postgresql else connection
            return int(alone.exec_driver_sql(query).scalar_one())

    def close(self) -> None:
        while self._inserters:
            self._inserters.pop()[0].close()
        self.engine.dispose()
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def _begun_insert(self, one_statement: bool) -> tuple[_Inserter, DBAPICursor]:
        """A connection whose transaction has begun. Of PostgreSQL's, those that lost their server are left."""
        while True:
            try:
                (connection, check), kept = self._inserters.pop(), True
            except IndexError:
                pooled = self.engine.raw_connection()
                connection, check, kept = pooled.dbapi_connection, pooled.info.get(_CHECK, bool), False
                pooled.detach()
            try:
                check()
                cursor = connection.cursor()
                if self.is_postgresql or not one_statement:
                    cursor.execute(self._begin_insert)
            except StoreUnavailable:
                connection.close()
                raise
            except self._driver.OperationalError:
                connection.close()
                if not (kept and self.is_postgresql):
                    raise
            else:
                return (connection, check), cursor


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns a database's errors into StoreUnavailable, one line without the password."""
    try:
        yield
    except (sa.exc.DataError, sa.exc.IntegrityError) as error:
        raise RecordRefused(f"production log {shown(url)}: {advised(first_line(error))}") from error
    except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
        raise StoreUnavailable(f"production log {shown(url)}: {advised(first_line(error))}") from error


def _limit_waits(connection: Any, _: object) -> None:
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.commit()


def _leave_read_only(context: sa.engine.ExceptionContext) -> None:
    """After a fail-over the pool's connections may lead to what is a standby now, or were opened while it was one."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _prepare_sqlite(engine: sa.Engine, path: Path | None, expected: FileIdentity | None) -> None:
    """Has each connection of the engine be durable, begin its transactions as asked, and refuse to go on with another
    file at the path. path: None: in memory."""
    file = None if path is None else WatchedFile(path, expected)

    def connected(connection: Any, record: Any) -> None:
        # The driver would begin transactions by itself, and always as readers.
        connection.isolation_level = None
        write_ahead(connection, synchronous="FULL")
        # Overwrites what is deleted; where nothing is, it costs nothing.
        connection.execute("PRAGMA secure_delete=ON")
        if file is not None:
            record.info[_CHECK] = file.opened()

    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if not options.get("bare"):
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

    def check(connection: sa.Connection) -> None:
        connection.info[_CHECK]()

    if file is not None:
        # Opening would make a new file, or take another for it.
        sa.event.listen(engine, "do_connect", lambda *_: file.check())
        sa.event.listen(engine, "begin", check)
        sa.event.listen(engine, "commit", check)
    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begin)
