"""The log in its database: appending, reading, what the database refuses, and one mover at a time."""

import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from llmops.audit import AuditLog, check_chain
from llmops.audit.log import os_user
from llmops.errors import StoreUnavailable
from llmops.production_log import ProductionLog, open_engine
from tests.at_once import at_once
from tests.core.log_records import record

WRITERS, EACH = 4, 6


def test_entries_come_back_in_order_and_reading_makes_no_table(audit):
    before, engine = datetime.now(UTC), open_engine(audit.url)
    assert audit.entries() == list(audit.rows()) == []
    assert not sa.inspect(engine).has_table("audit_log")
    engine.dispose()
    entries = [("promote", "a@1", {"why": "gate passed"}), ("traffic", "a"), ("promote", "b@1")]
    made = [audit.append(*entry) for entry in entries]
    assert AuditLog(audit.url).entries() == made
    assert [(entry.seq, entry.action, entry.subject, entry.actor) for entry in made] == [
        (1, "promote", "a@1", "anna"),
        (2, "traffic", "a", "anna"),
        (3, "promote", "b@1", "anna"),
    ]
    assert all(before <= datetime.fromisoformat(entry.at) <= before + timedelta(minutes=5) for entry in made)
    assert check_chain(audit.rows()).head == made[-1].hash


def test_entries_of_one_name_are_those_of_its_versions_too(audit):
    subjects = ["a", "a@1", "a_", "ab@1", "A@1", "a%", "a_@2"]
    for subject in subjects:
        audit.append("note", subject)
    assert [entry.subject for entry in audit.entries("a")] == ["a", "a@1"]
    assert [entry.subject for entry in audit.entries("a_")] == ["a_", "a_@2"]
    assert audit.entries("absent") == []


def test_the_actor_is_the_user_unless_named_and_what_no_database_takes_is_replaced(audit):
    assert AuditLog(audit.url).append("note", "b").actor == os_user() != ""
    audit.append("note", "a\0@1\udc80", {"why": "tell\0 \ud800 me"})
    (entry,) = audit.entries("a")
    assert entry.subject == "a@1?"
    assert check_chain(audit.rows()).broken is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody' WHERE seq = 1",
        "DELETE FROM audit_log WHERE seq = 2",
        "DELETE FROM audit_log",
    ],
)
def test_the_database_refuses_to_alter_or_remove(audit, statement):
    made = [audit.append("note", subject) for subject in "ab"]
    engine = open_engine(audit.url)
    # SQLite deletes what it replaces without asking the trigger of deletion.
    columns = "seq, at, actor, action, subject, details, previous, hash"
    replace = f"INSERT OR REPLACE INTO audit_log ({columns}) VALUES (1, '', '', '', '', '{{}}', 'x', 'y')"  # noqa: S608
    for each in (statement, replace) if engine.dialect.name == "sqlite" else (statement,):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(each)
    engine.dispose()
    assert audit.entries() == made


def test_writers_at_once_make_one_chain(log_url):
    def write(number: int) -> None:
        log = AuditLog(log_url, actor=f"writer {number}")
        for position in range(EACH):
            log.append("note", f"app{number}@{position}")

    at_once(*(partial(write, number) for number in range(WRITERS)))
    chain = check_chain(AuditLog(log_url).rows())
    assert (chain.entries, chain.broken) == (WRITERS * EACH, None)
    for number in range(WRITERS):
        written = [entry.subject for entry in AuditLog(log_url).entries(f"app{number}")]
        assert written == [f"app{number}@{position}" for position in range(EACH)]


def test_deleting_texts_from_the_production_log_leaves_the_audit_log_alone(audit):
    made = [audit.append("promote", "assistant@1"), audit.append("note", "anna")]
    with closing(ProductionLog(audit.url)) as log:
        log.append([record(user="anna")])
        with log.forgetting(log.belongings(user="anna")) as (_, deleted):
            pass
        log.delete_texts(datetime.now(UTC) + timedelta(days=1))
    assert deleted["log_records"] == 1
    assert audit.entries() == made
    assert check_chain(audit.rows()).broken is None


def test_a_database_that_is_away_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    audit = AuditLog(f"sqlite:///{tmp_path}/file/log.db")
    for act in (lambda: audit.append("note", "a"), audit.entries, lambda: audit.turn().__enter__()):
        with pytest.raises(StoreUnavailable):
            act()


HOLD = """
import sys, time
from llmops.audit import AuditLog
with AuditLog(sys.argv[1]).turn():
    print("held", flush=True)
    time.sleep(600)
"""


def test_turns_of_two_holders_do_not_overlap(log_url):
    inside, seen = [0], []

    def move() -> None:
        log = AuditLog(log_url)
        for _ in range(10):
            with log.turn():
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    at_once(*[move] * 3)
    assert seen == [1] * 30


@pytest.fixture
def assert_held(log_url):
    """Fails unless another holder's turn has to wait."""

    def check(log: AuditLog | None = None) -> None:
        log = log or AuditLog(log_url, patience=0.05)
        with pytest.raises(StoreUnavailable, match="try again"), log.turn():
            pass

    return check


def test_a_turn_may_be_taken_again_within_itself_holds_other_threads_up_and_is_free_after(log_url, assert_held):
    log, waited = AuditLog(log_url, patience=0.05), []
    with log.turn():
        with log.turn():
            pass
        assert_held()
        at_once(lambda: waited.append(assert_held(log)))
    assert waited == [None]
    with AuditLog(log_url).turn():
        pass


def test_a_holder_that_is_killed_lets_go(log_url, assert_held):
    with subprocess.Popen([sys.executable, "-c", HOLD, log_url], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert_held()
        holder.kill()
    with AuditLog(log_url).turn():
        pass


def test_a_database_in_memory_is_held_within_the_process():
    log = AuditLog("sqlite://")
    with log.turn(), log.turn():
        pass
