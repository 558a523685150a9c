"""The opened MLflow store: where it is, how its errors become ours, and what keeps SQLite fast and whole."""

import contextlib
import functools
import logging
import os
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from llmops.errors import StoreUnavailable, UnknownVersion, UsageError, first_line
from llmops.processes import folder_locked
from llmops.registry.mlflow_database import REVISION, DatabaseClient
from llmops.registry.schema import StoreSchema, checked_schema, database_of, store_schema
from llmops.settings import Settings
from llmops.state_files import (
    BUSY_SECONDS,
    FileIdentity,
    WatchedFile,
    advised,
    keep_private,
    make_private_folder,
    shown,
    sqlite_path,
    write_ahead,
)
from llmops.traces_in_memory import SCHEME

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

# Read by MLflow when it is imported or first used, so they are set before either.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "RAGAS_DO_NOT_TRACK": "true",
    "MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT": "0",  # the default throttles to 10 rows a second
    "MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT": "0",
    "MLFLOW_GENAI_EVAL_MAX_WORKERS": "2",  # the default overruns the connection pool and loses assessments silently
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TQDM_DISABLE": "1",  # progress is shown by the command line, once
}
_REGISTRY_EXPERIMENT = "llmops"
_RECORD_HOME = (
    "INSERT INTO experiment_tags (key, value, experiment_id) SELECT ?, ?, experiment_id FROM experiments WHERE name = ?"
    " ON CONFLICT (key, experiment_id) DO UPDATE SET value = excluded.value"
)
_PAGE, _METRICS_AT_A_TIME, _PARAMS_AT_A_TIME = 1000, 1000, 100  # the last two are MLflow's limits
_NONE: Mapping[str, str] = MappingProxyType({})
_open_lock = threading.Lock()
_held: Counter[str] = Counter()
"""How many hold traces in memory, by the store's address."""
_held_lock = threading.Lock()


class Store:
    """An MLflow tracking and registry store, reached through `client`. Safe to share between threads."""

    def __init__(self, settings: Settings, file: FileIdentity | None = None) -> None:
        """Opens the store, making its tables and folders when absent. file: the SQLite file that it must be. Raises
        StoreUnavailable, which is IncompatibleStore where the tables are not the installed MLflow's."""
        self.settings = settings
        self.uri = settings.resolved_tracking_uri
        for name, value in _MLFLOW_ENVIRONMENT.items():
            if name != "TQDM_DISABLE" or "ipykernel" not in sys.modules:  # a notebook's other bars are its user's
                os.environ.setdefault(name, value)
        if self.uri.startswith("sqlite:"):
            _tune_sqlite()
        path, home = sqlite_path(self.uri), settings.home.resolve()
        in_home = path is not None and path.resolve() == home / "mlflow.db"
        with _open_lock, translated(f"MLflow store {shown(self.uri)}"):
            self._file = None if path is None else WatchedFile(path, file)
            if self._file is not None:
                self._file.check()
            artifacts = home / "artifacts"
            if in_home and path and not path.exists() and any(artifacts.glob("*/*")):
                raise StoreUnavailable(  # a new database would know nothing of them
                    f"{path} is missing, and {artifacts} holds what was recorded in it: put a backup in its place, "
                    "or move that folder away to begin anew"
                )
            make_private_folder(settings.home)
            # Beside a process that makes the tables, they look like those of an older MLflow.
            schema = store_schema(self.uri)
            is_made = schema is not None and schema.state == "current"
            with contextlib.nullcontext() if is_made or path is None else folder_locked(path.parent):
                if not is_made:
                    schema = checked_schema(self.uri)  # before anything is written
                keep_private(settings.home)
                if path is not None:
                    # At once where it cannot be opened, is no database or is damaged: MLflow would try for 100 s.
                    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
                        write_ahead(connection)
                        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                self._experiments: dict[str, str] = {}
                self.client: Any = self._database_client(schema) or self.mlflow_client
                self.experiment()
            if in_home:
                follow_home(home, artifacts_set=settings.artifacts is not None)
            if self._file is not None:
                self._file.opened()

    def _database_client(self, schema: StoreSchema | None) -> DatabaseClient | None:
        """None where the store is behind a server, or in a database that is read by MLflow alone."""
        database = database_of(self.uri)
        if database is None:
            return None
        schema = schema or store_schema(self.uri)
        if schema is None:
            self.mlflow_client.search_experiments(max_results=1)  # makes the tables of a new store
            schema = store_schema(self.uri)
        if schema is None or schema.revision != REVISION:
            database.dispose()
            return None
        return DatabaseClient(database, lambda: self.mlflow_client)

    @functools.cached_property
    def mlflow_client(self) -> Any:
        """MLflow's own client, which is imported by it."""
        import mlflow

        self.make_current()
        return mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def make_current(self) -> None:
        """Points MLflow's module-level functions at this store: they use whichever was named last in the process."""
        import mlflow

        for chatty in ("alembic", "mlflow"):  # which its import would undo
            logging.getLogger(chatty).setLevel(logging.WARNING)
        mlflow.set_tracking_uri(f"{SCHEME}:{self.uri}" if _held[self.uri] else self.uri)
        mlflow.set_registry_uri(self.uri)

    @contextmanager
    def holding_traces(self, traces: Sequence[Any]) -> Iterator[None]:
        """Within the block, MLflow's module-level functions find these traces in memory, in all threads."""
        from mlflow.tracing.client import TracingClient

        in_memory, stored = TracingClient(f"{SCHEME}:{self.uri}").store, TracingClient(self.uri).store

        def count_holders(more: int) -> None:
            with _held_lock:
                _held[self.uri] += more
            self.make_current()

        with in_memory.holding(traces, stored):
            count_holders(1)
            try:
                yield
            finally:
                count_holders(-1)

    def start_run(self, **arguments: Any) -> Any:
        """`mlflow.start_run` in this store."""
        import mlflow

        self.make_current()
        return mlflow.start_run(**arguments)

    def log_numbers(self, run_id: str, metrics: Sequence[Any], params: Mapping[str, str] = _NONE) -> None:
        """MLflow's metrics and parameters of a run, as many at a time as MLflow takes. Its errors pass through."""
        from mlflow.entities import Param

        shown = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(metrics), _METRICS_AT_A_TIME):
            self.client.log_batch(run_id, metrics=metrics[start : start + _METRICS_AT_A_TIME])
        for start in range(0, len(shown), _PARAMS_AT_A_TIME):
            self.client.log_batch(run_id, params=shown[start : start + _PARAMS_AT_A_TIME])

    def experiment(self, name: str = _REGISTRY_EXPERIMENT) -> str:
        """Id of the experiment of that name, made when absent. Raises StoreUnavailable."""
        if name not in self._experiments:
            root = self.settings.artifact_root
            location = f"{root}/{name}" if "://" in root else (Path(root).resolve() / name).as_uri()
            with translated(f"experiment {name}"):
                if not (ids := self.experiment_ids(name)):
                    try:
                        ids = [str(self.client.create_experiment(name, artifact_location=location))]
                    except Exception as error:  # somebody else may have made it at this moment
                        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                            raise
                        ids = self.experiment_ids(name)
            [self._experiments[name]] = ids
        return self._experiments[name]

    def experiment_ids(self, name: str) -> list[str]:
        """Id of the experiment of that name; empty where there is none. MLflow's errors pass through."""
        found = self.client.get_experiment_by_name(name)
        return [] if found is None else [str(found.experiment_id)]

    def registered_model(self, name: str) -> Any | None:
        """MLflow's registered model, or None when there is none of that name. Raises StoreUnavailable."""
        try:
            with translated(f"registered model {name}"):
                return self.client.get_registered_model(name)
        except UnknownVersion:
            return None

    def registered_models(self) -> list[Any]:
        """MLflow's registered models but for prompts, with their tags and aliases. Raises StoreUnavailable."""
        with translated("registered models"):
            return list(pages(self.client.search_registered_models))

    def versions_of(self, name: str) -> list[Any]:
        """MLflow's versions of the registered model `name`, in no order. Raises StoreUnavailable."""
        with translated(f"versions of {name}"):
            return list(self.client.search_model_versions(f"name = '{name}'"))

    def server_version(self) -> str | None:
        """Of MLflow's server; None where the store is a database. Raises StoreUnavailable."""
        if not self.uri.startswith(("http:", "https:")):
            return None
        from mlflow.tracking._tracking_service.utils import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        with translated(f"MLflow's server {self.uri}"):
            reply = http_request(get_default_host_creds(self.uri), "/version", "GET")
            reply.raise_for_status()
            return str(reply.text).strip()

    def marks(self) -> Sequence[Any] | None:
        """As `DatabaseClient.marks`; None where the store is behind a server. Raises StoreUnavailable, also for a
        SQLite file that was taken away, replaced or cut short."""
        if self._file is not None:
            self._file.check()
        if not isinstance(self.client, DatabaseClient):
            return None
        with translated(f"MLflow store {shown(self.uri)}"):
            return self.client.marks()


def pages(search: Callable[..., Any], at_a_time: int = _PAGE, **wanted: Any) -> Iterator[Any]:
    """All that a search of MLflow's finds, page by page."""
    token = None
    while token != "":
        page = search(max_results=at_a_time, page_token=token, **wanted)
        yield from page
        token = page.token or ""


@functools.cache
def _tune_sqlite() -> None:
    """Write-ahead log and fewer syncs for MLflow's SQLite files: half the time of recording, nothing lost on a crash
    of the process (a power cut may cost the last commits, which a re-run makes again)."""

    def tune(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            write_ahead(connection)

    sa.event.listen(sa.pool.Pool, "connect", tune)


def follow_home(home: Path, *, artifacts_set: bool) -> int:
    """Makes the artifact locations in a home's `mlflow.db` point into that home; returns how many were changed.

    MLflow keeps absolute locations: in a home that was moved or copied it would go on writing into the one that it came
    from. Of several processes that open a moved home at once, one does it.

    artifacts_set: artifacts are kept elsewhere on purpose, so a location outside of the home says nothing about it.

    Raises StoreUnavailable: the database was copied without its artifacts, or it cannot be written.
    """
    database, changed = home / "mlflow.db", 0
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        earlier = _earlier_home(connection, home, artifacts_set)
        if earlier is None:
            return 0
        if earlier == home:
            with contextlib.suppress(sqlite3.OperationalError):  # a store that may only be read
                connection.execute(_RECORD_HOME, (HOME_TAG, str(home), _REGISTRY_EXPERIMENT))
            return 0
        if _is_there(earlier / "artifacts") and not _is_there(home / "artifacts"):
            raise StoreUnavailable(
                f"{home}: mlflow.db was copied from {earlier} without its artifacts; copy {earlier / 'artifacts'} too, "
                "or run with LLMOPS_HOME set to that home"
            )
        try:
            connection.execute("BEGIN IMMEDIATE")
            if _earlier_home(connection, home, artifacts_set) == earlier:
                changed = sum(_move(connection, *place, earlier, home) for place in _LOCATIONS)
                connection.execute(_RECORD_HOME, (HOME_TAG, str(home), _REGISTRY_EXPERIMENT))
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(
                f"{database}: this home came from {earlier}, and its artifact locations cannot be changed to {home}: "
                f"{error}; make the file writable"
            ) from error
    if changed:
        logger.warning("home %s was %s before: %d artifact locations now point here", home, earlier, changed)
    return changed


def _earlier_home(connection: sqlite3.Connection, home: Path, artifacts_set: bool) -> Path | None:
    """The home that the locations were written for; `home` itself if not on record; None if nothing is to be done."""
    query = (
        "SELECT artifact_location, (SELECT value FROM experiment_tags AS t"
        " WHERE t.experiment_id = e.experiment_id AND t.key = ?) FROM experiments AS e WHERE name = ?"
    )
    found = connection.execute(query, (HOME_TAG, _REGISTRY_EXPERIMENT)).fetchone()
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


def _is_there(path: Path) -> bool:
    """Whether this user can see it: the folder that a home came from may be another's."""
    return os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises OSError


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


@contextmanager
def translated(what: str) -> Iterator[None]:
    """The seam: MLflow's and its drivers' exceptions leave as ours, naming `what` was tried."""
    try:
        yield
    except UnknownVersion as error:  # what MLflow's own client calls so too
        raise UnknownVersion(f"{what}: {error}") from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:  # those of requests are OSErrors
        raise StoreUnavailable(f"{what}: {advised(first_line(error))}") from error
    except Exception as error:
        code = getattr(error, "error_code", None)  # MLflow's exceptions, known without importing it
        if code is None or not type(error).__module__.startswith("mlflow."):
            raise
        problem = f"{what}: {first_line(error)}"
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise UnknownVersion(problem) from error
        if code in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"):
            raise UsageError(problem) from error
        raise StoreUnavailable(problem) from error
