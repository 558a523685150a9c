"""Everything of one user or request goes, from the tables and from the file; texts of old records go, and what happened
stays."""

import dataclasses
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from llmops.production_log import (
    SHADOW,
    ClaimedKey,
    Feedback,
    ProductionLog,
    ReplyRow,
    StoredReply,
    pseudonym_of,
)
from llmops.production_log.forgetting import MOST_SOUGHT, facts_of
from tests.core.log_records import HOUR, JSON, START, ids, record

MARKER = "kilo-lima-mike-november"


def anna(number, **fields):
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
    found, deleted = forget(log, user="nobody")
    assert (set(deleted.values()), found.all_keys, log.count()) == ({0}, frozenset(), 2)


def test_a_name_that_a_guard_has_hidden_or_only_the_details_hold_is_found(log):
    log.append([record(0, user=pseudonym_of("anna@example.org")), record(1, user="bert")])
    assert forget(log, user="anna@example.org")[1]["log_records"] == 1
    assert ids(log.read()) == ["r1"]
    for name in ("Änna\"%_'", "anna"):  # as an older gateway writes them
        log.append([record(2, details={"user": name}), record(3, details={"user": f"{name}x"})])
        assert forget(log, user=name)[1]["log_records"] == 1
        assert ids(log.read()) == ["r1", "r3"]
        forget(log, request_id="r3")


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
    shadows = [record(n, outcome=SHADOW, details={"shadow_of": of}) for n, of in ((1, "r0"), (2, "r00"))]
    log.append([record(0), *shadows])
    assert forget(log, request_id="r0")[1]["log_records"] == 2
    assert ids(log.iterate(shadow=True)) == ["r2"]


def test_more_than_a_query_can_name_go(log):
    log.append([record(number, user="anna") for number in range(1200)])
    found, deleted = forget(log, user="anna")
    assert deleted["log_records"] == 1200
    log.erase(found)
    assert log.count() == 0


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log.db"


def bytes_of(file):
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


def test_many_records_are_erased_by_writing_the_file_anew_while_others_write(file):
    with closing(ProductionLog(f"sqlite:///{file}")) as log, closing(ProductionLog(f"sqlite:///{file}")) as writer:
        log.append([anna(number) for number in range(MOST_SOUGHT + 1)])
        writer.append([record(1)])
        found, _ = forget(log, user="anna")
        writer.append([record(2)])
        erased = log.erase(found)
        writer.append([record(3)])
        assert (erased.rewritten, erased.found) == (True, 0)
        assert MARKER.encode() not in bytes_of(file)
        assert ids(writer.read()) == ["r1", "r2", "r3"]


SECRET = "the marker of a text"
DETAILS = {
    "route": "chat",
    "stream": True,
    "messages": [{"role": "user", "content": SECRET}],
    "parameters": {"max_tokens": 64, "stop": [SECRET]},
    "finish_reason": "stop",
    "error": f"EngineRejected: {SECRET}",
    "metadata": {"note": SECRET},
    "prompt_variables": {"tone": SECRET},
    "extras": {"tools": [SECRET]},
    "tool_calls": [{"function": {"arguments": SECRET}}],
    "other_answers": [{"output": SECRET}],
    "guards": [{"guard": "block", "where": "input", "pattern": 0, "found": SECRET}],
    "unheard_of": SECRET,
    "queue_ms": 0.5,
    "key": "k1",
    "user": "anna",
}


def full(number):
    return record(number, input=SECRET, output=SECRET, details=DETAILS, route="chat", user="anna", tokens_in=3)


def test_texts_from_before_go_in_batches_and_the_rest_stays(log, monkeypatch):
    log.append([full(number) for number in range(4)])
    assert log.delete_texts(START + 2 * HOUR, dry_run=True) == 2
    assert [item.input for item in log.read()] == [SECRET] * 4
    assert log.delete_texts(START + 2 * HOUR) == 2
    old, new = log.read()[:2], log.read()[2:]
    assert all(SECRET not in str(item) for item in old)
    assert all(item.text_deleted_at is not None for item in old)
    assert (old[0].release, old[0].tokens_in, old[0].route, old[0].user) == ("assistant@1", 3, "chat", "anna")
    assert old[0].details == {
        "route": "chat", "stream": True, "parameters": {"max_tokens": 64}, "finish_reason": "stop",
        "error": "EngineRejected", "guards": [{"guard": "block", "where": "input", "pattern": 0}],
        "queue_ms": 0.5, "key": "k1", "user": "anna",
    }  # fmt: skip
    assert [item.input for item in new] == [SECRET, SECRET]
    log.append([record(number, at=START, input=SECRET) for number in range(11)])  # of one moment
    monkeypatch.setattr("llmops.production_log.forgetting.BATCH", 3)
    assert [log.delete_texts(START + 2 * HOUR) for _ in range(2)] == [11, 0]
    assert log.read()[-3:] == [old[1], *new]  # what had gone stays as it was


def test_records_that_the_monitor_has_not_described_wait_and_each_of_one_request_ages_by_itself(log):
    log.append([full(number) for number in range(3)])
    cursor = log.records_end()
    log.append([full(0)])
    assert log.delete_texts(START + 9 * HOUR, described_up_to=cursor) == 3
    assert [item.input for item in log.records_since(cursor)[0]] == [SECRET]
    assert log.delete_texts(START + 9 * HOUR) == 1
    log.append([record(number, request_id="same", input=SECRET) for number in (0, 9)])
    assert log.delete_texts(START + 9 * HOUR) == 1
    assert [item.input for item in log.read(request_id="same")] == ["", SECRET]


def test_comments_and_stored_replies_go_too_also_those_that_come_after_the_texts(log):
    claim = log.replies.claim("anonymous", "once", "f", 60)
    assert isinstance(claim, ClaimedKey)
    item = full(0)
    log.append([item], [ReplyRow(claim, StoredReply(200, (), SECRET.encode(), "r0"), time.time() + 60)])
    log.add_feedback(Feedback("r0", item.key, "anonymous", score=1.0, comment=SECRET))
    log.delete_texts(START + HOUR)
    (said,) = log.with_feedback(log.read())[0].feedback
    assert (said.score, said.comment) == (1.0, None)
    assert isinstance(log.replies.claim("anonymous", "once", "f", 60), ClaimedKey)
    log.add_feedback(Feedback("r0", item.key, "anonymous", comment=SECRET, at=datetime.now(UTC)))
    log.delete_texts(START + HOUR)
    assert log.feedback_since(0)[0][1].comment == SECRET
    log.delete_texts(datetime.now(UTC) + timedelta(seconds=1))
    assert log.feedback_since(0)[0][1].comment is None


@given(st.dictionaries(st.text(min_size=1), JSON | st.just([SECRET]), max_size=5))
def test_of_unknown_details_nothing_stays(details):
    known = {"route", "stream", "finish_reason", "arm", "queue_ms", "key", "user", "shadow_of", "texts",
             "parameters", "error", "guards"}  # fmt: skip
    assert facts_of(details).keys() <= known
    assert SECRET not in str(facts_of(details))
