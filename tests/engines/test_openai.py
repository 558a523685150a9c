from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import aclosing
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from llmops.engines.openai import OpenAIEngine, identity
from llmops.engines.protocol import generate
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.generation import GenerationRequest, Usage

pytestmark = pytest.mark.anyio


def event(value) -> str:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"


def piece(text: str | None = None, finish_reason: str | None = None) -> str:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
ANSWER = [piece("Hel"), piece("lo"), piece(None, "stop"), USAGE, event("[DONE]")]


@pytest.fixture(scope="module")
def server():
    """A real HTTP server that answers with what `script` holds: texts to stream, numbers (seconds to wait)."""
    state = SimpleNamespace(script=[], reply=None, seen=[], closed=threading.Event(), started=threading.Event())

    async def stream():
        closed = state.closed
        state.started.set()
        try:
            for item in state.script:
                if isinstance(item, str):
                    yield item
                else:
                    await asyncio.sleep(item)
        except (asyncio.CancelledError, GeneratorExit):
            closed.set()
            raise

    async def chat(request: Request) -> Response:
        state.seen.append((dict(request.headers), await request.json()))
        return state.reply or StreamingResponse(stream(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from here on connections wait for the server, which starts on its own time
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        state.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        yield state
        running.should_exit = True
        thread.join()


@pytest.fixture
def upstream(server):
    """The server, answering "Hello"."""
    server.script, server.reply, server.seen = ANSWER, None, []
    server.closed, server.started = threading.Event(), threading.Event()
    return server


@pytest.fixture
async def engine(upstream):
    engine = OpenAIEngine(upstream.url + "/", "big", timeout=5)
    yield engine
    await engine.close()


async def test_an_answer_streams_and_ends_with_usage_only_in_the_last_chunk(engine, upstream, ask):
    chunks = [chunk async for chunk in engine.stream(ask())]
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert [chunk.usage for chunk in chunks] == [None, None, Usage(5, 2)]


async def test_text_arrives_before_the_answer_ends(engine, upstream, ask):
    upstream.script = [piece("first"), 60]
    async with aclosing(engine.stream(ask())) as chunks:
        assert (await asyncio.wait_for(anext(chunks), 5)).text == "first"


async def test_the_request_is_what_openai_servers_take(engine, upstream, ask):
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"})
    wanted = {"type": "json_object"}
    parameters = ask(max_tokens=7, temperature=0.5, top_p=0.9, stop=["\n"], seed=3, response_format=wanted).parameters
    await generate(engine, GenerationRequest(messages, parameters))
    [(_, body)] = upstream.seen
    assert body == {
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
    [(headers, body)] = upstream.seen
    assert not {"stop", "seed", "response_format"} & set(body)
    assert "authorization" not in headers


async def test_comments_blank_lines_and_other_fields_are_skipped(engine, upstream, ask):
    upstream.script = [": ping\n\n", "event: message\nid: 3\n", "data:\n\n", *ANSWER]
    assert (await generate(engine, ask())).text == "Hello"


async def test_an_event_split_over_packets_is_whole(engine, upstream, ask):
    text = "".join([piece("H€llo"), *ANSWER[2:]])
    upstream.script = [part for letter in text for part in (letter, 0)]
    assert (await generate(engine, ask())).text == "H€llo"


async def test_without_usage_token_counts_are_unknown(engine, upstream, ask):
    upstream.script = [piece("Hi", "length")]
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason, answer.usage) == ("Hi", "length", Usage(None, None))


def refuse(upstream, status, error=None, **headers):
    content = error if isinstance(error, str) else json.dumps({"error": error or {"message": "no"}})
    upstream.reply = Response(content, status, headers)


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
    refuse(upstream, status, error)
    with pytest.raises(EngineError, match=f"^upstream answered {status}: ") as caught:
        await generate(engine, ask())
    assert type(caught.value) is kind


async def test_a_refusal_names_the_field_at_fault(engine, upstream, ask):
    refuse(upstream, 400, {"message": "must be smaller", "param": "max_tokens"})
    with pytest.raises(EngineRejected, match=r"^upstream answered 400: must be smaller$") as caught:
        await generate(engine, ask())
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "7"}, 7.0), ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None), ({}, None)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_upstream_says_when_to_come_back(engine, upstream, ask, status, headers, seconds):
    refuse(upstream, status, **headers)
    with pytest.raises(EngineUnavailable) as caught:
        await generate(engine, ask())
    assert caught.value.retry_after == seconds


async def test_a_huge_refusal_is_told_shortly(engine, upstream, ask):
    refuse(upstream, 400, {"message": "x" * 100_000})
    with pytest.raises(EngineRejected) as caught:
        await generate(engine, ask())
    assert len(str(caught.value)) < 400


async def test_a_stream_that_ends_without_finish_and_done_is_no_answer(engine, upstream, ask):
    upstream.script = [piece("Hel")]
    with pytest.raises(EngineUnavailable, match="the stream ended before the answer did"):
        await generate(engine, ask())


@pytest.mark.parametrize("done", ["[DONE]", "[DONE] ", "[DONE]\r"])
async def test_a_stream_that_says_it_is_done_is_an_answer_whose_finish_reason_is_unknown(engine, upstream, ask, done):
    upstream.script = [piece("Hel"), event(done)]
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason) == ("Hel", None)


async def test_a_connection_lost_in_the_middle_is_no_answer(ask):
    async def lose(reader, writer):
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        content = piece("Hel").encode()
        writer.write(b"%x\r\n%s\r\n" % (len(content), content))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(lose, "127.0.0.1", 0) as server:
        engine = OpenAIEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "big")
        chunks = []
        with pytest.raises(EngineUnavailable, match="ClientPayloadError"):
            chunks.extend([chunk async for chunk in engine.stream(ask())])
        await engine.close()


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
    upstream.script = [piece("Hel"), event(garbage), *ANSWER]
    with pytest.raises(EngineError, match=r"^the upstream sent .*(is|are) (no|not) ") as caught:
        await generate(engine, ask())
    assert caught.value.reason == str(caught.value)


async def test_an_error_within_the_stream_is_passed_on(engine, upstream, ask):
    upstream.script = [piece("Hel"), event({"error": {"message": "out of memory"}})]
    with pytest.raises(EngineError, match=r"^the upstream failed: out of memory$"):
        await generate(engine, ask())


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


@pytest.mark.parametrize("script", [[60], [piece("Hel"), 60]], ids=["before the answer", "within it"])
async def test_a_silent_upstream_times_out(upstream, ask, script):
    upstream.script = script
    engine = OpenAIEngine(upstream.url, "big", timeout=0.2)
    with pytest.raises(EngineTimeout, match=r"no whole answer within 0\.2 s"):
        await generate(engine, ask())
    await engine.close()


async def test_leaving_a_stream_closes_the_upstream_connection(engine, upstream, ask):
    upstream.script = [piece("Hel"), 60]
    async with aclosing(engine.stream(ask())) as chunks:
        await anext(chunks)
        assert not upstream.closed.is_set()
    assert await asyncio.to_thread(upstream.closed.wait, 5)


async def test_cancelling_a_task_closes_the_upstream_connection(engine, upstream, ask, eventually):
    upstream.script = [piece("Hel"), 60]
    task = asyncio.create_task(generate(engine, ask()))
    await eventually(lambda: upstream.started.is_set())
    task.cancel()
    assert await asyncio.to_thread(upstream.closed.wait, 5)
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_the_key_is_read_from_the_named_variable_and_sent_as_bearer(upstream, ask, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sesame\n")  # as files of keys end
    engine = OpenAIEngine(upstream.url, "big", key_variable="UPSTREAM_KEY")
    await generate(engine, ask())
    await engine.close()
    assert upstream.seen[0][0]["authorization"] == "Bearer sesame"
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
    upstream.script = ["".join([piece("one"), piece("two"), piece("three")]), *ANSWER[2:]]
    chunks = [chunk async for chunk in engine.stream(ask())]
    assert [(chunk.text, chunk.more) for chunk in chunks] == [
        ("one", True), ("two", True), ("three", False), ("", False),
    ]  # fmt: skip


async def test_what_came_before_a_broken_event_is_given_out(engine, upstream, ask):
    upstream.script = ["".join([piece("one"), piece("two"), "data: {not json\n\n"])]
    seen = []

    async def collect():
        async for chunk in engine.stream(ask()):
            seen.append((chunk.text, chunk.more))  # noqa: PERF401  what came before the error is wanted

    with pytest.raises(EngineError, match="not JSON"):
        await collect()
    assert seen == [("one", True), ("two", False)]
