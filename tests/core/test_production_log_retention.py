"""Texts of old records go; what happened stays."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.production_log import ClaimedKey, Feedback, LogRecord, ReplyRow, StoredReply
from llmops.production_log.retention import facts_of
from tests.core.log_records import HOUR, JSON, START, ids, record

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


@pytest.fixture
def log(any_log):
    return any_log


def full(number: int) -> LogRecord:
    return record(number, input=SECRET, output=SECRET, details=DETAILS, route="chat", user="anna", tokens_in=3)


def test_texts_from_before_go_and_the_rest_stays(log):
    log.append([full(number) for number in range(4)])
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
    assert new == [full(2), full(3)] or [item.input for item in new] == [SECRET, SECRET]


def test_a_second_call_finds_nothing_to_do(log):
    log.append([full(number) for number in range(7)])
    assert log.delete_texts(START + 5 * HOUR, batch=2) == 5
    first = log.read()
    assert log.delete_texts(START + 5 * HOUR, batch=2) == 0
    assert log.read() == first


def test_batches_miss_nothing_of_one_moment(log):
    log.append([record(number, at=START, input=SECRET) for number in range(11)])
    assert log.delete_texts(START + HOUR, batch=3) == 11


def test_records_that_the_monitor_has_not_described_wait(log):
    log.append([full(number) for number in range(3)])
    cursor = log.records_end()
    log.append([full(0)])
    assert log.delete_texts(START + 9 * HOUR, described_up_to=cursor) == 3
    assert [item.input for item in log.records_since(cursor)[0]] == [SECRET]
    assert log.delete_texts(START + 9 * HOUR) == 1


def test_a_dry_run_counts_and_deletes_nothing(log):
    log.append([full(number) for number in range(3)])
    assert log.delete_texts(START + 2 * HOUR, dry_run=True) == 2
    assert [item.input for item in log.read()] == [SECRET] * 3


def test_comments_and_stored_replies_go_too(log):
    claim = log.replies.claim("anonymous", "once", "f", 60)
    assert isinstance(claim, ClaimedKey)
    item = full(0)
    log.append([item], [ReplyRow(claim, StoredReply(200, (), SECRET.encode(), "r0"), time.time() + 60)])
    log.add_feedback(Feedback("r0", item.key, "anonymous", score=1.0, comment=SECRET))
    log.delete_texts(START + HOUR)
    (said,) = log.with_feedback(log.read())[0].feedback
    assert (said.score, said.comment) == (1.0, None)
    assert isinstance(log.replies.claim("anonymous", "once", "f", 60), ClaimedKey)


def test_a_comment_that_comes_after_the_texts_have_gone_ages_too(log):
    log.append([full(0)])
    log.delete_texts(START + HOUR)
    log.add_feedback(Feedback("r0", log.read()[0].key, "anonymous", comment=SECRET, at=datetime.now(UTC)))
    log.delete_texts(START + HOUR)
    assert log.feedback_since(0)[0][0].comment == SECRET
    log.delete_texts(datetime.now(UTC) + timedelta(seconds=1))
    assert log.feedback_since(0)[0][0].comment is None


def test_records_of_one_request_id_age_each_by_itself(log):
    log.append([record(0, request_id="same", input=SECRET), record(5, request_id="same", input=SECRET)])
    log.delete_texts(START + HOUR)
    assert ids(log.read()) == ["same", "same"]
    assert [item.input for item in log.read()] == ["", SECRET]


@given(st.dictionaries(st.text(min_size=1), JSON | st.just([SECRET]), max_size=5))
def test_of_unknown_details_nothing_stays(details):
    known = {"route", "stream", "finish_reason", "arm", "queue_ms", "key", "user", "shadow_of", "texts",
             "parameters", "error", "guards"}  # fmt: skip
    assert facts_of(details).keys() <= known
    assert SECRET not in str(facts_of(details))
