from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given

from llmops.errors import UsageError
from llmops.production_log import LogRecord, hidden_user, parse_time
from tests.core.log_records import FIELDS, RECORDS, START, record


@given(RECORDS)
def test_json_and_back_is_the_same_record(item):
    assert LogRecord.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_json_has_the_fields_of_the_contract():
    values = record(3, prompt="qa@2", details={"finish_reason": "stop"}).to_json()
    contract = "request_id at release prompt model status outcome input output tokens_in tokens_out latency_ms"
    assert set(contract.split()) <= set(values)
    assert values["at"] == "2026-01-01T03:00:00+00:00"
    assert values["details"] == {"finish_reason": "stop"}


def test_a_minimal_record_is_filled_with_defaults():
    item = LogRecord.from_json({"request_id": "r", "at": "2026-01-01T00:00:00Z"})
    assert (item.at, item.status, item.outcome, item.app, item.details) == (START, 200, "ok", "", {})
    assert item.key != LogRecord.from_json({"request_id": "r", "at": 0}).key


def test_a_failed_status_without_an_outcome_is_an_error():
    assert LogRecord.from_json({"request_id": "r", "at": 0, "status": 500}).outcome == "error"


def test_nulls_are_taken_as_absent():
    names = FIELDS - {"request_id", "at"}
    item = LogRecord.from_json({"request_id": "r", "at": 0, **dict.fromkeys(names)})
    expected = LogRecord("r", datetime.fromtimestamp(0, UTC), 200, "ok", key=item.key)
    assert item == expected


def test_unknown_fields_are_kept_as_details():
    item = LogRecord.from_json({"request_id": "r", "at": 0, "team": "blue", "details": {"a": 1}})
    assert item.details == {"a": 1, "team": "blue"}


def test_route_caller_and_user_are_fields_wherever_a_record_from_elsewhere_names_them():
    details = {"route": "chat", "key": "k1", "user": "anna", "a": 1}
    item = LogRecord.from_json({"request_id": "r", "at": 0, "details": details})
    assert (item.route, item.caller, item.user, item.details) == ("chat", "k1", "anna", details)
    both = LogRecord.from_json({"request_id": "r", "at": 0, "user": "bert", "details": details})
    assert (both.user, both.to_json()["user"]) == ("bert", "bert")


@pytest.mark.parametrize(("user", "read"), [(7, "7"), (True, None), ({"id": 1}, None), ("", None), ("x" * 513, None)])
def test_only_a_name_in_the_details_is_a_user(user, read):
    assert LogRecord.from_json({"request_id": "r", "at": 0, "details": {"user": user}}).user == read


def test_a_hidden_name_is_the_same_each_time_and_says_nothing():
    assert hidden_user("anna@example.org") == hidden_user("anna@example.org") != hidden_user("bert@example.org")
    assert "anna" not in hidden_user("anna@example.org")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"request_id": None}, "request_id: must be text, not NoneType"),
        ({"request_id": ""}, "request_id: is missing"),
        ({"request_id": 7}, "request_id: must be text, not int"),
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
def test_a_field_of_the_wrong_type_is_named(fields, text):
    with pytest.raises(UsageError) as caught:
        LogRecord.from_json({"request_id": "r", "at": 0, **fields})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("absent", ["request_id", "at"])
def test_a_missing_field_is_named(absent):
    values = {"request_id": "r", "at": 0}
    del values[absent]
    with pytest.raises(UsageError, match=f"^{absent}: "):
        LogRecord.from_json(values)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-01-01", START),
        ("2026-01-01T00:00:00", START),
        ("2026-01-01T00:00:00Z", START),
        ("2026-01-01T09:00:00+09:00", START),
        (START.timestamp(), START),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_iso_text_or_seconds(value, moment):
    assert parse_time(value, "since") == moment
