"""One mover at a time: whoever moves aliases, or registers, waits for the one at work, whatever its process.

Two moves that overlap could leave aliases as neither of them meant, and a log that no longer says how they stand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import sqlalchemy as sa

from llmops.errors import StoreUnavailable
from llmops.process_lock import ProcessLock
from llmops.production_log.database import database_url, open_engine, translated

_LOCK = 0x6C6C6D04  # one of PostgreSQL's advisory locks, which are named by numbers
_LOOK_AGAIN_SECONDS = 0.02
DEFAULT_PATIENCE = 60.0


class MoveLock:
    """A lock between threads and processes that share a log's database; a process that is killed lets go of it.

    The same thread may take it again while it holds it. patience: seconds to wait for it.
    """

    def __init__(self, url: str, patience: float = DEFAULT_PATIENCE) -> None:
        self._url, self._patience = url, patience
        self._threads = threading.RLock()
        self._depth = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Holds the lock. Raises StoreUnavailable where another one holds it for too long."""
        deadline = time.monotonic() + self._patience
        if not self._threads.acquire(timeout=self._patience):
            raise self._too_long()
        try:
            with nullcontext() if self._depth else self._between_processes(deadline):
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
        finally:
            self._threads.release()

    def _between_processes(self, deadline: float) -> AbstractContextManager[None]:
        if database_url(self._url).get_backend_name() == "postgresql":
            return self._in_postgresql(deadline)
        file = sqlite_file(self._url)
        return nullcontext() if file is None else self._beside_the_file(f"{file}-moves", deadline)

    @contextmanager
    def _beside_the_file(self, path: str, deadline: float) -> Iterator[None]:
        with translated(self._url):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            lock = ProcessLock(path)
        try:
            while not lock.acquire(wait=False):
                self._wait(deadline)
            yield
        finally:
            lock.close()

    @contextmanager
    def _in_postgresql(self, deadline: float) -> Iterator[None]:
        engine = open_engine(self._url)
        try:
            with translated(self._url):
                connection = engine.connect()
            with connection:
                while not self._asked(connection):
                    self._wait(deadline)
                yield  # the transaction stays open, and with it the lock
        finally:
            engine.dispose()

    def _asked(self, connection: sa.Connection) -> bool:
        with translated(self._url):
            return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_LOCK})").scalar_one())

    def _wait(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise self._too_long()
        time.sleep(_LOOK_AGAIN_SECONDS)

    def _too_long(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"another process has been moving aliases or registering for {self._patience:g} s; try again when it ends"
        )


def sqlite_file(url: str) -> str | None:
    """The path of a SQLite database that is a plain file; None for any other database."""
    parsed = database_url(url)
    name = parsed.database if parsed.get_backend_name() == "sqlite" else None
    return name if name and name != ":memory:" and not name.startswith("file:") else None
