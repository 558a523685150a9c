"""What tests of every room may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from llmops.production_log import ProductionLog
from tests.command_line import home, llmops
from tests.postgres import PostgresServer, postgres_server
from tests.registered_home import workshop

__all__ = ["home", "llmops", "workshop"]  # fixtures

# Tests run on every core: how long one example takes says nothing. Examples are the same each time, so that a failure
# is a change's and not a draw's; `make test-all` draws others.
hypothesis.settings.register_profile("llmops", deadline=None, derandomize=True)
hypothesis.settings.register_profile("draw", deadline=None)
hypothesis.settings.load_profile("llmops")


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
