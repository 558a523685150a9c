from __future__ import annotations

import json
import socket
import time

import httpx
import openai
import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable

MESSAGES = [{"role": "user", "content": "hello world"}]
WORDS = "one two three four five six"


@pytest.fixture
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def slow(model):
    """Six words, a fifth of a second each."""
    return FakeEngine(lambda _: WORDS, word_seconds=0.2)


def test_openai_client_gets_a_whole_answer(gateway, client):
    reply = client.chat.completions.create(model="assistant", messages=MESSAGES)
    assert reply.choices[0].message.content == "You said: hello world"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "assistant@1"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0


def test_openai_client_streams_role_pieces_finish_and_usage(gateway, client):
    stream = client.chat.completions.create(
        model="assistant", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: hello world"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == 4
    assert len({chunk.id for chunk in [*chunks, usage]}) == 1


def test_a_stream_without_include_usage_has_no_usage_and_ends_with_done(gateway):
    events = gateway.events()
    assert events[-1] == "[DONE]"
    assert not any("usage" in event for event in events[:-1])


def test_an_empty_answer_streams_role_and_finish(serve):
    with serve(engine=lambda _: FakeEngine(lambda _: "")) as gateway:
        role, finish, done = gateway.events()
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
def test_reply_names_the_versions_that_answered(gateway, stream):
    headers = gateway.chat(stream=stream).headers
    assert headers["x-llmops-release"] == "assistant@1"
    assert headers["x-llmops-prompt"] == "qa@1"
    assert headers["x-llmops-model"] == "tiny@1"
    assert headers["x-request-id"].startswith("req_")


def test_a_bare_model_gets_the_messages_as_they_are(gateway):
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "assistant", "content": "Yes?"}]
    reply = gateway.http.post("/v1/chat/completions", json={"model": "tiny@1", "messages": messages})
    assert reply.json()["choices"][0]["message"]["content"] == "You said: Yes?"
    assert reply.json()["model"] == reply.headers["x-llmops-model"] == "tiny@1"
    assert "x-llmops-release" not in reply.headers
    assert "x-llmops-prompt" not in reply.headers
    assert gateway.engines["tiny@1"].requests[-1].messages[0] == {"role": "system", "content": "Be brief."}


def test_the_template_wraps_the_conversation(gateway):
    turns = ["first", "reply", "second"]
    messages = [
        {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), turns, strict=True)
    ]
    messages.insert(0, {"role": "system", "content": "client's own"})
    gateway.http.post("/v1/chat/completions", json={"model": "assistant", "messages": messages})
    seen = [(m["role"], m["content"]) for m in gateway.engines["tiny@1"].requests[-1].messages]
    assert seen == [
        ("system", "Answer as release 1."),
        ("system", "client's own"),
        ("user", "first"),
        ("assistant", "reply"),
        ("user", "second"),
    ]


def test_alias_version_and_champion_name_the_release(serve, release):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        names = ("assistant", "assistant@champion", "assistant@challenger", "assistant@2")
        assert [gateway.chat(name).json()["model"] for name in names] == [
            "assistant@1", "assistant@1", "assistant@2", "assistant@2",
        ]  # fmt: skip


def test_prompt_variables_fill_the_template(serve, release):
    with serve(release(1, "champion", tone="polite")) as gateway:
        reply = gateway.chat(text="hi", prompt_variables={"tone": "polite"})
        assert reply.json()["choices"][0]["message"]["content"] == "You said: polite: hi"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt_variables.tone"),
        ({"prompt_variables": {"tone": "a", "mood": "b"}}, "prompt_variables.mood"),
        ({"prompt_variables": {"tone": "a", "question": "b"}}, "prompt_variables.question"),
        ({"model": "tiny@1", "prompt_variables": {"tone": "a"}}, "prompt_variables"),
        ({"prompt_variables": {"tone": "a"}, "messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ],
)
def test_a_request_the_prompt_cannot_take_is_refused_and_logged(serve, release, fields, param):
    with serve(release(1, "champion", tone="polite")) as gateway:
        reply = gateway.chat(**fields)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        assert reply.headers["x-llmops-model"] == "tiny@1"
        assert [(record.status, record.outcome) for record in gateway.records()] == [(400, "error")]


def test_sent_parameters_override_the_release_and_others_stay(serve, release):
    made_for = release(1, "champion", temperature=0.5, stop=["X"], response_format={"type": "json_object"})
    with serve(made_for) as gateway:
        gateway.chat(temperature=None)
        gateway.chat(max_completion_tokens=3, stop="Y", seed=7, response_format={"type": "text"}, top_p=0.5)
        kept, overridden = (request.parameters for request in gateway.engines["tiny@1"].requests)
    assert kept == made_for.parameters
    assert (overridden.max_tokens, overridden.stop, overridden.seed, overridden.top_p) == (3, ("Y",), 7, 0.5)
    assert overridden.temperature == 0.5
    assert overridden.response_format is None


def test_a_json_schema_reaches_the_engine_whole(gateway):
    schema = {"type": "object", "properties": {"a": {"const": None}}}
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert gateway.chat(response_format=asked).status_code == 200
    assert gateway.engines["tiny@1"].requests[-1].parameters.response_format == asked


def test_an_answer_cut_by_max_tokens_says_length(gateway):
    choice = gateway.chat(max_tokens=2).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said:", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_the_record_says_what_was_asked_and_answered(gateway, stream):
    sent = {"x-request-id": "abc 1"}
    body = {"model": "assistant", "messages": MESSAGES, "stream": stream, "user": "u1", "metadata": {"k": "v"}}
    for _ in range(2):
        reply = gateway.http.post("/v1/chat/completions", json=body, headers=sent)
        assert reply.headers["x-request-id"] == "abc 1"
    first, second = gateway.records()
    assert first.key != second.key
    assert (first.request_id, first.status, first.outcome) == ("abc 1", 200, "ok")
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
        (EngineUnavailable("secret host", retry_after=7), 503, "engine_unavailable", None),
        (EngineRejected("no grammar", param="response_format"), 400, "engine_rejected", "response_format"),
        (ContextTooLong("too long"), 400, "context_length_exceeded", "messages"),
        (EngineTimeout("slow"), 504, "timeout", None),
        (EngineError("secret path"), 502, "engine_error", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_engine_errors_before_the_first_word_have_their_status(serve, failure, status, code, param, stream):
    with serve(engine=lambda _: FakeEngine(failure=failure)) as gateway:
        reply = gateway.chat(stream=stream)
        assert reply.status_code == status
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert "secret" not in error["message"]
        assert reply.headers.get("retry-after") == ("7" if status == 503 else None)
        assert reply.headers["x-llmops-release"] == "assistant@1"
        (record,) = gateway.records()
        assert (record.status, record.outcome) == (status, "error")
        assert str(failure) in record.details["error"]


def test_an_unexpected_exception_gives_a_fixed_text(serve, caplog):
    def broken(_):
        raise ZeroDivisionError(" ".join(["the", "client's", "words"]))

    with serve(engine=lambda _: FakeEngine(broken)) as gateway:
        reply = gateway.chat()
        assert reply.status_code == 500
        assert reply.json()["error"]["code"] == "internal_error"
        assert "client's words" not in reply.text
        assert gateway.records()[0].status == 500
    assert reply.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "client's words" not in caplog.text


def test_a_whole_answer_that_takes_too_long_is_504(serve):
    with serve(engine=slow, engine_timeout=0.3) as gateway:
        reply = gateway.chat()
        assert reply.status_code == 504
        (record,) = gateway.records()
        assert (record.status, record.outcome, record.output) == (504, "error", "one")
        assert gateway.engines["tiny@1"].cancelled == 1


def test_a_stream_that_takes_too_long_ends_with_an_error_event(serve):
    with serve(engine=slow, engine_timeout=0.3) as gateway:
        events = gateway.events()
        assert events[-1]["error"]["code"] == "timeout"
        assert gateway.records()[0].status == 504
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client:
            stream = client.chat.completions.create(model="assistant", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError, match="no whole answer in time"):
                list(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_generation_and_is_logged(serve, wait_until, stream):
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
        assert gateway.app.state.gateway.admission.held == 0


def test_more_requests_than_may_wait_are_told_to_come_back(serve, wait_until):
    with serve(engine=slow, max_waiting=1) as gateway, httpx.Client(base_url=gateway.url) as other:
        body = {"model": "assistant", "messages": MESSAGES, "stream": True}
        with other.stream("POST", "/v1/chat/completions", json=body) as first:
            assert first.status_code == 200
            reply = gateway.chat()
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
            assert reply.json()["error"]["type"] == "rate_limit_error"
        wait_until(lambda: gateway.app.state.gateway.admission.held == 0)
        assert gateway.chat(max_tokens=1).status_code == 200


def test_an_unknown_model_is_404_and_names_what_exists(gateway, client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert "assistant@champion" in raised.value.message
    assert gateway.records() == []
