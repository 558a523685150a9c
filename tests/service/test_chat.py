import json
import socket
import time
from dataclasses import replace

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
from llmops.generation import EXTRAS, Chunk, Usage
from tests.service.conftest import events_of

MESSAGES = [{"role": "user", "content": "hello world"}]
WORDS = "one two three four five six"


@pytest.fixture(scope="module")
def client(shared_gateway):
    with openai.OpenAI(base_url=f"{shared_gateway.url}/v1", api_key="x", max_retries=0) as client:
        yield client


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


def test_alias_version_and_champion_name_the_release_and_the_record_its_arm(serve, release):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        names = ("assistant", "assistant@champion", "assistant@challenger", "assistant@2")
        models = [gateway.chat(name).json()["model"] for name in names]
        arms = [record.details["arm"] for record in gateway.records()]
    assert models == ["assistant@1", "assistant@1", "assistant@2", "assistant@2"]
    assert arms == ["champion", "explicit", "explicit", "explicit"]


@pytest.fixture(scope="module")
def polite(serve_shared, release):
    """A gateway whose prompt has the variable `tone`."""
    with serve_shared(release(1, "champion", tone="polite")) as gateway:
        yield gateway


def test_prompt_variables_fill_the_template(polite):
    reply = polite.chat(text="hi", prompt_variables={"tone": "polite"})
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
def test_a_request_the_prompt_cannot_take_is_refused_and_logged(polite, fields, param):
    reply = polite.chat(**fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert reply.headers["x-llmops-model"] == "tiny@1"
    record = polite.records()[-1]
    assert (record.request_id, record.status, record.outcome) == (reply.headers["x-request-id"], 400, "error")


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
def test_the_record_says_what_was_asked_and_answered(gateway, stream):
    for _ in range(2):
        reply = gateway.chat(headers={"x-request-id": "abc 1"}, stream=stream, user="u1", metadata={"k": "v"})
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
        (SchemaNotFollowed("it is not JSON"), 502, "response_format_not_followed", None),
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
        assert ("it is not JSON" in error["message"]) == (code == "response_format_not_followed")
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
        wait_until(lambda: gateway.app.state.gateway.admission.held == 0)


def calls_a_tool(_):
    """What an engine streams that asks for two tools, arguments in pieces."""

    def call(index, arguments, **begins):
        named = {name: begins.pop(name) for name in ("name",) if name in begins}
        return Chunk("", tool_calls=({"index": index, **begins, "function": {**named, "arguments": arguments}},))

    return [
        call(0, "", id="call_0", type="function", name="add"), call(0, '{"a": '), call(0, "1}"),
        call(1, "", id="call_1", type="function", name="stop"), call(1, "{}"), Chunk("", "tool_calls", Usage(5, 9)),
    ]  # fmt: skip


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("add", "stop")]
ALL = {"supported_extras": EXTRAS}


def test_several_answers_come_whole_and_streamed(shared_gateway, client):
    asked = {"model": "assistant", "messages": MESSAGES, "n": 2}
    whole = client.chat.completions.create(**asked)
    said = "You said: hello world"
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(0, said), (1, said)]
    assert whole.usage.completion_tokens == 8
    texts, ends = ["", ""], {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason
    assert (texts, ends) == ([said, said], {0: "stop", 1: "stop"})
    record = shared_gateway.records()[-1]
    assert record.details["extras"] == {"n": 2}
    assert record.details["other_answers"] == [{"output": said, "finish_reason": "stop"}]


class OneAnswer(FakeEngine):
    """Passes over `n`, as some servers do."""

    async def stream(self, request):
        async for chunk in super().stream(replace(request, extras={})):
            yield chunk


def test_answers_that_never_came_are_in_no_reply(serve):
    with serve(engine=lambda _: OneAnswer(**ALL)) as gateway:
        events = gateway.events(n=3)
        whole = gateway.chat(n=3).json()
    assert [choice["index"] for choice in whole["choices"]] == [0]
    assert {choice["index"] for event in events[:-1] for choice in event["choices"]} == {0}


def test_tool_calls_come_whole_and_streamed(serve):
    with serve(engine=lambda _: FakeEngine(script=calls_a_tool, **ALL)) as gateway:
        asked = {"model": "assistant", "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required"}
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client:
            (choice,) = client.chat.completions.create(**asked).choices
            with client.chat.completions.stream(**asked) as stream:
                streamed = stream.get_final_completion().choices[0]
        first, second = gateway.records()
        request = gateway.engines["tiny@1"].requests[0]
    for each in (choice, streamed):
        assert each.finish_reason == "tool_calls"
        assert not each.message.content
        assert [(call.id, call.type, call.function.name, call.function.arguments) for call in each.message.tool_calls] \
            == [("call_0", "function", "add", '{"a": 1}'), ("call_1", "function", "stop", "{}")]  # fmt: skip
    assert request.extras == {"tools": TOOLS, "tool_choice": "required"}
    assert first.details["tool_calls"] == second.details["tool_calls"]
    assert first.details["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert first.first_token_ms is not None


def test_what_tools_said_follows_the_filled_template(serve):
    call = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "add them"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "3"},
    ]
    with serve(engine=lambda _: FakeEngine(**ALL)) as gateway:
        assert gateway.chat(messages=turns, tools=TOOLS).status_code == 200
        seen = gateway.engines["tiny@1"].requests[0].messages
        (record,) = gateway.records()
    assert [message["role"] for message in seen] == ["system", "user", "assistant", "tool"]
    assert seen[2] == {"role": "assistant", "content": "", "tool_calls": [call], "sent_content": None}
    assert seen[3] == {"role": "tool", "content": "3", "tool_call_id": "call_0"}
    assert record.input == "add them"


def test_logprobs_come_whole_and_streamed(serve):
    entries = [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []} for text in ("a", " b")]

    def script(_):
        return [*(Chunk(entry["token"], logprobs=(entry,)) for entry in entries), Chunk("", "stop", Usage(1, 2))]

    with serve(engine=lambda _: FakeEngine(script=script, **ALL)) as gateway:
        asked = {"model": "assistant", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client:
            whole = client.chat.completions.create(**asked).choices[0].logprobs.content
            chunks = client.chat.completions.create(**asked, stream=True)
            streamed = [
                item for chunk in chunks if chunk.choices[0].logprobs for item in chunk.choices[0].logprobs.content
            ]
        assert gateway.engines["tiny@1"].requests[0].extras == {"logprobs": True, "top_logprobs": 2}
    assert [item.token for item in whole] == [item.token for item in streamed] == ["a", " b"]


@pytest.mark.parametrize("fields", [{"model": "nobody"}, {"tools": TOOLS}])
def test_after_a_failure_an_idempotency_key_is_free_again(shared_gateway, fields):
    headers = {"idempotency-key": f"free again: {sorted(fields)}"}
    assert shared_gateway.chat(**fields, headers=headers).status_code >= 400
    assert shared_gateway.chat(headers=headers).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("setting", ["refuse", "serve"])
def test_when_a_record_is_lost_its_idempotency_key_is_free_again_and_a_stream_ends_whole(
    serve, monkeypatch, stream, setting
):
    def unwritable(records, replies=()):
        raise StoreUnavailable("the disk is full")

    with serve(log_failure=setting) as gateway:
        monkeypatch.setattr(gateway.app.state.gateway.log, "_append", unwritable)
        first = gateway.chat(stream=stream, headers={"idempotency-key": "lost"})
        assert first.status_code == (503 if setting == "refuse" and not stream else 200)
        if stream:
            assert first.text.endswith("\n\n")
            assert ("event: error" in first.text, "[DONE]" in first.text) == (setting == "refuse", setting == "serve")
        monkeypatch.undo()
        again = gateway.chat(stream=stream, headers={"idempotency-key": "lost"})
        assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)
        assert gateway.chat(stream=stream, headers={"idempotency-key": "lost"}).content == again.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("setting", "status"), [("refuse", 503), ("serve", 200)])
def test_a_record_that_cannot_be_written_is_the_requests_failure_or_a_counted_loss(
    serve, monkeypatch, stream, setting, status
):
    def unwritable(records, replies=()):
        raise StoreUnavailable("sqlite:////secret: the disk is full")

    with serve(log_failure=setting) as gateway:
        monkeypatch.setattr(gateway.app.state.gateway.log, "_append", unwritable)
        reply = gateway.chat(stream=stream)
        assert (reply.status_code, "secret" in reply.text) == (200 if stream else status, False)
        assert ('"store_unavailable"' in reply.text) is (setting == "refuse")
        assert reply.headers.get("retry-after") == ("1" if reply.status_code == 503 else None)
        ready = gateway.http.get("/readyz")
        assert (ready.status_code, ready.json()["log"]["lost"]) == (503, 1)
        assert "production log cannot be written" in ready.json()["reasons"][0]
        assert "llmops_log_failures_total 1.0" in gateway.http.get("/metrics").text
        assert [gateway.chat().status_code for _ in range(2)] == [status, status]
        if setting == "refuse":  # nothing is generated while it could not be logged
            assert len(gateway.engines["tiny@1"].requests) == 1
        monkeypatch.undo()
        assert gateway.chat().status_code == 200
        assert gateway.ready()


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_engine_queue_is_429_and_not_logged(serve, stream):
    with serve(engine=lambda _: FakeEngine(failure=EngineBusy("full", retry_after=3))) as gateway:
        reply = gateway.chat(stream=stream)
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
        assert gateway.records() == []
        assert 'llmops_refused_requests_total{status="429"} 1.0' in gateway.http.get("/metrics").text


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


def test_an_unknown_model_is_404_and_names_what_exists(shared_gateway, client):
    before = len(shared_gateway.records())
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert "assistant@champion" in raised.value.message
    assert len(shared_gateway.records()) == before
