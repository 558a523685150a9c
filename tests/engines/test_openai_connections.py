"""What a server may do with a connection, and what the engine makes of it; on bare sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from contextlib import aclosing, contextmanager

import pytest

from llmops.engines import openai
from llmops.engines.openai import OpenAIEngine
from llmops.engines.protocol import generate
from llmops.errors import EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest, Usage
from tests.engines.upstream_server import (
    HELLO,
    STREAM_HEAD,
    USAGE,
    UpstreamServer,
    answer,
    chunked,
    delta,
    drop,
    raw,
    reply,
    silence,
    sse,
    stream,
    whole,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server():
    async with UpstreamServer() as server:
        yield server


@pytest.fixture
async def engine(server):
    engine = OpenAIEngine(server.url, "big", timeout=5)
    yield engine
    await engine.close()


@pytest.fixture
def ask_whole(ask):
    return lambda **more: dataclasses.replace(ask(), whole=True, **more)


@pytest.fixture
def ask_two(ask):
    return lambda: dataclasses.replace(ask(), extras={"n": 2})


async def chunks_of(engine, request):
    return [chunk async for chunk in engine.stream(request)]


async def collect(chunks, seen):
    """Appends chunks as they come, so that those before a failure are there."""
    async for chunk in chunks:
        seen.append(chunk)


# ---- whole answers


async def test_an_answer_that_nobody_reads_early_is_asked_for_whole(engine, server, ask_whole):
    assert await chunks_of(engine, ask_whole()) == [Chunk("Hello", "stop", Usage(5, 2))]
    [seen] = server.seen
    assert not {"stream", "stream_options"} & set(seen.body)


async def test_a_setting_streams_always(server, ask_whole):
    engine = OpenAIEngine(server.url, "big", stream_always=True)
    assert [chunk.text for chunk in await chunks_of(engine, ask_whole())] == ["Hel", "lo", ""]
    assert server.seen[0].body["stream"] is True
    await engine.close()


async def test_several_whole_answers_are_chunks_of_which_the_last_has_usage(engine, server, ask_whole):
    choices = [
        {"index": 1, "message": {"content": "one"}, "finish_reason": "length"},
        {"index": 0, "message": {"content": "zero"}, "finish_reason": "stop"},
    ]
    server.behave = reply(200, {"choices": choices, "usage": USAGE})
    assert await chunks_of(engine, ask_whole(extras={"n": 2})) == [
        Chunk("one", "length", None, 1),
        Chunk("zero", "stop", Usage(5, 2), 0),
    ]
    assert server.seen[0].body["n"] == 2


async def test_tool_calls_and_logprobs_of_a_whole_answer_come_along(engine, server, ask_whole):
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}, "index": index}
        for index, name in enumerate("ab")
    ]
    entries = [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"message": message, "finish_reason": "tool_calls", "logprobs": {"content": entries}}
    server.behave = reply(200, {"choices": [choice]})
    [chunk] = await chunks_of(engine, ask_whole())
    assert (chunk.text, chunk.finish_reason, chunk.usage) == ("", "tool_calls", Usage(None, None))
    assert chunk.tool_calls == calls
    assert chunk.logprobs == entries


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "a reply that is not JSON"),
        (b"\xff\xfe", "a reply that is not JSON"),
        (b"[" * 100_000, "a reply that is not flat enough"),
        (b"", "a reply that is not JSON"),
        ([1], "a reply that is not an object"),
        ({}, "sent no answer"),
        ({"choices": []}, "sent no answer"),
        ({"choices": {"a": 1}}, "choices that is no list of objects"),
        ({"choices": [3]}, "choices that is no list of objects"),
        (whole(usage=3), "usage that is no object"),
        (whole(usage={"prompt_tokens": "five"}), "usage.prompt_tokens = five, which is no number of tokens"),
        (whole(text=["Hello"]), "content that is no list of objects"),
        ({"choices": [{"message": "Hello", "finish_reason": "stop"}]}, "message that is no object"),
        ({"choices": [{"message": {"tool_calls": 3}, "finish_reason": "stop"}]}, "a tool call that is no object"),
        ({"choices": [{"message": {}, "logprobs": 3, "finish_reason": "stop"}]}, "logprobs that is no object"),
        ({"choices": [{"message": {}, "index": "one", "finish_reason": "stop"}]}, "an answer of index one where"),
        ({"error": {"message": "out of memory"}}, "the upstream failed: out of memory"),
    ],
)
async def test_a_whole_reply_of_garbage_is_an_engine_error(engine, server, ask_whole, body, problem):
    server.behave = reply(200, body)
    with pytest.raises(EngineError, match=problem):
        await generate(engine, ask_whole())


async def test_a_server_that_does_not_stream_what_it_was_asked_to_is_understood(engine, server, ask):
    server.behave = reply(200, whole())
    assert await chunks_of(engine, ask()) == [Chunk("Hello", "stop", Usage(5, 2))]


async def test_a_server_that_streams_what_it_was_not_asked_to_is_understood(engine, server, ask_whole):
    server.behave = stream(sse(*HELLO))
    assert (await generate(engine, ask_whole())).text == "Hello"


# ---- streams


async def test_answers_side_by_side_finish_each_and_only_the_last_chunk_has_usage(engine, server, ask_two):
    events = [delta("a", index=0), delta("b", index=1), delta(None, "stop", index=0), delta("c", index=1)]
    server.behave = stream(sse(*events, delta(None, "length", index=1), {"choices": [], "usage": USAGE}, "[DONE]"))
    chunks = await chunks_of(engine, ask_two())
    assert [(chunk.text, chunk.finish_reason, chunk.usage, chunk.index) for chunk in chunks] == [
        ("a", None, None, 0),
        ("b", None, None, 1),
        ("c", None, None, 1),
        ("", "stop", None, 0),
        ("", "length", Usage(5, 2), 1),
    ]


async def test_an_answer_of_several_without_an_end_is_no_answer(engine, server, ask_two):
    server.behave = stream(sse(delta("a", index=0), delta("b", index=1), delta(None, "stop", index=0)))
    with pytest.raises(EngineUnavailable, match="the stream ended before the answer did"):
        await generate(engine, ask_two())


async def test_tool_calls_and_logprobs_come_as_the_server_sends_them(engine, server, ask):
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    entry = {"token": "Hi", "logprob": -0.5}
    spoken = delta("Hi")
    spoken["choices"][0]["logprobs"] = {"content": [entry], "refusal": None}
    server.behave = stream(sse(spoken, delta(None, tool_calls=[call]), delta(None, "tool_calls"), "[DONE]"))
    chunks = await chunks_of(engine, ask())
    assert [(chunk.text, chunk.logprobs, chunk.tool_calls, chunk.finish_reason, chunk.usage) for chunk in chunks] == [
        ("Hi", [entry], (), None, None),
        ("", (), [call], None, None),
        ("", (), [{"index": 0, "function": {"arguments": "{}"}}], None, None),  # none were sent
        ("", (), (), "tool_calls", Usage(None, None)),
    ]


async def test_text_in_the_event_of_the_finish_is_not_kept_back(engine, server, ask):
    server.behave = stream(sse(delta("Hi", "stop")), 60)
    async with aclosing(engine.stream(ask())) as chunks:
        assert await asyncio.wait_for(anext(chunks), 5) == Chunk("Hi")


async def test_a_finish_is_told_once_whatever_comes_after_it(engine, server, ask):
    trailing = {**delta(""), "usage": USAGE}  # as some gateways send their usage
    server.behave = stream(sse(delta("Hi"), delta(None, "stop"), delta(None, "stop"), trailing, "[DONE]"))
    assert await chunks_of(engine, ask()) == [Chunk("Hi"), Chunk("", "stop", Usage(5, 2))]


@pytest.mark.parametrize(
    "event",
    [b'event: error\ndata: {"error": {"message": "no memory"}}', b'event: error\ndata: {"message": "no memory"}',
     b'data: {"error": {"message": "no memory"}}'],
)  # fmt: skip
async def test_an_error_event_is_an_engine_error_after_the_text_before_it(engine, server, ask, event):
    server.behave = stream(sse(delta("Hel")) + event + b"\n\n")
    seen = []
    with pytest.raises(EngineError, match=r"^the upstream failed: no memory$"):
        await collect(engine.stream(ask()), seen)
    assert seen == [Chunk("Hel")]


async def test_an_event_without_end_is_given_up(engine, server, ask, monkeypatch):
    monkeypatch.setattr(openai, "LONGEST_EVENT", 10_000)
    server.behave = stream(b"data: ", *[b"x" * 5000] * 4, 60)
    with pytest.raises(EngineError, match="an event of more than 10000 bytes"):
        await generate(engine, ask())


async def test_a_reply_without_end_is_given_up(engine, server, ask_whole, monkeypatch):
    monkeypatch.setattr(openai, "LONGEST_REPLY", 10_000)
    server.behave = reply(200, b" " * 200_000)
    with pytest.raises(EngineError, match="a reply of more than 10000 bytes"):
        await generate(engine, ask_whole())


@pytest.mark.parametrize(
    "behave",
    [
        raw(b""),
        raw(b"nonsense\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + sse(delta("Hel"))),
        raw(STREAM_HEAD + b"zz\r\n"),
        raw(STREAM_HEAD + chunked(sse(delta("Hel"))) + b"zz\r\nmore"),
        raw(STREAM_HEAD + chunked(sse(delta("Hel")))),
        raw(STREAM_HEAD + chunked(b'data: {"choi') + b"0\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope"),
        raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"),
        drop,
    ],
)
async def test_a_broken_reply_is_no_answer(engine, server, ask, behave):
    server.behave = behave
    with pytest.raises(EngineUnavailable):
        await generate(engine, ask())


# ---- connections


async def test_a_connection_serves_one_request_after_another(engine, server, ask, ask_whole):
    for request in (ask(), ask_whole(), ask(), ask_whole()):
        await generate(engine, request)
    server.behave = reply(429, {"error": {"message": "slow down"}})
    with pytest.raises(EngineUnavailable):
        await generate(engine, ask())
    server.behave = answer
    await generate(engine, ask())
    assert (server.connections, len(server.seen)) == (1, 6)


async def test_a_server_that_holds_a_finished_stream_open_delays_nobody(engine, server, ask, monkeypatch):
    monkeypatch.setattr(openai, "LINGER_SECONDS", 0.05)
    server.behave = stream(sse(*HELLO), 60)
    assert (await asyncio.wait_for(generate(engine, ask()), 5)).text == "Hello"


async def test_a_connection_that_was_closed_meanwhile_is_replaced(engine, server, ask):
    async def answer_once(seen, send):
        await answer(seen, send)
        return False  # closed without saying so: the client may be sending already

    server.behave = answer_once
    for _ in range(5):
        assert (await generate(engine, ask())).text == "Hello"


async def test_a_request_that_meets_the_closing_of_its_connection_is_sent_once_more(engine, server, ask):
    async def answer_the_second(seen, send):
        return len(server.seen) > 1 and await answer(seen, send)

    server.behave = answer_the_second
    assert (await generate(engine, ask())).text == "Hello"
    assert len(server.seen) == 2


async def test_a_dropped_request_is_not_sent_for_ever(engine, server, ask):
    server.behave = drop
    with pytest.raises(EngineUnavailable, match="ServerDisconnectedError"):
        await generate(engine, ask())
    assert len(server.seen) == 2


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("behave", [silence, stream(sse(delta("Hel")), 60)], ids=["before a byte", "within"])
async def test_a_cancelled_request_closes_its_connection_at_once(
    engine, server, ask, ask_whole, eventually, behave, streamed
):
    server.behave = behave
    task = asyncio.create_task(generate(engine, ask() if streamed else ask_whole()))
    await eventually(lambda: server.in_flight)
    task.cancel()
    await eventually(lambda: server.left == 1, 1.0)
    with pytest.raises(asyncio.CancelledError):
        await task
    server.behave = answer
    await generate(engine, ask())
    assert server.connections == 2


async def test_each_event_loop_has_its_own_connections_and_takes_them_along(server, ask, recwarn):
    engine = OpenAIEngine(server.url, "big")

    def elsewhere(close):
        async def work():
            text = (await generate(engine, ask())).text
            if close:
                await engine.close()
            return text

        return asyncio.run(work())

    assert (await generate(engine, ask())).text == "Hello"
    for close in (False, True, False):
        assert await asyncio.to_thread(elsewhere, close) == "Hello"
    assert (await generate(engine, ask())).text == "Hello"
    assert server.connections == 4  # here one, and one in each other loop
    await engine.close()
    await engine.close()
    assert (await generate(engine, ask())).text == "Hello"  # closing gives up connections, not the engine
    await engine.close()
    assert not recwarn.list


async def test_cookies_of_one_client_never_reach_another(engine, server, ask):
    server.behave = reply(200, whole(), "set-cookie: session=secret; path=/\r\n")
    await generate(engine, ask())
    await generate(engine, ask())
    assert "cookie" not in server.seen[1].headers


async def test_a_redirect_is_not_followed(engine, server, ask):
    server.behave = reply(307, b"", "location: /elsewhere\r\n")
    with pytest.raises(EngineUnavailable, match="upstream answered 307") as caught:
        await generate(engine, ask())
    assert caught.value.lasting
    assert len(server.seen) == 1


async def test_a_proxy_of_the_environment_is_used(server, ask, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    engine = OpenAIEngine("http://far.example/v1", "big")
    assert (await generate(engine, ask())).text == "Hello"
    assert server.seen[0].line == "POST http://far.example/v1/chat/completions HTTP/1.1"
    await engine.close()


# ---- time-outs


async def test_a_server_that_does_not_take_a_connection_times_out(ask):
    with unaccepting() as port:
        engine = OpenAIEngine(f"http://127.0.0.1:{port}/v1", "big", connect_timeout=0.1)
        with pytest.raises(EngineTimeout, match=r"no connection within 0\.1 s$"):
            await generate(engine, ask())
        await engine.close()


@contextmanager
def unaccepting():
    """The port of a socket whose queue of connections is full: the next one gets no reply at all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


async def test_a_stream_without_a_first_byte_times_out(server, ask):
    server.behave = silence
    engine = OpenAIEngine(server.url, "big", first_byte_timeout=0.1)
    with pytest.raises(EngineTimeout, match=r"no first byte within 0\.1 s$"):
        await generate(engine, ask())
    await engine.close()


async def test_a_whole_answer_has_the_time_for_all_of_it(server, ask_whole):
    server.behave = silence
    engine = OpenAIEngine(server.url, "big", first_byte_timeout=0.1, timeout=0.3)
    with pytest.raises(EngineTimeout, match=r"no whole answer within 0\.3 s$"):
        await generate(engine, ask_whole())
    await engine.close()


async def test_a_server_that_falls_silent_times_out(server, ask, eventually):
    server.behave = stream(sse(delta("Hel")), 60)
    engine = OpenAIEngine(server.url, "big", first_byte_timeout=0.1)
    with pytest.raises(EngineTimeout, match=r"nothing more within 0\.1 s$"):
        await generate(engine, ask())
    await eventually(lambda: server.left == 1)
    await engine.close()


ENDLESS = stream(*[part for _ in range(1000) for part in (sse(delta("Hel")), 0.01)])


@pytest.mark.parametrize("behave", [silence, ENDLESS], ids=["never begins", "never ends"])
async def test_a_server_that_never_finishes_times_out(server, ask, eventually, behave):
    server.behave = behave
    engine = OpenAIEngine(server.url, "big", timeout=0.3, first_byte_timeout=60)
    with pytest.raises(EngineTimeout, match=r"no whole answer within 0\.3 s$"):
        await generate(engine, ask())
    await eventually(lambda: server.left == 1)
    await engine.close()


# ---- what is sent


async def test_extras_and_headers_are_sent_as_they_are(engine, server, ask):
    extras = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "logit_bias": {"3": -100},
        "logprobs": True,
    }
    assert set(extras) <= engine.honours
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await generate(engine, dataclasses.replace(ask(), extras=extras, headers={"traceparent": trace}))
    [seen] = server.seen
    assert {name: seen.body[name] for name in extras} == extras
    assert seen.headers["traceparent"] == trace
    assert seen.headers["content-type"] == "application/json"


async def test_tool_calls_in_a_conversation_are_sent_as_they_are(engine, server):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = (
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "a"},
    )
    await generate(engine, GenerationRequest(messages))
    assert server.seen[0].body["messages"] == list(messages)


async def test_a_long_conversation_is_sent_whole(engine, server):
    text = "x" * 2_000_000
    await generate(engine, GenerationRequest(({"role": "user", "content": text},)))
    assert server.seen[0].body["messages"][0]["content"] == text


@pytest.mark.parametrize(
    "request_", [{"text": "\ud800"}, {"text": "hello", "seed": 10**30}], ids=["half a character", "a huge number"]
)
async def test_what_no_json_holds_is_rejected(engine, server, ask, request_):
    with pytest.raises(EngineRejected, match=r"^the request is no JSON: "):
        await generate(engine, ask(**request_))
    assert server.seen == []


async def test_bodies_are_json_as_any_other(engine, server, ask):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    await generate(engine, ask(response_format=schema))
    assert json.loads(json.dumps(server.seen[0].body))["response_format"] == schema
