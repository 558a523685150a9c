"""A home that was moved or copied: MLflow keeps absolute artifact locations in its database, and without a change it
would go on writing into the folder that the home came from."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmops.errors import StoreUnavailable
from llmops.state_files import BUSY_SECONDS

logger = logging.getLogger("llmops.registry")

HOME_TAG = "llmops.home"
"""Tag of the registry's experiment: the home that the artifact locations in this database were written for."""

_LOCATIONS = (
    # MLflow's tables. Its version is pinned, and a test looks for the old folder in every column of a moved home.
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def follow_home(database: Path, home: Path, experiment: str, *, artifacts_set: bool) -> int:
    """Makes the artifact locations in a home's MLflow database point into that home; returns how many were changed.

    Locations outside of the earlier home (`LLMOPS_ARTIFACTS` was set) stay as they are. One transaction: of several
    processes that open a moved home at once, one does it.

    database: the SQLite file in `home`. experiment: name of the registry's experiment, whose location tells where the
    artifacts of this database were kept. artifacts_set: they are kept elsewhere on purpose, so that a location outside
    of the home says nothing about where it was.

    Raises:
        StoreUnavailable: the database was copied without its artifacts, which still lie in the home it came from; or
            it cannot be written.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        earlier = _earlier_home(connection, home, experiment, artifacts_set)
        if earlier is None:
            return 0
        if earlier == home:
            with contextlib.suppress(sqlite3.OperationalError):  # a store that may only be read
                _record(connection, home, experiment)
            return 0
        _refuse_half_copied(earlier, home)
        try:
            connection.execute("BEGIN IMMEDIATE")
            changed = 0
            if _earlier_home(connection, home, experiment, artifacts_set) == earlier:
                changed = sum(_move(connection, *place, earlier, home) for place in _LOCATIONS)
                _record(connection, home, experiment)
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(
                f"{database}: this home came from {earlier}, and its artifact locations cannot be changed to {home}: "
                f"{error}; make the file writable"
            ) from error
    if changed:
        logger.warning("home %s was %s before: %d artifact locations now point here", home, earlier, changed)
    return changed


def _earlier_home(connection: sqlite3.Connection, home: Path, experiment: str, artifacts_set: bool) -> Path | None:
    """Where the home was when its locations were written: `home` itself where that is not on record yet. None where
    nothing has to be changed or recorded."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables.issuperset({"experiments", "experiment_tags"}):
        return None
    query = (
        "SELECT artifact_location, (SELECT value FROM experiment_tags AS t"
        " WHERE t.experiment_id = e.experiment_id AND t.key = ?) FROM experiments AS e WHERE name = ?"
    )
    found = connection.execute(query, (HOME_TAG, experiment)).fetchone()
    if found is None:
        return None
    location, recorded = found
    if recorded is not None:
        return None if recorded == str(home) else Path(recorded)
    # Homes of version 0.1 have no such tag. Theirs is the folder above `artifacts`, unless that was set elsewhere:
    # a home that is still there has its own database, and one that was moved away is not there at all.
    artifacts = Path(unquote(urlsplit(location).path)).parent
    if artifacts_set or artifacts.name != "artifacts" or urlsplit(location).scheme != "file":
        return home
    was_home = _is_there(artifacts.parent / "mlflow.db") or not _is_there(artifacts)
    return artifacts.parent if was_home else home


def _refuse_half_copied(earlier: Path, home: Path) -> None:
    if _is_there(earlier / "artifacts") and not _is_there(home / "artifacts"):
        raise StoreUnavailable(
            f"{home}: mlflow.db was copied from {earlier} without its artifacts; copy {earlier / 'artifacts'} too, "
            "or run with LLMOPS_HOME set to that home"
        )


def _is_there(path: Path) -> bool:
    """Whether this user can see it: the folder that a home came from may be another's."""
    try:
        return path.exists()
    except OSError:
        return False


def _move(connection: sqlite3.Connection, table: str, column: str, earlier: Path, home: Path) -> int:
    """Rewrites the values of one column that lie in the earlier home, as a URI or as a path."""
    if not any(name == column for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")):
        return 0
    changed = 0
    for old, new in ((earlier.as_uri(), home.as_uri()), (str(earlier), str(home))):
        statement = (
            f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608 - names from the list above
            f" WHERE substr({column}, 1, ?) = ?"
        )
        prefix = f"{old}/artifacts/"
        values = (f"{new}/artifacts/", len(prefix) + 1, len(prefix), prefix)
        changed += connection.execute(statement, values).rowcount
    return changed


def _record(connection: sqlite3.Connection, home: Path, experiment: str) -> None:
    connection.execute(
        "INSERT INTO experiment_tags (key, value, experiment_id)"
        " SELECT ?, ?, experiment_id FROM experiments WHERE name = ?"
        " ON CONFLICT (key, experiment_id) DO UPDATE SET value = excluded.value",
        (HOME_TAG, str(home), experiment),
    )
