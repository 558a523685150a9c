"""The log of the home that commands run in, and a monitor that has followed it."""

import pytest

from llmops.settings import Settings
from monitoring.store.database import open_database
from monitoring.store.ingest import ingest
from tests.monitoring.described import cheap_set


@pytest.fixture
def settings(home):
    return Settings(home=home)


def describe(log):
    engine = open_database(log.url)
    ingest(log, engine, cheap_set(), slices=("release", "user"))
    engine.dispose()
