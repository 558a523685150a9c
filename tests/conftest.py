"""What tests of every room may ask for."""

import asyncio
import gc
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa

from deploy.services.servers import PostgresServer, postgres_server
from llmops.production_log import ProductionLog
from llmops.registry import store
from tests.command_line import home, llmops
from tests.other_mlflow import environment_with, with_mlflow
from tests.registered_home import workshop

__all__ = ["environment_with", "home", "llmops", "with_mlflow", "workshop"]  # fixtures

# Tests run on every core: how long one example takes says nothing. Examples are the same each time, so that a failure
# is a change's and not a draw's; `make test-all` draws others.
hypothesis.settings.register_profile("llmops", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("draw", deadline=None)
hypothesis.settings.load_profile("llmops")

# Tests run on every core: decoding threads that spin for one that was interrupted take the time that it needs.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# With MLflow, pandas and PyTorch loaded, each full collection looks through half a million objects: at the default
# thresholds, a seventh of the computing of a test of MLflow.
gc.set_threshold(20_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def _tables_of_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow makes its tables by every migration since its first version: a second of computing and hundreds of writes
    to the disk for each new store. The first store of this process makes them; others begin with a copy."""
    made, write_ahead = tmp_path_factory.mktemp("mlflow") / "tables.db", store.write_ahead

    def make_tables() -> None:
        from mlflow.store.db.utils import _initialize_tables

        engine = sa.create_engine(f"sqlite:///{made}")
        with pytest.MonkeyPatch.context() as as_ever:  # every new connection of this process is told to write ahead
            as_ever.setattr(store, "write_ahead", write_ahead)
            _initialize_tables(engine)
        engine.dispose()

    def begin_with_tables(connection: sqlite3.Connection) -> None:  # which may be that of another database
        is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        if is_empty and connection.execute("PRAGMA database_list").fetchone()[2].endswith("/mlflow.db"):
            if not made.exists():
                make_tables()
            with closing(sqlite3.connect(made)) as tables:
                tables.backup(connection)
        write_ahead(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "write_ahead", begin_with_tables)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private PostgreSQL server."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """A PostgreSQL URL where the test finds no tables but its own."""
    return postgres.new_schema()


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a production log yet to be made, on each database in turn."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path}/deep/log.db"


@pytest.fixture
def any_log(log_url: str) -> Iterator[ProductionLog]:
    """An empty production log, on each database in turn."""
    log = ProductionLog(log_url)
    yield log
    log.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    """`await eventually(condition)` polls until it holds; the condition may be a coroutine function."""

    async def wait(condition: Callable[[], Any], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            held = condition()
            if await held if asyncio.iscoroutine(held) else held:
                return
            assert time.monotonic() < deadline, "waited too long"
            await asyncio.sleep(0.005)

    return wait
