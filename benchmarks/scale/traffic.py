"""Clients and the upstream behind the gateway, in one event loop with one clock.

The upstream writes into its answer when it received the request and when it sent the last of it, and the client reads
that: so what the gateway adds is known of each request, apart from the upstream's own time.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import orjson

from benchmarks.gateway.load import Connection

QUESTION = ("Summarise this text. " * 60)[:1200]
WORDS, PIECES, SECONDS = 120, 20, 0.1
"""Of each answer: words, the pieces of a streamed one, and the time that the upstream takes."""

_USAGE = {"prompt_tokens": 300, "completion_tokens": WORDS, "total_tokens": 300 + WORDS}


class Sample(NamedTuple):
    """One request, in milliseconds. sent: when, on the client's clock. before: until the upstream had it. upstream:
    until the upstream had sent its last byte. after: until the client had the reply's last byte."""

    sent: float
    before: float
    upstream: float
    after: float

    @property
    def added(self) -> float:
        return self.before + self.after


def body(stream: bool) -> bytes:
    messages = [{"role": "user", "content": QUESTION}]
    return orjson.dumps({"model": "bench", "messages": messages, "max_tokens": 256, "stream": stream})


@asynccontextmanager
async def upstream(port: int) -> AsyncIterator[None]:
    """A server that answers each request in `SECONDS`, whole, or streamed in `PIECES` evenly spread over them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
                request, received = orjson.loads(await reader.readexactly(length)), time.perf_counter_ns()
                await (_stream if request.get("stream") else _whole)(writer, received)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # at the end of the loop
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield


async def _whole(writer: asyncio.StreamWriter, received: int) -> None:
    await asyncio.sleep(SECONDS)
    message = {"role": "assistant", "content": f"@{received}@ {'word ' * WORDS}@{time.perf_counter_ns()}@"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    content = orjson.dumps({"object": "chat.completion", "model": "stub", "choices": choices, "usage": _USAGE})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
    writer.write(head + content)


async def _stream(writer: asyncio.StreamWriter, received: int) -> None:
    def event(text: str | None, finish: str | None = None) -> bytes:
        choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
        data = {"object": "chat.completion.chunk", "model": "stub", "choices": choices}
        line = b"data: " + orjson.dumps(data | ({"usage": _USAGE} if text is None else {})) + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(line), line)

    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for piece in range(PIECES):
        writer.write(event((f"@{received}@" if piece == 0 else "") + "word " * (WORDS // PIECES)))
        await asyncio.sleep(SECONDS / PIECES)
    last = event(f"@{time.perf_counter_ns()}@", "stop")
    writer.write(last + event(None) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def _ask(connection: Connection, content: bytes) -> Sample:
    sent = time.perf_counter_ns()
    reply = await connection.post(content)
    ended = time.perf_counter_ns()
    if reply.status != 200:
        raise RuntimeError(f"{reply.status}: {reply.body[:300]!r}")
    received, answered = (int(stamp) for stamp in re.findall(rb"@(\d+)@", reply.body))
    return Sample(sent / 1e6, (received - sent) / 1e6, (answered - received) / 1e6, (ended - answered) / 1e6)


async def open_loop(url: str, key: str | None, content: bytes, rate: float, seconds: float, seed: int) -> list[Sample]:
    """Requests that arrive at random, `rate` a second, whether or not earlier ones were answered; in order of sending.

    Raises ExceptionGroup when one is not answered with 200.
    """
    chance, idle = random.Random(seed), list[Connection]()  # noqa: S311  times of arrival

    async def ask() -> Sample:
        connection = idle.pop() if idle else await Connection.open(url, key)
        sample = await _ask(connection, content)
        idle.append(connection)
        return sample

    due, end, asked = time.perf_counter(), time.perf_counter() + seconds, []
    async with asyncio.TaskGroup() as running:
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(running.create_task(ask()))
    for connection in idle:
        connection.close()
    return sorted(task.result() for task in asked)


async def closed_loop(url: str, key: str | None, content: bytes, clients: int, seconds: float) -> list[Sample]:
    """Each client asks again as soon as it is answered."""
    samples, end = list[Sample](), time.perf_counter() + seconds

    async def client() -> None:
        connection = await Connection.open(url, key)
        while time.perf_counter() < end:
            samples.append(await _ask(connection, content))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return samples
