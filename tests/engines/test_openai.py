"""What is sent to an OpenAI-compatible server, and what its answers and refusals become."""

from __future__ import annotations

import json
import socket

import pytest

from llmops.engines.openai import OpenAIEngine, identity
from llmops.engines.protocol import generate
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.generation import GenerationRequest, Usage
from tests.engines.upstream_server import HELLO, STREAM_HEAD, UpstreamServer, chunked, delta, raw, reply, sse, stream

pytestmark = pytest.mark.anyio


@pytest.fixture
async def upstream():
    """A server that answers "Hello"."""
    async with UpstreamServer() as server:
        yield server


@pytest.fixture
async def engine(upstream):
    engine = OpenAIEngine(upstream.url + "/", "big", timeout=5)
    yield engine
    await engine.close()


async def test_an_answer_streams_and_ends_with_usage_only_in_the_last_chunk(engine, ask):
    chunks = [chunk async for chunk in engine.stream(ask())]
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert [chunk.usage for chunk in chunks] == [None, None, Usage(5, 2)]


async def test_the_request_is_what_openai_servers_take(engine, upstream, ask):
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"})
    wanted = {"type": "json_object"}
    parameters = ask(max_tokens=7, temperature=0.5, top_p=0.9, stop=["\n"], seed=3, response_format=wanted).parameters
    await generate(engine, GenerationRequest(messages, parameters))
    assert upstream.seen[0].body == {
        "model": "big",
        "messages": list(messages),
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": 3,
        "response_format": wanted,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_what_is_not_set_is_not_sent(engine, upstream, ask):
    await generate(engine, ask())
    assert not {"stop", "seed", "response_format"} & set(upstream.seen[0].body)
    assert "authorization" not in upstream.seen[0].headers


async def test_without_usage_token_counts_are_unknown(engine, upstream, ask):
    upstream.behave = stream(sse(delta("Hi", "length")))
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason, answer.usage) == ("Hi", "length", Usage(None, None))


def refusal(status, error=None, headers=""):
    return reply(status, error.encode() if isinstance(error, str) else {"error": error or {"message": "no"}}, headers)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, None, EngineRejected),
        (413, None, EngineRejected),
        (422, None, EngineRejected),
        (401, None, EngineUnavailable),
        (403, None, EngineUnavailable),
        (404, None, EngineUnavailable),
        (429, None, EngineUnavailable),
        (502, "<html>Bad Gateway</html>", EngineUnavailable),
        (503, None, EngineUnavailable),
        (408, None, EngineTimeout),
        (504, None, EngineTimeout),
        (500, None, EngineError),
        (500, "not json", EngineError),
        (500, "[1]", EngineError),
        (400, '{"error": "flat text"}', EngineRejected),
        (400, {"message": "too long", "code": "context_length_exceeded"}, ContextTooLong),
    ],
)
async def test_a_refusal_becomes_the_error_of_its_status(engine, upstream, ask, status, error, kind):
    upstream.behave = refusal(status, error)
    with pytest.raises(EngineError, match=f"^upstream answered {status}: ") as caught:
        await generate(engine, ask())
    assert type(caught.value) is kind


async def test_a_refusal_names_the_field_at_fault(engine, upstream, ask):
    upstream.behave = refusal(400, {"message": "must be smaller", "param": "max_tokens"})
    with pytest.raises(EngineRejected, match=r"^upstream answered 400: must be smaller$") as caught:
        await generate(engine, ask())
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [("retry-after: 7\r\n", 7.0), ("retry-after: Wed, 21 Oct 2026 07:28:00 GMT\r\n", None), ("", None)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_upstream_says_when_to_come_back(engine, upstream, ask, status, headers, seconds):
    upstream.behave = refusal(status, headers=headers)
    with pytest.raises(EngineUnavailable) as caught:
        await generate(engine, ask())
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("done", ["[DONE]", "[DONE] ", "[DONE]\r"])
async def test_a_stream_that_says_it_is_done_is_an_answer_whose_finish_reason_is_unknown(engine, upstream, ask, done):
    upstream.behave = stream(sse(delta("Hel"), done))
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason) == ("Hel", None)


async def test_a_connection_lost_in_the_middle_is_no_answer(engine, upstream, ask):
    upstream.behave = raw(STREAM_HEAD + chunked(sse(delta("Hel"))))
    with pytest.raises(EngineUnavailable, match="ClientPayloadError"):
        await generate(engine, ask())


@pytest.mark.parametrize(
    "garbage",
    [
        "{",
        "[1]",
        "3",
        '{"choices": {"a": 1}}',
        '{"choices": [3]}',
        '{"choices": [{"delta": 3}]}',
        '{"choices": [{"delta": {"content": 3}}]}',
        '{"choices": [], "usage": 3}',
        '{"choices": [], "usage": {"prompt_tokens": 18446744073709551615}}',
        '{"choices": [{"delta": {"new": ' + "[" * 500 + "]" * 500 + "}}]}",
        '{"choices": [{"delta": {"tool_calls": {"a": 1}}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"function": "f"}]}}]}',
        '{"choices": [{"delta": {}, "finish_reason": {"type": "stop"}}]}',
    ],
)
async def test_an_event_of_garbage_is_an_engine_error(engine, upstream, ask, garbage):
    upstream.behave = stream(sse(delta("Hel"), garbage, *HELLO))
    with pytest.raises(EngineError, match=r"^the upstream sent .*(is|are) (no|not) ") as caught:
        await generate(engine, ask())
    assert caught.value.reason == str(caught.value)


async def test_a_refused_connection_is_unavailable(ask):
    with socket.socket() as held:  # bound and not listening
        held.bind(("127.0.0.1", 0))
        engine = OpenAIEngine(f"http://127.0.0.1:{held.getsockname()[1]}/v1", "big")
        with pytest.raises(EngineUnavailable, match="ClientConnectorError"):
            await generate(engine, ask())
        await engine.close()


@pytest.mark.parametrize("url", ["http://[x/v1", "http://host:port/v1", "http:///v1"])
async def test_an_address_that_is_none_is_unavailable(ask, url):
    engine = OpenAIEngine(url, "big")
    with pytest.raises(EngineUnavailable):
        await generate(engine, ask())
    await engine.close()


async def test_the_key_is_read_from_the_named_variable_and_sent_as_bearer(upstream, ask, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sesame\n")  # as files of keys end
    engine = OpenAIEngine(upstream.url, "big", key_variable="UPSTREAM_KEY")
    await generate(engine, ask())
    await engine.close()
    assert upstream.seen[0].headers["authorization"] == "Bearer sesame"
    assert "sesame" not in json.dumps(engine.identity.to_mapping())


@pytest.mark.parametrize("value", [None, "", " \n", "two\nlines", "schlüssel"])
def test_a_key_that_is_missing_or_unusable_names_its_variable_only(monkeypatch, value):
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("UPSTREAM_KEY", value)
    with pytest.raises(EngineUnavailable) as caught:
        OpenAIEngine("http://host/v1", "big", key_variable="UPSTREAM_KEY")
    assert str(caught.value) == "http://host/v1: the environment variable UPSTREAM_KEY holds no key"


def test_the_identity_is_known_before_connecting():
    engine = OpenAIEngine("http://host/v1/", "big", slots=3)
    assert engine.identity == identity("http://host/v1", "big") == identity("http://host/v1/", "big")
    assert engine.identity != identity("http://host/v1", "small")
    assert engine.slots == 3


async def test_pieces_that_arrive_together_say_that_another_follows(engine, upstream, ask):
    upstream.behave = stream(sse(delta("one"), delta("two"), delta("three")), 0.05, sse(*HELLO[2:]))
    chunks = [chunk async for chunk in engine.stream(ask())]
    assert [(chunk.text, chunk.more) for chunk in chunks] == [
        ("one", True), ("two", True), ("three", False), ("", False),
    ]  # fmt: skip


async def test_what_came_before_a_broken_event_is_given_out(engine, upstream, ask):
    upstream.behave = stream(sse(delta("one"), delta("two"), "{not json"))
    seen = []

    async def collect():
        async for chunk in engine.stream(ask()):
            seen.append((chunk.text, chunk.more))  # noqa: PERF401  what came before the error is wanted

    with pytest.raises(EngineError, match="not JSON"):
        await collect()
    assert seen == [("one", True), ("two", False)]
