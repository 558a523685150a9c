"""The client believes nothing that does not follow the schema, and waits as it is told to."""

import gc
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from llmops.errors import EngineError, EngineRejected, EngineTimeout, EngineUnavailable, UsageError
from llmops.judges.client import SEED, JudgeClient, JudgeEndpoint
from tests.judges.scripted import completion

SCHEMA = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "score": {"type": "integer", "enum": [1, 2, 3]}},
    "required": ["rationale", "score"],
    "additionalProperties": False,
}
ASKED = ({"role": "user", "content": "Is it good?"},)
GOOD = '{"rationale": "it is", "score": 3}'
BUSY = (503, {}, '{"error": {"message": "busy"}}')


def ask(endpoint: JudgeEndpoint, waits: list[float] | None = None, **changed: Any) -> dict[str, Any]:
    waited = waits if waits is not None else []
    return JudgeClient(replace(endpoint, **changed), sleep=waited.append).ask(ASKED, SCHEMA)


def test_it_asks_for_the_schema_greedily_and_with_a_fixed_seed(script):
    asked = script(GOOD, max_tokens=99)

    assert ask(asked.endpoint) == {"rationale": "it is", "score": 3}
    assert "authorization" not in asked.requests[0].headers
    assert asked.requests[0].body == {
        "model": "scripted-model",
        "messages": [{"role": "user", "content": "Is it good?"}],
        "temperature": 0,
        "seed": SEED,
        "max_tokens": 99,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
        },
    }


def test_the_key_is_sent_as_bearer_and_stands_in_no_error(script, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", " s3cret\n")
    asked = script((401, {}, '{"error": {"message": "no"}}'), key_variable="JUDGE_KEY")
    with pytest.raises(EngineUnavailable, match=r"judge scripted at http.*/v1 answered 401: no") as refused:
        ask(asked.endpoint)
    assert asked.requests[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(refused.value) + repr(asked.endpoint) + repr(asked.endpoint.identity)
    monkeypatch.setenv("JUDGE_KEY", "")
    with pytest.raises(EngineUnavailable) as missing:
        ask(asked.endpoint)
    assert str(missing.value) == "judge scripted: the environment variable JUDGE_KEY holds no key"
    assert len(asked.requests) == 1


REFUSED = '{"choices": [{"message": {"content": null, "refusal": "I will not."}}]}'
OFF_SCHEMA = [
    *(f'{{"rationale": "x", "score": {score}}}' for score in ("7", "1.5", "1e999", '"3"', "true")),
    '{"score": 3}',
    '{"rationale": "x", "score": 3, "more": 1}',
    "[3]",
]
NO_VERDICTS: list[tuple[Any, str]] = [
    ("I think it is a 3.", "not JSON"),
    ('{"rationale": "it', "not JSON"),
    ('{"rationale": "x", "score": NaN}', "NaN is not JSON"),
    ("", "not JSON"),
    *((text, "does not follow the schema") for text in OFF_SCHEMA),
    ((200, {}, "<html>"), "is not JSON"),
    ((200, {}, "[]"), "is no answer: the upstream sent a reply that is not an object"),
    ((200, {}, completion(GOOD, finish_reason="length")), "cut off at max_tokens 512"),
    ((200, {}, '{"choices": [{"message": null}]}'), "an answer without a message"),
    ((200, {}, '{"choices": [{"message": {"content": null}}]}'), "holds no text"),
    ((200, {}, REFUSED), "the judge refused: I will not."),
]


@pytest.mark.parametrize(("reply", "problem"), NO_VERDICTS)
def test_an_answer_that_is_no_verdict_and_a_reply_of_another_shape_are_errors(reply, problem, script):
    with pytest.raises(EngineError, match=problem) as refused:
        ask(script(lambda _: reply).endpoint)
    assert type(refused.value) is EngineError


def test_the_formats_of_a_verdicts_schema_are_checked(script):
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    client = JudgeClient(script(['{"day": "2026-02-28"}', '{"day": "2026-02-30"}']).endpoint)
    assert client.ask(ASKED, schema) == {"day": "2026-02-28"}
    with pytest.raises(EngineError, match='does not follow the schema: "2026-02-30" is not a "date"'):
        client.ask(ASKED, schema)


def retry_after(value: str) -> tuple[int, dict[str, str], str]:
    return 429, {"retry-after": value}, "{}"


@pytest.mark.parametrize(
    ("replies", "waited"),
    [
        ([BUSY, (500, {}, "oops"), (429, {}, "slow down"), GOOD], [0.5, 1.0, 2.0]),
        ([retry_after("7"), GOOD], [7.0]),
        ([retry_after("soon"), GOOD], [0.5]),
    ],
)
def test_a_failing_server_is_asked_again_as_it_says_or_after_twice_as_long(replies, waited, script):
    waits: list[float] = []
    assert ask(script(replies).endpoint, waits, retries=3)["score"] == 3
    assert waits == waited


def test_retry_after_may_be_a_date(script):
    waits: list[float] = []
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    ask(script([retry_after(moment), GOOD]).endpoint, waits, retries=1)
    assert 25 < waits[0] <= 30


def test_a_server_that_keeps_failing_or_asks_for_an_hour_is_given_up(script):
    waits: list[float] = []
    with pytest.raises(EngineUnavailable) as refused:
        ask(script(retry_after("3600")).endpoint, waits, retries=3)
    assert (refused.value.retry_after, waits) == (3600.0, [])
    asked = script(BUSY)
    with pytest.raises(EngineUnavailable, match="answered 503: busy"):
        ask(asked.endpoint, retries=2)
    assert len(asked.requests) == 3


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, '{"error": {"message": "bad schema"}}', EngineRejected),
        (403, "{}", EngineUnavailable),
        (501, "{}", EngineError),
    ],
)
def test_what_will_not_change_is_not_asked_again(status, body, kind, script):
    asked = script((status, {}, body))
    with pytest.raises(EngineError, match=f"answered {status}: ") as refused:
        ask(asked.endpoint, retries=3)
    assert (type(refused.value), len(asked.requests)) == (kind, 1)


def test_a_slow_answer_times_out(script):
    given_up = threading.Event()

    def answer(_request: dict[str, Any]) -> str:
        given_up.wait(5)
        return GOOD

    with pytest.raises(EngineTimeout, match=r"no answer within 0\.1 s"):
        ask(script(answer).endpoint, timeout=0.1)
    given_up.set()


def test_a_server_that_has_gone_away_is_asked_once_a_question_until_it_is_back():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    waits: list[float] = []
    client = JudgeClient(JudgeEndpoint("gone", f"http://127.0.0.1:{port}/v1", "m", retries=3), sleep=waits.append)
    for _ in range(3):
        with pytest.raises(EngineUnavailable, match=f"judge gone at http://127.0.0.1:{port}/v1: ConnectError"):
            client.ask(ASKED, SCHEMA)
    assert waits == [0.5, 1.0, 2.0]


def test_a_server_that_fails_whatever_it_is_asked_is_asked_once_a_question_until_it_answers(script):
    waits: list[float] = []
    asked = script([*[BUSY] * 4, GOOD, BUSY, GOOD])
    client = JudgeClient(replace(asked.endpoint, retries=2), sleep=waits.append)

    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            client.ask(ASKED, SCHEMA)
    for _ in range(2):
        client.ask(ASKED, SCHEMA)

    assert waits == [0.5, 1.0, 0.5]
    assert len(asked.requests) == 7


def test_a_server_that_leaves_several_questions_unanswered_is_left_alone_for_a_while(script):
    now = 1000.0
    asked = script([*[BUSY] * 5, GOOD])
    client = JudgeClient(asked.endpoint, clock=lambda: now)
    for _ in range(5):
        with pytest.raises(EngineUnavailable, match="answered 503: busy"):
            client.ask(ASKED, SCHEMA)

    for _ in range(3):
        with pytest.raises(EngineUnavailable, match=r"^not asked, after several .* answered 503: busy"):
            client.ask(ASKED, SCHEMA)
    assert len(asked.requests) == 5

    now += 60
    assert client.ask(ASKED, SCHEMA)["score"] == 3


def test_threads_share_a_client_and_at_most_side_by_side_ask_at_once(script):
    lock, now, most = threading.Lock(), 0, 0

    def answer(_request: dict[str, Any]) -> str:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.03)
        with lock:
            now -= 1
        return GOOD

    client = JudgeClient(script(answer, side_by_side=2).endpoint)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: client.ask(ASKED, SCHEMA), range(8)))
    assert most == 2


def test_connections_close_when_nobody_holds_the_client(script):
    client = JudgeClient(script(GOOD).endpoint)
    client.ask(ASKED, SCHEMA)
    http = client._http
    del client
    gc.collect()
    assert http.is_closed


# Endpoints

LEAST = {"name": "mine", "base_url": "http://127.0.0.1:8000/v1", "model": "m"}


def test_the_least_is_a_name_an_address_and_a_model_and_what_is_null_takes_its_default():
    endpoint = JudgeEndpoint.from_mapping({**LEAST, "timeout": None, "key_variable": None})
    assert endpoint == JudgeEndpoint("mine", "http://127.0.0.1:8000/v1", "m", timeout=60.0)
    assert endpoint.read_key() is None
    assert endpoint.identity == {"base_url": LEAST["base_url"], "model": "m"}
    assert JudgeEndpoint.from_mapping({**LEAST, "base_url": "http://127.0.0.1:8000/v1/"}).identity == endpoint.identity


BAD_ADDRESSES = ["127.0.0.1:8000", "file:///etc/passwd", "http://user:secret@host/v1", "http://host/v1?key=secret"]
OUT_OF_RANGE: dict[str, list[Any]] = {
    "name": ["", 3],
    "model": [" "],
    "base_url": [*BAD_ADDRESSES, "http://[broken/v1", 8000],
    "key_variable": [""],
    "timeout": [0, float("inf"), float("nan"), True, "60"],
    "max_tokens": [0, 1.5],
    "side_by_side": [0, True],
    "retries": [-1],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name in OUT_OF_RANGE for value in OUT_OF_RANGE[name]])
def test_a_value_out_of_range_is_refused_by_its_fields_name(field, value):
    with pytest.raises(UsageError, match=f"^{field}: must be ") as refused:
        JudgeEndpoint.from_mapping({**LEAST, field: value})
    assert "secret" not in str(refused.value)


def test_a_field_that_is_missing_or_unknown_is_named():
    for field in LEAST:
        with pytest.raises(UsageError, match=f"^{field}: is missing"):
            JudgeEndpoint.from_mapping({name: value for name, value in LEAST.items() if name != field})
    with pytest.raises(UsageError, match=r"^api_key: unknown key; known: base_url, key_variable, max_tokens"):
        JudgeEndpoint.from_mapping({**LEAST, "api_key": "secret"})
