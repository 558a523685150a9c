"""Records and their JSON; feedback, votes, and following the log."""

import dataclasses
import json
import threading
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given

from llmops.errors import UsageError
from llmops.production_log import Feedback, LogRecord, ProductionLog, VoteCounts, parse_time, pseudonym_of
from tests.at_once import at_once
from tests.core.log_records import FIELDS, RECORDS, START, ids, record
from tests.production_log.conftest import execute

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ABSENT = object()


@given(RECORDS)
def test_json_and_back_is_the_same_record(item):
    assert LogRecord.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_json_has_the_fields_of_the_contract():
    values = record(3, prompt="qa@2", details={"finish_reason": "stop"}).to_json()
    contract = "request_id at release prompt model status outcome input output tokens_in tokens_out latency_ms"
    assert set(contract.split()) <= set(values)
    assert (values["at"], values["details"]) == ("2026-01-01T03:00:00+00:00", {"finish_reason": "stop"})


ELSEWHERE = {"route": "chat", "key": "k1", "user": "anna", "a": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"at": EPOCH, "status": 200, "outcome": "ok", "app": "", "details": {}}),
        ({"at": "2026-01-01T00:00:00Z"}, {"at": START}),
        ({"status": 500}, {"outcome": "error"}),
        ({"team": "blue", "details": {"a": 1}}, {"details": {"a": 1, "team": "blue"}}),
        ({"details": ELSEWHERE}, {"route": "chat", "caller": "k1", "user": "anna", "details": ELSEWHERE}),
        ({"user": "bert", "details": ELSEWHERE}, {"user": "bert"}),
        *(
            ({"details": {"user": user}}, {"user": read})
            for user, read in ((7, "7"), (True, None), ({"id": 1}, None), ("", None), ("x" * 513, None))
        ),
    ],
)
def test_what_a_record_from_elsewhere_does_not_say_is_filled_or_found_in_its_details(values, expected):
    item, other = (LogRecord.from_json({"request_id": "r", "at": 0, **values}) for _ in range(2))
    assert {name: getattr(item, name) for name in expected} == expected
    assert item.key != other.key


def test_nulls_are_taken_as_absent_and_a_hidden_name_is_the_same_each_time_and_says_nothing():
    names = FIELDS - {"request_id", "at"}
    item = LogRecord.from_json({"request_id": "r", "at": 0, **dict.fromkeys(names)})
    assert item == LogRecord("r", EPOCH, 200, "ok", key=item.key)
    assert pseudonym_of("anna@example.org") == pseudonym_of("anna@example.org") != pseudonym_of("bert@example.org")
    assert "anna" not in pseudonym_of("anna@example.org")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"request_id": None}, "request_id: must be text, not NoneType"),
        ({"request_id": ""}, "request_id: is missing"),
        ({"request_id": 7}, "request_id: must be text, not int"),
        ({"request_id": ABSENT}, "request_id: "),
        ({"at": ABSENT}, "at: "),
        ({"at": None}, "at: is missing"),
        ({"at": "yesterday"}, "at: 'yesterday' is not a time"),
        ({"at": True}, "at: True is not a time"),
        ({"at": 1e30}, "at: 1e+30 is not a time"),
        ({"at": float("nan")}, "at: nan is not a time"),
        ({"status": "200"}, "status: must be a whole number, not str"),
        ({"status": True}, "status: must be a whole number, not bool"),
        ({"tokens_in": 1.5}, "tokens_in: must be a whole number, not float"),
        ({"tokens_out": 2**70}, "tokens_out: 1180591620717411303424 is not from 0 to"),
        ({"latency_ms": "fast"}, "latency_ms: must be a number, not str"),
        ({"first_token_ms": []}, "first_token_ms: must be a number, not list"),
        ({"input": {"a": 1}}, "input: must be text, not dict"),
        ({"release": 3}, "release: must be text, not int"),
        ({"user": 7}, "user: must be text, not int"),
        ({"user": "x" * 513}, "user: must have at most 512 characters"),
        ({"text_deleted_at": "soon"}, "text_deleted_at: 'soon' is not a time"),
        ({"details": "text"}, "details: must be an object, not str"),
    ],
)
def test_a_field_that_is_missing_or_of_the_wrong_type_is_named(fields, text):
    values = {"request_id": "r", "at": 0, **fields}
    with pytest.raises(UsageError) as caught:
        LogRecord.from_json({name: value for name, value in values.items() if value is not ABSENT})
    assert str(caught.value).startswith(text)


def test_a_time_is_iso_text_or_seconds():
    texts = ("2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "2026-01-01T09:00:00+09:00")
    assert {parse_time(value, "since") for value in (*texts, START.timestamp())} == {START}
    assert parse_time(0, "since") == EPOCH


def said(number=0, **fields):
    return Feedback(f"r{number}", f"key{number}", "anonymous", app="assistant", release="assistant@1", **fields)


def voted(label, release="assistant@1", other="assistant@2", pair=0, **fields):
    return Feedback(
        f"a{pair}", f"a{pair}", fields.pop("caller", "anonymous"), "assistant", release, label=label,
        compared_to=f"b{pair}", compared_key=f"b{pair}", compared_release=other, **fields,
    )  # fmt: skip


def test_feedback_is_read_back_with_its_record_in_the_order_it_came(log):
    log.append([record(0, key="key0"), record(1, key="key1"), record(2, key="key2")])
    first = said(1, score=-1, user="ida")
    second = said(1, label="bad", comment="Því miður, no.")
    other = said(0, score=1.5, compared_to="r1", compared_key="key1", compared_release="assistant@2")
    for feedback in (first, other, second):
        assert log.add_feedback(feedback) == feedback
    assert [item.feedback for item in log.read(feedback=True)] == [(other,), (first, second), ()]
    assert [item.feedback for item in log.iterate(batch=2, feedback=True)] == [(other,), (first, second), ()]
    assert [item.feedback for item in log.read()] == [(), (), ()]
    assert log.read(feedback=True)[1].to_json()["feedback"] == [first.to_json(), second.to_json()]


def test_the_same_key_again_stores_nothing_and_gives_what_is_there(log):
    first = said(score=1)
    again = dataclasses.replace(said(score=-1), key=first.key)
    assert log.add_feedback(first) == log.add_feedback(again) == first
    assert not first.says_the_same(again)
    assert log.feedback_since(0)[0] == [first]


def test_following_feedback_gives_each_once(log):
    assert log.feedback_since(0) == ([], 0)
    given = [said(number, score=number) for number in range(5)]
    for feedback in given[:3]:
        log.add_feedback(feedback)
    first, cursor = log.feedback_since(0, limit=2)
    assert cursor < log.feedback_end()
    rest, cursor = log.feedback_since(cursor, limit=2)
    assert first + rest == given[:3]
    assert cursor == log.feedback_end()
    for feedback in given[3:]:
        log.add_feedback(feedback)
    assert log.feedback_since(cursor)[0] == given[3:]


def test_votes_are_counted_by_pair_of_releases_whichever_side_each_was_on(log):
    no_comparisons = [said(label="better"), voted("prettier"), voted("better", other="assistant@1")]
    votes = [
        voted("better"), voted("worse", pair=1), voted("tie", pair=2),
        voted("better", "assistant@2", "assistant@1", pair=3),
        voted("worse", "assistant@10", "assistant@2", pair=4),
    ]  # fmt: skip
    for vote in (*no_comparisons, *votes):
        log.add_feedback(vote)
    assert log.votes("assistant") == {
        ("assistant@1", "assistant@2"): VoteCounts(a=1, b=2, tie=1),
        ("assistant@2", "assistant@10"): VoteCounts(a=1),
    }
    assert log.votes("other") == {}


def test_of_several_votes_by_one_user_on_one_pair_the_last_counts(log):
    # The same two answers the other way round.
    turned = Feedback(
        "b0", "b0", "anonymous", "assistant", "assistant@2", user="bo", label="tie",
        compared_to="a0", compared_key="a0", compared_release="assistant@1",
    )  # fmt: skip
    votes = [voted("better", user="ida"), voted("worse", user="ida"), voted("better", user="bo")]
    for vote in (*votes, voted("better", user="ida", caller="key_2"), turned):
        log.add_feedback(vote)
    assert log.votes("assistant") == {("assistant@1", "assistant@2"): VoteCounts(a=1, b=1, tie=1)}


def test_following_records_gives_each_once_in_the_order_of_writing(log):
    assert log.records_since(0) == ([], 0)
    log.append([record(5), record(1)])
    first, cursor = log.records_since(0)
    assert ids(first) == ["r5", "r1"]
    assert log.records_since(cursor) == ([], cursor)
    log.append([record(3), record(2), record(4)])
    part, cursor = log.records_since(cursor, limit=2)
    assert ids(part) == ["r3", "r2"]
    assert ids(log.records_since(cursor)[0]) == ["r4"]


def test_a_follower_passes_over_nothing_while_several_write(log_url):
    # PostgreSQL numbers rows before they are committed: a naive follower misses those that are committed late.
    logs = [ProductionLog(log_url) for _ in range(5)]
    *writers, follower = logs

    def write(worker):
        for number in range(40):
            writers[worker].append([record(request_id=f"{worker}-{number}-{n}") for n in range(1 + number % 3)])

    writing = threading.Thread(target=at_once, args=[partial(write, worker) for worker in range(4)])
    writing.start()
    followed, cursor, ended = [], 0, False
    while not ended:
        ended = not writing.is_alive()
        while (found := follower.records_since(cursor, limit=7))[0]:
            followed += ids(found[0])
            cursor = found[1]
    assert len(followed) == len(set(followed)) == 4 * sum(1 + number % 3 for number in range(40))
    assert set(followed) == set(ids(follower.read()))
    for log in logs:
        log.close()


def test_a_number_is_never_given_twice_even_when_everything_was_deleted(log):
    log.append([record(0), record(1)])
    cursor = log.records_end()
    execute(log.url, "DELETE FROM log_records")
    log.append([record(2)])
    assert ids(log.records_since(cursor)[0]) == ["r2"]
