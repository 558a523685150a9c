"""The opened MLflow store: where it is, how its errors become ours, and what keeps SQLite fast and whole."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.errors import StoreUnavailable, UnknownVersion, UsageError
from llmops.production_log.database import shown
from llmops.registry.relocation import follow_home
from llmops.settings import Settings
from llmops.state_files import (
    FileIdentity,
    WatchedFile,
    advised,
    keep_private,
    make_private_folder,
    sqlite_path,
    write_ahead,
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
_PAGE = 1000
_MARKS: list[sa.Select[*tuple[Any, ...]]] = [
    # MLflow's tables. Its version is pinned, and the tests of a poll fail should they change their names.
    sa.select(*map(sa.column, columns)).select_from(sa.table(table))
    for table, columns in (
        ("registered_models", ("name", "last_updated_time")),
        ("registered_model_aliases", ("name", "alias", "version")),
        ("registered_model_tags", ("name", "key", "value")),
    )
]
_open_lock = threading.Lock()


class Store:
    """An MLflow tracking and registry store, reached through `client`. Safe to share between threads."""

    def __init__(self, settings: Settings, file: FileIdentity | None = None) -> None:
        """Opens the store, making its tables and folders when absent. file: the SQLite file that it must be; None: any,
        or a new one. Raises StoreUnavailable."""
        self.settings = settings
        self.uri = settings.resolved_tracking_uri
        for name, value in _MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        if self.uri.startswith("sqlite:"):
            _tune_sqlite()
        with _open_lock, translated(f"MLflow store {shown(self.uri)}"):
            path = sqlite_path(self.uri)
            self._file = None if path is None else WatchedFile(path, file)
            if self._file is not None:
                self._file.check()
            self._refuse_lost_database()
            make_private_folder(settings.home)
            keep_private(settings.home)
            if self.uri.startswith("sqlite:"):
                _check_sqlite(self.uri)
            self.make_current()
            self.client: Any = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self._experiments: dict[str, str] = {}
            self.experiment(_REGISTRY_EXPERIMENT)
            self._follow_home()
            self._database = _database(self.uri)
            if self._file is not None:
                self._file.opened()

    def make_current(self) -> None:
        """Points MLflow's module-level functions, and what its client does through them, at this store: they use
        whichever was named last in the process."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)

    def _follow_home(self) -> None:
        """A store that lies in the home keeps its artifacts there, wherever the home is now."""
        if (database := self._database_in_home()) is not None:
            artifacts_set = self.settings.artifacts is not None
            follow_home(database, database.parent, _REGISTRY_EXPERIMENT, artifacts_set=artifacts_set)

    def _refuse_lost_database(self) -> None:
        """What lies in the artifacts was recorded in a database: a new one would know nothing of it."""
        database = self._database_in_home()
        if database is None or database.exists():
            return
        artifacts = database.with_name("artifacts")
        if any(artifacts.glob("*/*")):
            raise StoreUnavailable(
                f"{database} is missing, and {artifacts} holds what was recorded in it: put a backup in its place, "
                "or move that folder away to begin anew"
            )

    def _database_in_home(self) -> Path | None:
        """The home's own `mlflow.db`; None where the store is elsewhere."""
        database, own = sqlite_path(self.uri), self.settings.home.resolve() / "mlflow.db"
        return own if database is not None and database.resolve() == own else None

    def experiment(self, name: str = _REGISTRY_EXPERIMENT) -> str:
        """Id of the experiment of that name, made when absent. Raises StoreUnavailable."""
        if name not in self._experiments:
            with translated(f"experiment {name}"):
                found = self.client.get_experiment_by_name(name)
                self._experiments[name] = found.experiment_id if found else self._create_experiment(name)
        return self._experiments[name]

    def _create_experiment(self, name: str) -> str:
        root = self.settings.artifact_root
        location = f"{root}/{name}" if "://" in root else (Path(root).resolve() / name).as_uri()
        return str(self.client.create_experiment(name, artifact_location=location))

    def registered_model(self, name: str) -> Any | None:
        """MLflow's registered model, or None when there is none of that name. Raises StoreUnavailable."""
        with translated(f"registered model {name}"):
            try:
                return self.client.get_registered_model(name)
            except _mlflow_exception() as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def registered_models(self) -> list[Any]:
        """MLflow's registered models but for prompts, with their tags and aliases. Raises StoreUnavailable."""
        with translated("registered models"):
            page = self.client.search_registered_models(max_results=_PAGE)
            found = list(page)
            while page.token:
                page = self.client.search_registered_models(max_results=_PAGE, page_token=page.token)
                found += page
        return found

    def marks(self) -> Sequence[Any] | None:
        """What changes whenever a registered model, one of its aliases or tags, or the set of its versions does: a
        fortieth of the cost of MLflow's own search, where all is as it was. None where the store is behind a server.

        Raises StoreUnavailable, also for a SQLite file that was taken away, replaced or cut short: what is there now is
        not what was served.
        """
        if self._file is not None:
            self._file.check()
        if self._database is None:
            return None
        with translated(f"MLflow store {shown(self.uri)}"), self._database.connect() as connection:
            return [connection.execute(query).all() for query in _MARKS]


@functools.cache
def _tune_sqlite() -> None:
    """Write-ahead log and fewer syncs for MLflow's SQLite files: half the time of recording, nothing lost on a crash
    of the process (a power cut may cost the last commits, which a re-run makes again)."""

    def tune(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            write_ahead(connection)

    sa.event.listen(sa.pool.Pool, "connect", tune)


def _database(uri: str) -> sa.Engine | None:
    """MLflow's own database, for reading alone; None where the store is behind a server."""
    try:
        url = sa.make_url(uri)
        # A database in memory is another one for each who opens it.
        return None if url.database in (None, "", ":memory:") else sa.create_engine(url, pool_size=1)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError):
        return None


def _check_sqlite(uri: str) -> None:
    """Raises at once where the file cannot be opened, is no database or is damaged; MLflow would try again for 100
    seconds."""
    if database := sa.make_url(uri).database:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            write_ahead(connection)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _mlflow_exception() -> Any:
    from mlflow.exceptions import MlflowException

    return MlflowException


@contextmanager
def translated(what: str) -> Iterator[None]:
    """The seam: MLflow's and its drivers' exceptions leave as ours, naming `what` was tried."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        first_line = str(error).splitlines()[0]
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UnknownVersion(f"{what}: {first_line}") from error
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"):
            raise UsageError(f"{what}: {first_line}") from error
        raise StoreUnavailable(f"{what}: {first_line}") from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError) as error:
        raise StoreUnavailable(f"{what}: {advised(str(error).splitlines()[0])}") from error
