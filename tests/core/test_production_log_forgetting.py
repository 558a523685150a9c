"""Everything of one user or request goes, from the tables and from the file."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmops.production_log import SHADOW, Feedback, ProductionLog, ReplyRow, StoredReply, hidden_user
from llmops.production_log.forgetting import MOST_SOUGHT
from tests.core.log_records import ids, record

MARKER = "kilo-lima-mike-november"


@pytest.fixture
def log(any_log):
    return any_log


def anna(number: int, **fields):
    return record(number, user="anna", input=f"{MARKER} {number}", output=MARKER * 300, **fields)


def forget(log, **asked):
    found = log.belongings(**asked)
    with log.forgetting(found) as (_, deleted):
        pass
    return found, deleted


def test_a_users_records_go_and_nobody_elses(log):
    log.append([anna(0), record(1, user="anna2"), anna(2), record(3)])
    found, deleted = forget(log, user="anna")
    assert deleted == {"log_records": 2, "feedback": 0, "idempotent_replies": 0}
    assert ids(log.read()) == ["r1", "r3"]
    assert set(log.still_holds(found).values()) == {0}


def test_a_name_that_a_guard_has_hidden_is_found_by_the_name(log):
    log.append([record(0, user=hidden_user("anna@example.org")), record(1, user="bert")])
    assert forget(log, user="anna@example.org")[1]["log_records"] == 1
    assert ids(log.read()) == ["r1"]


def test_records_of_a_gateway_that_fills_only_the_details_are_found(log):
    for name in ("Änna\"%_'", "anna"):
        log.append([record(0, details={"user": name}), record(1, details={"user": f"{name}x"})])
        assert forget(log, user=name)[1]["log_records"] == 1
        assert ids(log.read()) == ["r1"]
        forget(log, request_id="r1")


def test_feedback_by_the_user_and_about_the_user_goes(log):
    first, other, third = anna(0), record(1, user="bert"), record(2, user="carl")
    log.append([first, other, third])
    log.add_feedback(Feedback("r0", first.key, "k1", user="bert", comment="about anna's"))
    log.add_feedback(Feedback("r1", other.key, "k1", user="anna", comment="by anna"))
    log.add_feedback(Feedback("r1", other.key, "k1", user="carl", label="better", compared_key=first.key))
    log.add_feedback(Feedback("r2", third.key, "k1", user="carl", comment="stays"))
    found, deleted = forget(log, user="anna")
    assert deleted["feedback"] == 3
    assert [said.comment for said in log.feedback_since(0)[0]] == ["stays"]
    assert found.places == {("assistant", other.at.timestamp())}
    assert set(log.still_holds(found).values()) == {0}


def test_stored_replies_go_and_those_of_another_caller_with_the_same_id_stay(log):
    for caller, user in (("k1", "anna"), ("k2", "bert")):
        claim = log.replies.claim(caller, "once", "f", 60)
        item = record(0, request_id="same", user=user, caller=caller)
        log.append([item], [ReplyRow(claim, StoredReply(200, (), b"text", "same"), time.time() + 60)])
    found, deleted = forget(log, user="anna")
    assert deleted == {"log_records": 1, "feedback": 0, "idempotent_replies": 1}
    assert found.request_ids == frozenset()  # another one's record has it too
    assert log.replies.claim("k2", "once", "f", 60).reply.body == b"text"


def test_a_request_takes_what_a_challenger_answered_to_it_unseen_along(log):
    log.append(
        [
            record(0),
            record(1, outcome=SHADOW, details={"shadow_of": "r0"}),
            record(2, outcome=SHADOW, details={"shadow_of": "r00"}),
        ]
    )
    assert forget(log, request_id="r0")[1]["log_records"] == 2
    assert ids(log.iterate(shadow=True)) == ["r2"]


def test_who_was_never_here_is_forgotten_at_once(log):
    log.append([record(0)])
    found, deleted = forget(log, user="nobody")
    assert set(deleted.values()) == {0}
    assert log.count() == 1
    assert found.all_keys == frozenset()


def test_more_than_a_query_can_name_go(log):
    log.append([anna(number) for number in range(1200)])
    found, deleted = forget(log, user="anna")
    assert deleted["log_records"] == 1200
    log.erase(found)
    assert log.count() == 0


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log.db"


def bytes_of(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))


@pytest.mark.parametrize("overwriting", [True, False])
def test_the_bytes_are_gone_from_the_file_and_its_wal(file, overwriting):
    log = ProductionLog(f"sqlite:///{file}")
    if not overwriting:  # as a file of an older release is
        sa.event.listen(log._database.engine, "begin", lambda c: c.exec_driver_sql("PRAGMA secure_delete=OFF"))
    for number in range(300):
        user = "anna" if number % 3 == 0 else "bert"
        log.append([dataclasses.replace(anna(number), user=user, input=f"{MARKER} {user}", output=f"{user} " * 2000)])
    assert f"{MARKER} anna".encode() in bytes_of(file)
    found, deleted = forget(log, user="anna")
    assert deleted["log_records"] == 100
    erased = log.erase(found)
    assert (erased.found, erased.markers) == (0, 100)
    assert erased.rewritten or overwriting
    left = bytes_of(file)
    assert not any(key.encode() in left for key in found.all_keys)
    assert f"{MARKER} anna".encode() not in left
    assert b"anna anna" not in left
    assert log.count() == 200
    log.close()


def test_many_records_are_erased_by_writing_the_file_anew(file):
    log = ProductionLog(f"sqlite:///{file}")
    log.append([anna(number) for number in range(MOST_SOUGHT + 1)])
    log.append([record(number) for number in range(10)])
    found, _ = forget(log, user="anna")
    erased = log.erase(found)
    assert (erased.rewritten, erased.found) == (True, 0)
    assert MARKER.encode() not in bytes_of(file)
    assert log.count() == 10
    log.close()


def test_records_can_be_written_while_another_connection_erases(file):
    log, writer = ProductionLog(f"sqlite:///{file}"), ProductionLog(f"sqlite:///{file}")
    log.append([anna(0)])
    writer.append([record(1)])
    found, _ = forget(log, user="anna")
    writer.append([record(2)])
    log.erase(found)
    writer.append([record(3)])
    assert ids(writer.read()) == ["r1", "r2", "r3"]
    log.close()
    writer.close()
