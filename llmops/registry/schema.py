"""Which revision of MLflow's tables a store has, and which one the installed MLflow writes.

MLflow's first call brings the tables of an older store up to date, without a question or a backup, whenever a table is
missing there; and an older MLflow goes on writing to a newer store that it has open. So a store is opened only where
both are of one revision, which is found out without importing MLflow.
"""

import functools
import importlib.util
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa

from llmops.errors import CannotRun, IncompatibleStore
from llmops.production_log.database import open_engine
from llmops.state_files import BUSY_SECONDS, shown, sqlite_path

_REVISION = re.compile(r"^revision\b[^=]*=\s*[\"'](\w+)", re.MULTILINE)
_DOWN_REVISION = re.compile(r"^down_revision\b[^=]*=\s*[\"'](\w+)", re.MULTILINE)
_HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
_READ = "SELECT version_num FROM alembic_version"


@dataclass(frozen=True, slots=True)
class InstalledMlflow:
    """version: of the package. newest: the revision of the tables that it writes. known: every revision up to it."""

    version: str
    newest: str
    known: frozenset[str]


@functools.cache
def installed_mlflow() -> InstalledMlflow:
    """Read from the text of MLflow's migrations, 6 ms where importing it takes 2 s. Raises CannotRun."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise CannotRun("MLflow is not installed")
    known, followed = set(), set()
    for file in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        known |= set(_REVISION.findall(text))
        followed |= set(_DOWN_REVISION.findall(text))
    newest = known - followed
    if len(newest) != 1:
        raise CannotRun(f"MLflow {version('mlflow')}: the newest of its {len(known)} migrations cannot be told")
    return InstalledMlflow(version("mlflow"), newest.pop(), frozenset(known))


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """revision: of a store's tables. state: `current`, `older` or `newer` than those of the installed MLflow."""

    revision: str
    state: str


def store_schema(uri: str) -> StoreSchema | None:
    """Reads the revision, and changes nothing. None where there are no tables yet, or the store is no SQLite file and
    no PostgreSQL database. The database's errors pass through."""
    revision = _revision(uri)
    if revision is None:
        return None
    installed = installed_mlflow()
    known = "older" if revision in installed.known else "newer"
    return StoreSchema(revision, "current" if revision == installed.newest else known)


def checked_schema(uri: str) -> StoreSchema | None:
    """As `store_schema`. Raises IncompatibleStore where the tables are not those of the installed MLflow."""
    schema = store_schema(uri)
    if schema is None or schema.state == "current":
        return schema
    installed = installed_mlflow()
    revisions = f"its tables are of revision {schema.revision}, MLflow's of {installed.newest}"
    problem = f"MLflow store {shown(uri)} is {schema.state} than the installed MLflow {installed.version} ({revisions})"
    mend = "run `llmops store upgrade`"
    if schema.state == "newer":
        mend = "install the MLflow that wrote it, or put back the backup that was made before it was upgraded"
    raise IncompatibleStore(problem, mend)


def _revision(uri: str) -> str | None:
    if (path := sqlite_path(uri)) is not None:
        if not path.exists():
            return None
        # For reading only: the last of any other connections to close would write the log into the file.
        reading = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        with closing(reading) as connection:
            row = connection.execute(_READ).fetchone() if connection.execute(_HAS_TABLE).fetchone() else None
        return None if row is None else str(row[0])
    database = database_of(uri)
    if database is None or database.dialect.name == "sqlite":  # in memory
        return None
    try:
        with database.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.execute(sa.text(_READ)).scalar()
            return found
    finally:
        database.dispose()


def database_of(uri: str) -> sa.Engine | None:
    """The database that a store's address names, where it is one that MLflow shares with others by SQL."""
    try:
        url = sa.make_url(uri)
        if url.get_backend_name() == "postgresql":
            return open_engine(uri)
        elsewhere = url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:")
        return None if elsewhere else sa.create_engine(url, pool_size=1)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError):
        return None
