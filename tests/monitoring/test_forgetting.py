"""What belongs to a user leaves the monitor's tables, and nothing else does; texts go as far as they are described."""

import json
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa

from llmops.production_log import Feedback, ProductionLog
from monitoring.act import action_tables
from monitoring.decide.references import ensure_tables, reference_summaries
from monitoring.forgetting import forget_in_database, still_holds
from monitoring.store.database import writing
from monitoring.store.ingest_feedback import ingest_feedback
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader
from monitoring.stores import described_up_to, retain
from tests.monitoring.conftest import slow_on_postgresql
from tests.monitoring.described import APP, START, cheap_set, record, records, rows_in, selected

SLICES = ("release", "user", "language")
SET = cheap_set()


@pytest.fixture
def described(any_log, describe):
    """100 rows, a quarter of them user1's, over some hours."""
    describe(records(range(100)))
    return any_log


@pytest.fixture
def left(engine):
    def left(found):
        with engine.connect() as connection:
            return still_holds(connection, found)

    return left


@pytest.fixture
def forget(any_log, left):
    """Forgets, sees that nothing is left, and gives the rows changed by table."""

    def forget(**asked):
        found = any_log.belongings(**asked)
        with any_log.forgetting(found) as (connection, _):
            changed = forget_in_database(connection, found)
        assert not any(left(found).values())
        return changed

    return forget


@pytest.fixture
def rows(engine):
    """The rows that are left; the whole app's summary says the same as they do."""

    def rows():
        reader = WindowReader(engine, SET)
        found = rows_in(reader, APP, None, None)
        assert reader.whole(APP, None, None) == Summary.of(found, SET)
        return found

    return rows


def test_rows_and_summaries_are_as_if_the_user_had_never_been(described, engine, left, forget, rows):
    counts = left(described.belongings(user="user1"))
    assert counts["descriptor_segments"] == 25
    assert counts["hourly_summaries"] > 0
    assert not any(left(described.belongings(user="nobody")).values())
    assert forget(user="user1")["descriptor_segments"] == 25
    assert sorted(rows().keys) == [record(number).key for number in range(100) if number % 4 != 1]
    assert set(WindowReader(engine, SET).by_value(APP, None, None, "user")) == {"user0", "user2", "user3"}


@slow_on_postgresql
def test_one_request_and_feedback_that_the_user_gave_leave_rows_and_summaries(described, engine, forget, rows):
    assert forget(request_id="r5")["descriptor_segments"] == 1
    assert len(rows()) == 99
    about = record(8)
    described.add_feedback(Feedback("r8", about.key, "k", app=APP, user="user1", score=1.0))
    ingest_feedback(described, engine, SET, slices=SLICES)
    forget(user="user1")
    assert len(rows()) == 75


def alarm(**values):
    filled = {"identity": "i", "app": APP, "what": "output.refusal", "kind": "drift", "side": "output", "why": "w",
              "severity": "warning", "slice": {}, "rows": [], "source": "s", "first_at": 0, "last_at": 0, "times": 1,
              "told": 0, **values}  # fmt: skip
    return sa.insert(action_tables.alarm_book).values(filled)


def test_alarms_lose_the_users_rows_and_slices(described, engine, left, forget):
    result = {
        "slices": [{"slice": {"user": "user1"}}, {"slice": {"user": "user2"}}],
        "alarms": [{"rows": ["r1", "r2"]}],
    }
    window = {"app": APP, "until": 1.0, "since": 0.0, "tested_at": 1.0, "state": "alarm", "result": result}
    with writing(engine) as connection:
        connection.execute(alarm(slice={"user": "user1"}))
        connection.execute(alarm(rows=["r1", "r2"]))
        connection.execute(sa.insert(action_tables.tested_windows).values(window))
    counts = left(described.belongings(user="user1"))
    assert (counts["alarm_book"], counts["tested_windows"]) == (2, 1)
    assert forget(user="user1")["alarm_book"] >= 3
    assert selected(engine, sa.select(action_tables.alarm_book.c.rows)) == [["r2"]]
    (kept,) = selected(engine, sa.select(action_tables.tested_windows.c.result))
    assert kept == {"slices": [{"slice": {"user": "user2"}}], "alarms": [{"rows": ["r2"]}]}


@slow_on_postgresql
@pytest.mark.usefixtures("described")
def test_a_frozen_reference_loses_the_users_slice(engine, forget):
    ensure_tables(engine)
    with writing(engine) as connection:
        for dimension, value in [("user", "user1"), ("user", "user2"), ("release", "user1")]:
            row = {"reference": 1, "dimension": dimension, "value": value, "summary": b""}
            connection.execute(sa.insert(reference_summaries).values(row))
    assert forget(user="user1")["reference_summaries"] == 1


@slow_on_postgresql
def test_a_table_that_nobody_here_knows_is_searched_too(described, engine, left):
    document = json.dumps({"seen": [{"by": "x\\y"}, record(1).key]})
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE somebody_elses (id INTEGER, note TEXT)")
        insert = sa.insert(sa.table("somebody_elses", sa.column("id"), sa.column("note")))
        connection.execute(insert, [{"id": 1, "note": document}, {"id": 2, "note": "r1"}, {"id": 3, "note": "r10"}])
    assert left(described.belongings(user="user1"))["somebody_elses"] == 2


@slow_on_postgresql
@pytest.mark.usefixtures("described")
def test_a_user_who_is_called_like_an_app_takes_nothing_else_along(describe, forget, rows):
    describe([record(100, user=APP)])
    forget(user=APP)
    assert len(rows()) == 100


@slow_on_postgresql
@pytest.mark.parametrize("name", ["en", APP])
def test_a_request_that_is_called_like_a_language_or_an_app_is_forgotten_completely(
    describe, described, engine, left, forget, name
):
    describe([record(100, request_id=name)])
    with writing(engine) as connection:
        connection.execute(alarm(rows=["r1", name]))
    assert left(described.belongings(request_id=name))["alarm_book"] == 1
    forget(request_id=name)
    assert selected(engine, sa.select(action_tables.alarm_book.c.rows)) == [["r1"]]


@pytest.mark.parametrize("url", ["sqlite:///{folder}/log.db", "{postgresql}"])
def test_a_log_without_a_monitor_has_nothing_to_forget(url, tmp_path, postgres_url):
    with closing(ProductionLog(url.format(folder=tmp_path, postgresql=postgres_url))) as log:
        log.append(records(range(3)))
        found = log.belongings(user="user1")
        with log.forgetting(found) as (connection, _):
            assert (len(found.all_keys), forget_in_database(connection, found)) == (1, {})


def test_texts_are_deleted_as_far_as_the_log_is_described(any_log, engine, describe):
    now = START + timedelta(days=30)
    any_log.append(records(range(10)))
    assert described_up_to(engine) is None
    assert [retain(any_log, engine, days, now=now) for days in (None, 7)] == [0, 0]
    assert all(each.input for each in any_log.read())
    describe()
    any_log.append(records(range(10, 15)))
    assert described_up_to(engine) == 10
    assert retain(any_log, engine, 31, now=now) == 0
    assert retain(any_log, engine, 7, now=now, dry_run=True) == 10
    assert retain(any_log, engine, 7, now=now) == 10
    describe()
    assert retain(any_log, engine, 7, now=now) == 5
    assert selected(engine, "SELECT sum(rows) FROM hourly_summaries WHERE dimension = 'app'") == [15]
