"""Records and windows for the monitor's tests, made from seeds."""

import random
from collections.abc import Callable

import psycopg
import pytest

from llmops.production_log import LogRecord, ProductionLog
from llmops.settings import Settings
from monitoring.act.action_tables import ensure_tables
from monitoring.store.database import open_database
from monitoring.store.ingest import ingest
from tests.moments import MINUTE, START
from tests.monitoring.acting import Clock, http_receiver
from tests.monitoring.described import cheap_set

QUESTIONS = (
    "What is the capital of {}?",
    "How do I reset the password of my account in {}?",
    "Please summarise the news about {} in two sentences.",
    "Who wrote the national anthem of {}?",
)
PLACES = ("France", "Spain", "Peru", "Kenya", "Japan", "Norway")
REFUSAL = "I'm sorry, but I cannot help with that request."

FEW_DESCRIPTORS = """
[[descriptor]]
name = "{of}.length"
kind = "length"
of = ["input", "output"]

[[descriptor]]
name = "output.refusal"
kind = "refusal"
of = "output"

[[descriptor]]
name = "latency_ms"
kind = "latency_ms"
"""
"""Quick ones, for tests of anything but descriptors."""

MakeRecords = Callable[..., list[LogRecord]]


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def few_descriptors(tmp_path):
    """Settings with FEW_DESCRIPTORS in place of the packaged ones."""
    file = tmp_path / "monitor.toml"
    file.write_text(FEW_DESCRIPTORS, encoding="utf-8")
    return Settings(home=tmp_path, monitor_config=file)


@pytest.fixture
def log(settings):
    log = ProductionLog(settings.resolved_log_url)
    yield log
    log.close()


@pytest.fixture
def make_records():
    """Chat records a minute apart; `first` numbers them and sets the time of the first."""

    def make(count, *, first=0, refusals=0.05, release="assistant@1", question=None):
        chance = random.Random(first)  # noqa: S311 (test data)
        records = []
        for number in range(first, first + count):
            place = chance.choice(PLACES)
            asked = question or chance.choice(QUESTIONS).format(place)
            told = f"The answer about {place} is well known. " + "People like it. " * chance.randint(1, 5)
            answer = REFUSAL if chance.random() < refusals else told
            records.append(
                LogRecord(
                    request_id=f"r{number}",
                    at=START + number * MINUTE,
                    status=200,
                    outcome="ok",
                    input=asked,
                    output=answer,
                    release=release,
                    tokens_in=len(asked) // 4,
                    tokens_out=len(answer) // 4,
                    latency_ms=chance.gammavariate(4, 60),
                )
            )
        return records

    return make


slow_on_postgresql = pytest.mark.parametrize(
    "log_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
"""For tests that take seconds there, and whose databases differ in nothing that other tests do not try."""


EMPTYING = """
SELECT format('DELETE FROM %I', tablename) FROM pg_tables WHERE schemaname = current_schema()
UNION ALL SELECT format('ALTER SEQUENCE %I RESTART', sequencename) FROM pg_sequences
WHERE schemaname = current_schema() AND last_value IS NOT NULL
"""
"""The statements that empty a schema: in a fifth of the time of TRUNCATE, which makes new files."""


@pytest.fixture(scope="session")
def _kept_schema(postgres):
    return postgres.new_schema()


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request, tmp_path):
    """The URL of an empty production log, on each database in turn. PostgreSQL's tables are kept and emptied: to make
    those of the monitor anew takes three times as long as most of this room's tests."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/log.db"
    url = request.getfixturevalue("_kept_schema")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("; ".join(statement for (statement,) in connection.execute(EMPTYING)))
    return url


@pytest.fixture
def engine(any_log):
    """The database of an empty log, on each database in turn, with the monitor's tables in it."""
    made = open_database(any_log.url)
    ensure_tables(made)
    yield made
    made.dispose()


@pytest.fixture
def describe(any_log, engine):
    """Logs these records and describes all that is new, of which it gives the number; cheaply unless told otherwise."""

    def describe(made=(), descriptors=cheap_set(), slices=("release", "user", "language"), **given):  # noqa: B008
        any_log.append([*made])
        return ingest(any_log, engine, descriptors, slices=slices, **given)

    return describe


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def receiver():
    with http_receiver() as running:
        yield running


@pytest.fixture
def worse(log, make_records):
    """200 good records, then 200 of a release that refuses too often."""
    log.append(make_records(200))
    log.append(make_records(200, first=200, refusals=0.4, release="assistant@2"))
