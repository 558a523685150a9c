"""What a server may do with a connection, and what the engine makes of it; on bare sockets."""

import asyncio
import socket
from contextlib import ExitStack, closing

import pytest

from llmops.engines import openai
from llmops.engines.protocol import generate
from llmops.errors import EngineError, EngineTimeout, EngineUnavailable
from tests.engines.upstream_server import (
    HELLO,
    STREAM_HEAD,
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
)  # fmt: skip

pytestmark = pytest.mark.anyio


async def test_an_event_or_a_reply_without_end_is_given_up(engine, server, ask, ask_whole, monkeypatch):
    monkeypatch.setattr(openai, "LONGEST_EVENT", 10_000)
    server.behave = stream(b"data: ", *[b"x" * 5000] * 4, 60)
    with pytest.raises(EngineError, match="an event of more than 10000 bytes"):
        await generate(engine, ask())
    monkeypatch.setattr(openai, "LONGEST_REPLY", 10_000)
    server.behave = reply(200, b" " * 200_000)
    with pytest.raises(EngineError, match="a reply of more than 10000 bytes"):
        await generate(engine, ask_whole())


LOST = raw(STREAM_HEAD + chunked(sse(delta("Hel"))))


@pytest.mark.parametrize(
    ("behave", "problem"),
    [
        (raw(b""), None),
        (raw(b"nonsense\r\n\r\n"), None),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"), None),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + sse(delta("Hel"))), None),
        (raw(STREAM_HEAD + b"zz\r\n"), None),
        (raw(STREAM_HEAD + chunked(sse(delta("Hel"))) + b"zz\r\nmore"), None),
        (LOST, "ClientPayloadError"),
        (raw(STREAM_HEAD + chunked(b'data: {"choi') + b"0\r\n\r\n"), None),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope"), None),
        (raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"), None),
    ],
)
async def test_a_broken_reply_is_no_answer(engine, server, ask, behave, problem):
    server.behave = behave
    with pytest.raises(EngineUnavailable, match=problem):
        await generate(engine, ask())


@pytest.mark.parametrize("url", ["http://[x/v1", "http://host:port/v1", "http:///v1", None])
async def test_an_address_that_is_none_and_a_refused_connection_are_unavailable(connect, ask, url):
    with socket.socket() as held:  # bound and not listening
        held.bind(("127.0.0.1", 0))
        engine = connect(url or f"http://127.0.0.1:{held.getsockname()[1]}/v1")
        with pytest.raises(EngineUnavailable, match=None if url else "ClientConnectorError"):
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
    server.behave = drop  # it is not sent for ever
    with pytest.raises(EngineUnavailable, match="ServerDisconnectedError"):
        await generate(engine, ask())
    assert len(server.seen) == 2 + 2


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


async def test_each_event_loop_has_its_own_connections_and_takes_them_along(engine, server, ask, recwarn):
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


async def test_a_proxy_of_the_environment_is_used(connect, server, ask, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await generate(connect("http://far.example/v1"), ask())).text == "Hello"
    assert server.seen[0].line == "POST http://far.example/v1/chat/completions HTTP/1.1"


# ---- time-outs


async def test_a_server_that_does_not_take_a_connection_times_out(connect, ask):
    with ExitStack() as sockets:
        listener = sockets.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(3):  # its queue of connections is full: the next one gets no reply at all
            waiting = sockets.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        engine = connect(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_timeout=0.1)
        with pytest.raises(EngineTimeout, match=r"no connection within 0\.1 s$"):
            await generate(engine, ask())


BEGUN = stream(sse(delta("Hel")), 60)
ENDLESS = stream(*[part for _ in range(1000) for part in (sse(delta("Hel")), 0.01)])
SHORT, LONG = {"first_byte_timeout": 0.1}, {"first_byte_timeout": 60, "timeout": 0.3}


@pytest.mark.parametrize(
    ("behave", "whole", "limits", "problem"),
    [
        (silence, False, SHORT, r"no first byte within 0\.1 s$"),
        (silence, True, {**SHORT, "timeout": 0.3}, r"no whole answer within 0\.3 s$"),
        (BEGUN, False, SHORT, r"nothing more within 0\.1 s$"),
        (silence, False, LONG, r"no whole answer within 0\.3 s$"),
        (ENDLESS, False, LONG, r"no whole answer within 0\.3 s$"),
    ],
    ids=["no first byte", "no whole answer", "falls silent", "never begins", "never ends"],
)
async def test_a_server_that_is_silent_or_never_finishes_times_out(
    connect, server, ask, ask_whole, eventually, behave, whole, limits, problem
):
    server.behave = behave
    with pytest.raises(EngineTimeout, match=problem):
        await generate(connect(**limits), ask_whole() if whole else ask())
    await eventually(lambda: server.left == 1)
