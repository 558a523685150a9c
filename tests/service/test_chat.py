import json
import socket
import time

import httpx
import openai
import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import (
    ContextTooLong,
    EngineBusy,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    SchemaNotFollowed,
    StoreUnavailable,
)
from tests.at_once import wait_until
from tests.service.conftest import assert_refused, events_of, release

MESSAGES = [{"role": "user", "content": "hello world"}]
WORDS = "one two three four five six"


@pytest.fixture(scope="module")
def failing(serve_shared):
    """A gateway whose engine raises, in place of an answer, what a test appends to `failures`."""
    failures = []

    def fail(_):
        raise failures.pop()

    with serve_shared(engine=lambda _: FakeEngine(fail)) as gateway:
        gateway.failures = failures
        yield gateway


def slow(model):
    """Six words, a fifth of a second each."""
    return FakeEngine(lambda _: WORDS, word_seconds=0.2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_names_the_versions_that_answered_and_a_stream_ends_with_done(shared_gateway, stream):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    reply = shared_gateway.chat(stream=stream, headers={"traceparent": parent}, max_tokens=2)
    names = [reply.headers[f"x-llmops-{name}"] for name in ("release", "prompt", "model")]
    assert names == ["assistant@1", "qa@1", "tiny@1"]
    assert reply.headers["x-request-id"].startswith("req_")
    seen = shared_gateway.engines["tiny@1"].requests[-1]
    assert (seen.whole, seen.headers) == (not stream, {"traceparent": parent})
    if stream:
        *events, done = events_of(reply)
        assert done == "[DONE]"
        assert not any("usage" in event for event in events)
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    else:
        choice = reply.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("You said:", "length")


def test_the_template_wraps_the_conversation_and_a_bare_model_gets_it_as_it_is(shared_gateway):
    turns = [("system", "client's own"), ("user", "first"), ("assistant", "reply"), ("user", "second")]
    shared_gateway.chat(messages=[{"role": role, "content": text} for role, text in turns])
    requests = shared_gateway.engines["tiny@1"].requests
    seen = [(m["role"], m["content"]) for m in requests[-1].messages]
    assert seen == [("system", "Answer as release 1."), *turns]

    messages = [{"role": "developer", "content": "Be brief."}, {"role": "assistant", "content": "Yes?"}]
    reply = shared_gateway.chat("tiny@1", messages=messages)
    assert reply.json()["choices"][0]["message"]["content"] == "You said: Yes?"
    assert reply.json()["model"] == reply.headers["x-llmops-model"] == "tiny@1"
    assert not {"x-llmops-release", "x-llmops-prompt"} & reply.headers.keys()
    assert requests[-1].messages[0] == {"role": "system", "content": "Be brief."}


def test_alias_version_and_champion_name_the_release_and_the_record_its_arm(serve):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        names = ("assistant", "assistant@champion", "assistant@challenger", "assistant@2")
        models = [gateway.chat(name).json()["model"] for name in names]
        arms = [record.details["arm"] for record in gateway.records()]
    assert models == ["assistant@1", "assistant@1", "assistant@2", "assistant@2"]
    assert arms == ["champion", "explicit", "explicit", "explicit"]


@pytest.fixture(scope="module")
def polite(serve_shared):
    """A gateway whose prompt has the variable `tone`."""
    with serve_shared(release(1, "champion", tone="polite")) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "prompt_variables.tone", ""),
        ({"prompt_variables": {"tone": "a", "mood": "b"}}, "prompt_variables.mood", ""),
        ({"prompt_variables": {"tone": "a", "question": "b"}}, "prompt_variables.question", ""),
        ({"model": "tiny@1", "prompt_variables": {"tone": "a"}}, "prompt_variables", "only a release"),
        *(
            ({"prompt_variables": {"tone": "a"}, "messages": [turn]}, "messages", "last message must be the user's")
            for turn in ({"role": "assistant", "content": "x"}, {"role": "tool", "content": "3", "tool_call_id": "c"})
        ),
    ],
)
def test_a_request_the_prompt_cannot_take_is_refused_and_logged(polite, fields, param, words):
    reply = polite.chat(**fields)
    assert_refused(reply, param, words)
    assert reply.headers["x-llmops-model"] == "tiny@1"
    record = polite.records()[-1]
    assert (record.request_id, record.status, record.outcome) == (reply.headers["x-request-id"], 400, "error")


def test_sent_parameters_override_the_release_and_others_stay(serve):
    made_for = release(1, "champion", temperature=0.5, stop=["X"], response_format={"type": "json_object"})
    with serve(made_for) as gateway:
        gateway.chat(temperature=None)
        gateway.chat(max_completion_tokens=3, stop="Y", seed=7, response_format={"type": "text"}, top_p=0.5)
        kept, overridden = (request.parameters for request in gateway.engines["tiny@1"].requests)
    assert kept == made_for.parameters
    assert (overridden.max_tokens, overridden.stop, overridden.seed, overridden.top_p) == (3, ("Y",), 7, 0.5)
    assert overridden.temperature == 0.5
    assert overridden.response_format is None


def test_a_json_schema_reaches_the_engine_whole_and_an_empty_answer_streams_role_and_finish(serve):
    schema = {"type": "object", "properties": {"a": {"const": None}}}
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}

    def answer(request):
        return '{"a": null}' if request.parameters.response_format else ""

    with serve(engine=lambda _: FakeEngine(answer)) as gateway:
        assert gateway.chat(response_format=asked).status_code == 200
        assert gateway.engines["tiny@1"].requests[-1].parameters.response_format == asked
        role, finish, done = gateway.events()
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert (finish["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


@pytest.mark.parametrize("stream", [False, True])
def test_the_record_says_what_was_asked_and_answered(shared_gateway, stream):
    named = {"x-request-id": f"abc {stream}"}
    for _ in range(2):
        reply = shared_gateway.chat(headers=named, stream=stream, user="u1", metadata={"k": "v"})
        assert reply.headers["x-request-id"] == named["x-request-id"]
    first, second = shared_gateway.log.read(request_id=named["x-request-id"])
    assert first.key != second.key
    assert (first.status, first.outcome) == (200, "ok")
    assert (first.release, first.prompt, first.model) == ("assistant@1", "qa@1", "tiny@1")
    assert (first.input, first.output) == ("hello world", "You said: hello world")
    assert first.tokens_in > first.tokens_out == 4
    assert 0 < first.first_token_ms <= first.latency_ms
    assert first.details["route"] == "chat"
    assert first.details["stream"] is stream
    assert first.details["messages"] == MESSAGES
    assert first.details["parameters"]["max_tokens"] == 64
    assert (first.details["finish_reason"], first.details["user"]) == ("stop", "u1")


@pytest.mark.parametrize(
    ("failure", "status", "code", "param"),
    [
        (SchemaNotFollowed("it is not JSON"), 502, "response_format_not_followed", None),
        (EngineUnavailable("secret host", retry_after=7), 503, "engine_unavailable", None),
        (EngineRejected("no grammar", param="response_format"), 400, "engine_rejected", "response_format"),
        (ContextTooLong("too long"), 400, "context_length_exceeded", "messages"),
        (EngineTimeout("slow"), 504, "timeout", None),
        (EngineError("secret path"), 502, "engine_error", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_engine_errors_before_the_first_word_have_their_status(failing, failure, status, code, param, stream):
    failing.failures.append(failure)
    reply = failing.chat(stream=stream)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert "secret" not in error["message"]
    assert ("it is not JSON" in error["message"]) == (code == "response_format_not_followed")
    assert reply.headers.get("retry-after") == ("7" if status == 503 else None)
    assert reply.headers["x-llmops-release"] == "assistant@1"
    (record,) = failing.log.read(request_id=reply.headers["x-request-id"])
    assert (record.status, record.outcome) == (status, "error")
    assert str(failure) in record.details["error"]


def test_an_unexpected_exception_gives_a_fixed_text(failing, caplog):
    failing.failures.append(ZeroDivisionError("the client's words"))
    reply = failing.chat()
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "client's words" not in reply.text
    assert failing.records()[-1].status == 500
    assert reply.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "client's words" not in caplog.text


def test_an_answer_that_takes_too_long_is_504_and_an_error_event_of_a_stream(serve):
    with serve(engine=slow, engine_timeout=0.3) as gateway:
        assert gateway.chat().status_code == 504
        assert gateway.engines["tiny@1"].cancelled == 1
        assert gateway.events()[-1]["error"]["code"] == "timeout"
        for record in gateway.records():
            assert (record.status, record.outcome, record.output) == (504, "error", "one")
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client:
            stream = client.chat.completions.create(model="assistant", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError, match="no whole answer in time"):
                list(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_generation_and_is_logged(serve, stream):
    with serve(engine=slow) as gateway:
        body = json.dumps({"model": "assistant", "messages": MESSAGES, "stream": stream}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        address = httpx.URL(gateway.url)
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            engine = gateway.engines["tiny@1"]
            wait_until(lambda: engine.in_flight == 1)
            if stream:
                assert b"200 OK" in connection.recv(100)
            else:
                time.sleep(0.25)  # until the first word was made
        wait_until(lambda: engine.cancelled == 1, 0.5)
        wait_until(gateway.records)
        (record,) = gateway.records()
        assert (record.status, record.outcome) == (499, "cancelled")
        assert record.output.startswith("one")
        assert record.output != WORDS
        wait_until(lambda: gateway.app.state.gateway.admission.held == 0)


@pytest.mark.parametrize("fields", [{"model": "nobody"}, {"tools": [{"type": "function", "function": {"name": "f"}}]}])
def test_after_a_failure_an_idempotency_key_is_free_again(shared_gateway, fields):
    headers = {"idempotency-key": f"free again: {sorted(fields)}"}
    assert shared_gateway.chat(**fields, headers=headers).status_code >= 400
    assert shared_gateway.chat(headers=headers).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("setting", "status"), [("refuse", 503), ("serve", 200)])
def test_a_record_that_cannot_be_written_is_the_requests_failure_or_a_counted_loss_and_frees_its_idempotency_key(
    serve, monkeypatch, stream, setting, status
):
    repeated = {"stream": stream, "headers": {"idempotency-key": "lost"}}

    def unwritable(records, replies=()):
        raise StoreUnavailable("sqlite:////secret: the disk is full")

    with serve(log_failure=setting) as gateway:
        monkeypatch.setattr(gateway.app.state.gateway.log, "_append", unwritable)
        reply = gateway.chat(**repeated)
        assert (reply.status_code, "secret" in reply.text) == (200 if stream else status, False)
        assert ('"store_unavailable"' in reply.text) is (setting == "refuse")
        if stream:
            assert reply.text.endswith("\n\n")
            assert ("event: error" in reply.text, "[DONE]" in reply.text) == (setting == "refuse", setting == "serve")
        assert reply.headers.get("retry-after") == ("1" if reply.status_code == 503 else None)
        ready = gateway.http.get("/readyz")
        assert (ready.status_code, ready.json()["log"]["lost"]) == (503, 1)
        assert "production log cannot be written" in ready.json()["reasons"][0]
        assert "llmops_log_failures_total 1.0" in gateway.http.get("/metrics").text
        assert [gateway.chat().status_code for _ in range(2)] == [status, status]
        if setting == "refuse":  # nothing is generated while it could not be logged
            assert len(gateway.engines["tiny@1"].requests) == 1
        monkeypatch.undo()
        again = gateway.chat(**repeated)
        assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)
        assert gateway.ready()
        assert gateway.chat(**repeated).content == again.content


def test_a_full_engine_queue_is_429_and_not_logged(serve):
    with serve(engine=lambda _: FakeEngine(failure=EngineBusy("full", retry_after=3))) as gateway:
        for stream in (False, True):
            reply = gateway.chat(stream=stream)
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
        assert gateway.records() == []
        assert 'llmops_refused_requests_total{status="429"} 2.0' in gateway.http.get("/metrics").text


def test_more_requests_than_may_wait_are_told_to_come_back(serve):
    with serve(engine=slow, max_waiting=1) as gateway, httpx.Client(base_url=gateway.url) as other:
        body = {"model": "assistant", "messages": MESSAGES, "stream": True}
        with other.stream("POST", "/v1/chat/completions", json=body) as first:
            assert first.status_code == 200
            reply = gateway.chat()
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
            assert reply.json()["error"]["type"] == "rate_limit_error"
        wait_until(lambda: gateway.app.state.gateway.admission.held == 0)
        assert gateway.chat(max_tokens=1).status_code == 200
