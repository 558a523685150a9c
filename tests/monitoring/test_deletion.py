"""What belongs to a user leaves the monitor's tables, and nothing else does."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from llmops.production_log import Feedback
from monitoring import forgetting
from monitoring.act import action_tables
from monitoring.decide.references import ensure_tables, reference_summaries
from monitoring.store.database import hourly_summaries, open_database, writing
from monitoring.store.ingest import ingest
from monitoring.store.ingest_feedback import ingest_feedback
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader
from monitoring.stores import described_up_to, retain
from tests.monitoring.described import APP, START, cheap_set, record, records

SLICES = ("release", "user", "language")


@pytest.fixture
def engine(any_log):
    engine = open_database(any_log.url)
    yield engine
    engine.dispose()


@pytest.fixture
def described(any_log, engine):
    """100 rows, a quarter of them user1's, over some hours."""
    any_log.append(records(range(100)))
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    return any_log


def forget(log, **asked):
    found = log.belongings(**asked)
    with log.forgetting(found) as (connection, _):
        changed = forgetting.forget_in_database(connection, found)
    return found, changed


def left(engine, found):
    with engine.connect() as connection:
        return forgetting.still_holds(connection, found)


def test_rows_and_summaries_are_as_if_the_user_had_never_been(described, engine):
    found, changed = forget(described, user="user1")
    assert (changed["descriptor_segments"], len(found.all_keys)) == (25, 25)
    reader = WindowReader(engine, cheap_set())
    rows = reader.rows(APP, None, None)
    assert sorted(rows.keys) == [record(number).key for number in range(100) if number % 4 != 1]
    assert reader.summary(APP, None, None)[None] == Summary.of(rows, cheap_set())
    assert set(reader.summary(APP, None, None, "user")) == {"user0", "user2", "user3"}
    assert not any(left(engine, found).values())


def test_before_it_is_forgotten_every_table_that_names_the_user_is_counted(described, engine):
    counts = left(engine, described.belongings(user="user1"))
    assert counts["descriptor_segments"] == 25
    assert counts["hourly_summaries"] > 0
    assert not any(left(engine, described.belongings(user="nobody")).values())


def test_feedback_that_the_user_gave_leaves_the_summaries_of_the_answers(described, engine):
    about = record(8)
    described.add_feedback(Feedback("r8", about.key, "k", app=APP, user="user1", score=1.0))
    ingest_feedback(described, engine, cheap_set(), slices=SLICES)
    forget(described, user="user1")
    rows = WindowReader(engine, cheap_set()).rows(APP, None, None)
    assert WindowReader(engine, cheap_set()).summary(APP, None, None)[None] == Summary.of(rows, cheap_set())


def test_one_request_of_many_goes(described, engine):
    found, changed = forget(described, request_id="r5")
    assert changed["descriptor_segments"] == 1
    assert len(WindowReader(engine, cheap_set()).rows(APP, None, None)) == 99
    assert not any(left(engine, found).values())


def alarm(**values):
    filled = {"identity": "i", "app": APP, "what": "output.refusal", "kind": "drift", "side": "output", "why": "w",
              "severity": "warning", "slice": {}, "rows": [], "source": "s", "first_at": 0, "last_at": 0, "times": 1,
              "told": 0, **values}  # fmt: skip
    return sa.insert(action_tables.alarm_book).values(filled)


def test_alarms_lose_the_users_rows_and_slices(described, engine):
    action_tables.ensure_tables(engine)
    result = {
        "slices": [{"slice": {"user": "user1"}}, {"slice": {"user": "user2"}}],
        "alarms": [{"rows": ["r1", "r2"]}],
    }
    window = {"app": APP, "until": 1.0, "since": 0.0, "tested_at": 1.0, "state": "alarm", "result": result}
    with writing(engine) as connection:
        connection.execute(alarm(slice={"user": "user1"}))
        connection.execute(alarm(rows=["r1", "r2"]))
        connection.execute(sa.insert(action_tables.tested_windows).values(window))
    counts = left(engine, described.belongings(user="user1"))
    assert (counts["alarm_book"], counts["tested_windows"]) == (2, 1)
    found, changed = forget(described, user="user1")
    assert changed["alarm_book"] >= 3
    assert not any(left(engine, found).values())
    with engine.connect() as connection:
        assert connection.execute(sa.select(action_tables.alarm_book.c.rows)).scalars().all() == [["r2"]]
        kept = connection.execute(sa.select(action_tables.tested_windows.c.result)).scalar_one()
    assert kept == {"slices": [{"slice": {"user": "user2"}}], "alarms": [{"rows": ["r2"]}]}


def test_a_frozen_reference_loses_the_users_slice(described, engine):
    ensure_tables(engine)
    table = reference_summaries
    rows = [("user", "user1"), ("user", "user2"), ("release", "user1")]
    with writing(engine) as connection:
        for dimension, value in rows:
            connection.execute(sa.insert(table).values(reference=1, dimension=dimension, value=value, summary=b""))
    found, changed = forget(described, user="user1")
    assert changed["reference_summaries"] == 1
    assert not any(left(engine, found).values())


def test_a_table_that_nobody_here_knows_is_searched_too(described, engine):
    found = described.belongings(user="user1")
    document = json.dumps({"seen": [{"by": "x\\y"}, record(1).key]})
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE somebody_elses (id INTEGER, note TEXT)")
        insert = sa.insert(sa.table("somebody_elses", sa.column("id"), sa.column("note")))
        connection.execute(insert, [{"id": 1, "note": document}, {"id": 2, "note": "r1"}, {"id": 3, "note": "r10"}])
    assert left(engine, found)["somebody_elses"] == 2


def test_a_user_who_is_called_like_an_app_or_a_release_takes_nothing_else_along(described, engine):
    described.append([dataclasses.replace(record(100), user=APP)])
    ingest(described, engine, cheap_set(), slices=SLICES)
    found, _ = forget(described, user=APP)
    assert len(WindowReader(engine, cheap_set()).rows(APP, None, None)) == 100
    assert not any(left(engine, found).values())


def test_a_log_without_a_monitor_has_nothing_to_forget(any_log):
    any_log.append(records(range(3)))
    found, changed = forget(any_log, user="user1")
    assert (len(found.all_keys), changed) == (1, {})


def test_texts_are_deleted_as_far_as_the_log_is_described(any_log, engine):
    now = START + timedelta(days=30)
    any_log.append(records(range(10)))
    assert described_up_to(engine) is None
    assert retain(any_log, engine, None, now=now) == 0
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    any_log.append(records(range(10, 15)))
    assert described_up_to(engine) == 10
    assert retain(any_log, engine, 31, now=now) == 0
    assert retain(any_log, engine, 7, now=now, dry_run=True) == 10
    assert retain(any_log, engine, 7, now=now) == 10
    ingest(any_log, engine, cheap_set(), slices=SLICES)
    assert retain(any_log, engine, 7, now=now) == 5
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(sa.func.sum(hourly_summaries.c.rows)).where(hourly_summaries.c.dimension == "app")
        )
        assert rows.scalar_one() == 15


def test_what_nobody_has_described_yet_is_not_deleted(any_log, engine):
    any_log.append(records(range(10)))
    assert described_up_to(engine) is None
    assert retain(any_log, engine, 7, now=START + timedelta(days=30)) == 0
    assert all(each.input for each in any_log.read())


@pytest.mark.parametrize("name", ["en", APP])
def test_a_request_that_is_called_like_a_language_or_an_app_is_forgotten_completely(described, engine, name):
    described.append([dataclasses.replace(record(100), request_id=name)])
    ingest(described, engine, cheap_set(), slices=SLICES)
    action_tables.ensure_tables(engine)
    with writing(engine) as connection:
        connection.execute(alarm(rows=["r1", name]))
    assert left(engine, described.belongings(request_id=name))["alarm_book"] == 1
    found, _ = forget(described, request_id=name)
    assert not any(left(engine, found).values())
    with engine.connect() as connection:
        assert connection.execute(sa.select(action_tables.alarm_book.c.rows)).scalar_one() == ["r1"]
