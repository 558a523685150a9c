"""Brings an MLflow store's tables up to date for the installed MLflow: alone, backed up, and with no row lost.

A SQLite file is upgraded as a copy, while nobody else can open the file; what the copy holds then replaces the file's
content in one transaction. In PostgreSQL MLflow's migrations are one transaction themselves.
"""

import logging
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable, first_line
from llmops.hashing import JsonData
from llmops.migration import opened_alone
from llmops.processes import users_of_file
from llmops.registry.schema import checked_schema, database_of, installed_mlflow, store_schema
from llmops.registry.store import translated
from llmops.settings import Settings
from llmops.state_files import make_private_folder, shown, sqlite_path

Progress = Callable[[str], None]
"""Called with what is done next."""

MOVED = ("trace_tags", "trace_request_metadata", "trace_metrics", "span_metrics")
"""Tables that lose rows to an upgrade as they should: MLflow makes columns of traces and spans of some of them."""
_SESSIONS = """SELECT pid, coalesce(nullif(application_name, ''), 'unnamed'), coalesce(host(client_addr), 'local')
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'"""


@dataclass(frozen=True, slots=True)
class StoreUpgrade(JsonData):
    """before, after: revisions of the tables; the same where there was nothing to do. backup: None where none was asked
    for or needed. rows: of each table that stood there before, the number before and after. way_back: what to do."""

    store: str
    mlflow: str
    before: str
    after: str
    backup: str | None
    rows: Mapping[str, tuple[int, int]]
    way_back: str | None


def upgrade_store(settings: Settings, progress: Progress, backup: Path | None, *, make_backup: bool) -> StoreUpgrade:
    """Upgrades the store of the settings, unless it is up to date. backup: the file to make; None names one beside the
    store. Raises IncompatibleStore: it is newer than the installed MLflow. CannotRun: it is behind a server, in use, or
    cannot be backed up; or rows would be lost. StoreUnavailable: it is not there, or its database failed. In each case
    the store is as it was."""
    uri, installed = settings.resolved_tracking_uri, installed_mlflow()
    path, where = sqlite_path(uri), shown(uri)
    database = database_of(uri)
    if database is None:
        raise CannotRun(
            f"{uri}: only a SQLite file or PostgreSQL can be upgraded here; a server's store, where it runs"
        )
    with translated(f"MLflow store {where}"):
        schema = store_schema(uri)
    if schema is None:
        raise StoreUnavailable(f"{where} holds no MLflow store; the first command that needs one makes it")
    if schema.state == "current":
        return StoreUpgrade(where, installed.version, schema.revision, schema.revision, None, {}, None)
    if schema.state == "newer":
        checked_schema(uri)
    name = f"mlflow-{schema.revision}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{'db' if path else 'dump'}"
    target = (backup or (path.parent if path else settings.home) / name).absolute() if make_backup else None
    if target is not None and target.exists():
        raise CannotRun(f"{target} exists: name another file with --backup")
    with translated(f"MLflow store {where}"):
        if target is not None:
            make_private_folder(target.parent)
        if path is None:
            rows = _upgrade_postgresql(uri, database, target, progress)
        else:
            rows = _upgrade_sqlite(uri, path, target, progress)
    way_back = _way_back(path, target, schema.revision) if target else None
    made = str(target) if target else None
    return StoreUpgrade(where, installed.version, schema.revision, installed.newest, made, rows, way_back)


def _way_back(path: Path | None, backup: Path, revision: str) -> str:
    """How the store becomes what it was, in a sentence."""
    mlflow = f"with an MLflow whose tables are of revision {revision}"
    if path is None:
        return (
            f"to go back: stop everything, `createdb NAME`, `pg_restore --dbname=NAME {backup}`, and set"
            f" LLMOPS_TRACKING_URI to that database {mlflow}"
        )
    return f"to go back: stop everything, `rm -f {path}-wal {path}-shm`, `cp {backup} {path}`, {mlflow}"


def _upgrade_sqlite(uri: str, path: Path, backup: Path | None, progress: Progress) -> dict[str, tuple[int, int]]:
    if users := users_of_file(path):
        raise CannotRun(f"{path} is in use by {', '.join(users)}: stop the gateway and everything else")
    scratch = path.with_name(f"{path.name}.upgrading")
    with opened_alone(uri) as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("COMMIT")  # SQLite backs up no open transaction; the file stays locked for all others
        try:
            progress("copying the store")
            for copy in filter(None, (backup, scratch)):
                copy.unlink(missing_ok=True)
                os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
                with closing(sqlite3.connect(copy)) as target:
                    driver.backup(target)
            progress("upgrading the copy")
            before = _row_counts(connection)
            _upgrade_tables(f"sqlite:///{scratch}")
            with closing(sqlite3.connect(scratch)) as upgraded:
                engine = sa.create_engine("sqlite://", creator=lambda: upgraded, poolclass=sa.StaticPool)
                with engine.connect() as opened:
                    after = _row_counts(opened)
                rows = _compared(before, after, f"{path} was not changed")
                progress("writing the upgraded tables")
                upgraded.backup(driver)
            found = _row_counts(connection)
            if found != after:
                raise CannotRun(f"{path} holds other rows than the upgraded copy: put back {backup}")
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                scratch.with_name(f"{scratch.name}{suffix}").unlink(missing_ok=True)
    return rows


def _upgrade_postgresql(
    uri: str, database: sa.Engine, backup: Path | None, progress: Progress
) -> dict[str, tuple[int, int]]:
    try:
        with database.connect() as connection:
            if sessions := connection.exec_driver_sql(_SESSIONS).all():
                told = ", ".join(f"{name} from {address} (pid {pid})" for pid, name, address in sessions)
                raise CannotRun(f"{shown(uri)} is in use by {told}: stop the gateways and everything else")
            if backup is not None:
                progress("backing up")
                _dump(uri, backup)
            before = _row_counts(connection)
            connection.rollback()  # a lock would make the migrations wait
            progress("upgrading")
            _upgrade_tables(uri)
            after = _row_counts(connection)
    finally:
        database.dispose()
    return _compared(before, after, f"put back {backup or 'your backup'}")


def _dump(uri: str, backup: Path) -> None:
    """Writes the whole database with PostgreSQL's own tool. Raises CannotRun."""
    url = sa.make_url(uri)
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    command = ["pg_dump", "--format=custom", f"--file={backup}", f"--dbname={address}"]
    if shutil.which("pg_dump") is None:
        raise CannotRun(
            f"pg_dump is not installed here: run `{' '.join(command)}` where it is, then `llmops store upgrade"
            " --no-backup`"
        )
    password = {"PGPASSWORD": url.password} if url.password else {}
    done = subprocess.run(command, env={**os.environ, **password}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        backup.unlink(missing_ok=True)
        raise CannotRun(f"pg_dump failed, and nothing was changed: {done.stderr.strip().splitlines()[-1]}")
    backup.chmod(0o600)


def _upgrade_tables(uri: str) -> None:
    """What `mlflow db upgrade` does. Raises CannotRun."""
    from mlflow.db import upgrade

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        upgrade.callback(uri)
    except Exception as error:  # of MLflow's migrations, of Alembic and of the database
        raise CannotRun(f"MLflow's migration failed, and nothing was changed: {first_line(error)}") from error


def _row_counts(connection: sa.Connection) -> dict[str, int]:
    """Rows of each table but for Alembic's."""
    names = [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
    count = sa.select(sa.func.count())
    return {name: connection.execute(count.select_from(sa.table(name))).scalar_one() for name in sorted(names)}


def _compared(before: Mapping[str, int], after: Mapping[str, int], otherwise: str) -> dict[str, tuple[int, int]]:
    """Rows before and after. Raises CannotRun where some are missing. otherwise: what to do then."""
    rows = {name: (count, after.get(name, 0)) for name, count in before.items()}
    lost = {name: both for name, both in rows.items() if both[1] < both[0] and name not in MOVED}
    if lost:
        told = ", ".join(f"{name} {was} → {now}" for name, (was, now) in lost.items())
        raise CannotRun(f"MLflow's migration loses rows ({told}): {otherwise}")
    return rows
