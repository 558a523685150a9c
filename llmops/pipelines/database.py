"""Where the state of pipelines is kept: SQLite or PostgreSQL; and the lock that lets one process run a cycle."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from llmops.errors import StoreUnavailable, first_line
from llmops.processes import ProcessLock
from llmops.state_files import make_private_folder, write_ahead

SCHEMA = "llmops_pipelines"
"""PostgreSQL schema of DBOS's tables, so that they may share a database with others."""


def database_url(url: str) -> URL:
    """The URL as SQLAlchemy takes it; the folder of a SQLite file is made. Raises StoreUnavailable."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreUnavailable("pipelines: (not a database URL)") from error
    backend = "postgresql" if parsed.drivername == "postgres" else parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not parsed.database or parsed.database == ":memory:":
        shown = parsed.render_as_string(hide_password=True)
        raise StoreUnavailable(f"pipelines {shown}: must be a SQLite file or PostgreSQL")
    with translated(parsed):
        make_private_folder(Path(parsed.database).absolute().parent)
    return parsed


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turns a database's errors into StoreUnavailable, one line without the password."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError) as error:
        where = url.render_as_string(hide_password=True)
        raise StoreUnavailable(f"pipelines {where}: {first_line(error)}") from error


def has_tables(url: URL) -> bool:
    """Whether a pipeline has ever run there; makes nothing. Raises StoreUnavailable."""
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return False
    with translated(url), _engine(url) as engine:
        schema = SCHEMA if url.get_backend_name() == "postgresql" else None
        return sa.inspect(engine).has_table("workflow_status", schema=schema)


def prepare(url: URL) -> None:
    """Gives a SQLite file a write-ahead log, which makes steps faster. Raises StoreUnavailable."""
    if url.get_backend_name() == "sqlite":
        with translated(url), _engine(url) as engine, engine.connect() as connection:
            write_ahead(connection.connection.driver_connection)


def ensure_tables(url: URL) -> None:
    """DBOS makes its tables, or brings those of an older version up to date. Raises StoreUnavailable."""
    from dbos import DBOS

    prepare(url)
    with translated(url):
        DBOS.migrate(url.render_as_string(hide_password=False), schema=SCHEMA)


def tables_of(connection: sa.Connection) -> dict[str, sa.Table]:
    """DBOS's tables by name, each after those that it refers to; without the number of their version."""
    found = sa.MetaData()
    found.reflect(connection, schema=SCHEMA if connection.dialect.name == "postgresql" else None)
    return {table.name: table for table in found.sorted_tables if table.name != "dbos_migrations"}


@contextmanager
def only_one(url: URL, name: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of that name, which ends with the process at the latest, also by `kill -9`.

    waiting: called once, when another process has it. Raises StoreUnavailable.
    """
    locked = _postgresql_lock if url.get_backend_name() == "postgresql" else _file_lock
    with locked(url, name, waiting):
        yield


def is_held(url: URL, name: str) -> bool:
    """Whether a process has the lock of that name. Raises StoreUnavailable."""

    class _Held(Exception):
        pass

    def held() -> None:
        raise _Held

    try:
        with only_one(url, name, held):
            return False
    except _Held:
        return True


@contextmanager
def _file_lock(url: URL, name: str, waiting: Callable[[], None]) -> Iterator[None]:
    path = Path(f"{url.database}-locks") / hashlib.sha256(name.encode()).hexdigest()[:32]
    with translated(url):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = ProcessLock(path)
    try:
        with translated(url):
            if not lock.acquire(wait=False):
                waiting()
                lock.acquire()
        yield
    finally:
        lock.close()


@contextmanager
def _postgresql_lock(url: URL, name: str, waiting: Callable[[], None]) -> Iterator[None]:
    key = {"key": int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)}
    with _engine(url) as engine:
        with translated(url):
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with translated(url):
                free = connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), key).scalar()
            if not free:
                waiting()
                with translated(url):
                    connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), key)
            yield
        finally:
            connection.invalidate()  # closing the session gives the lock back, whatever became of it
            connection.close()


@contextmanager
def _engine(url: URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        yield engine
    finally:
        engine.dispose()
