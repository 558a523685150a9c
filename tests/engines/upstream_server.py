"""An upstream server for tests, on bare sockets, so that it can also misbehave in ways that no HTTP library can."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@dataclass(frozen=True)
class Seen:
    """A request as it came. raw: its body's bytes."""

    line: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes = b""

    @property
    def text(self) -> str:
        """Every message's text, joined by blank lines."""
        return "\n\n".join(message["content"] for message in self.body["messages"])

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that the answer was asked to follow."""
        found: dict[str, Any] = self.body["response_format"]["json_schema"]["schema"]
        return found


Send = Callable[[bytes], Awaitable[None]]
Behaviour = Callable[["Seen", Send], Awaitable[bool]]
"""Answers one request by sending bytes; returns whether the connection stays open."""


def reply(status: int, body: object, headers: str = "") -> Behaviour:
    """A whole reply: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def behave(_: Seen, send: Send) -> bool:
        head = (
            f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n{headers}"
        )
        await send(head.encode() + b"\r\n" + content)
        return True

    return behave


def whole(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """A chat completion with one answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice], "usage": USAGE, **fields}


def delta(text: str | None = None, finish_reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """A streamed event of one choice; `more` goes into its delta."""
    return {"choices": [{"index": index, "delta": {"content": text, **more}, "finish_reason": finish_reason}]}


def sse(*events: object) -> bytes:
    """Events as a server sends them: bytes and texts as data as they are, anything else as JSON."""
    return b"".join(b"data: " + _data(event) + b"\n\n" for event in events)


def _data(event: object) -> bytes:
    if isinstance(event, bytes):
        return event
    return event.encode() if isinstance(event, str) else json.dumps(event).encode()


HELLO = (delta("Hel"), delta("lo"), delta(None, "stop"), {"choices": [], "usage": USAGE}, "[DONE]")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content) if content else b""


def stream(*pieces: bytes | float, end: bytes = b"0\r\n\r\n", stays: bool = True) -> Behaviour:
    """A streamed reply: bytes to send, numbers of seconds to be silent. `end` closes the chunked body."""

    async def behave(_: Seen, send: Send) -> bool:
        await send(STREAM_HEAD)
        for piece in pieces:
            await (send(chunked(piece)) if isinstance(piece, bytes) else asyncio.sleep(piece))
        await send(end)
        return stays

    return behave


async def answer(seen: Seen, send: Send) -> bool:
    """Says "Hello", streamed if asked to."""
    behave = stream(sse(*HELLO)) if seen.body.get("stream") else reply(200, whole())
    return await behave(seen, send)


async def silence(_: Seen, __: Send) -> bool:
    """Never sends a byte."""
    await asyncio.sleep(60)
    return False


async def drop(_: Seen, __: Send) -> bool:
    """Closes the connection in place of a reply."""
    return False


def raw(content: bytes) -> Behaviour:
    """These bytes, and then the end of the connection."""

    async def behave(_: Seen, send: Send) -> bool:
        await send(content)
        return False

    return behave


class UpstreamServer:
    """`async with UpstreamServer() as server:` listens at `server.url` and answers as `server.behave` does then.

    seen: the requests. connections: how many were opened. left: clients that went before their reply ended.
    in_flight: requests being answered now.
    """

    def __init__(self, behave: Behaviour = answer) -> None:
        self.behave = behave
        self.seen: list[Seen] = []
        self.connections = self.left = self.in_flight = 0
        self.idle_seconds: float | None = None
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, at the same port as before if it has listened already."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Ends at once, connections and all."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError, asyncio.CancelledError):
                while await self._one_request(reader, writer):
                    pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(self.idle_seconds):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields if field)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen.append(Seen(line, headers, json.loads(raw or b"{}"), raw))

        async def send(content: bytes) -> None:
            writer.write(content)
            await writer.drain()

        self.in_flight += 1
        behaving = asyncio.ensure_future(self.behave(self.seen[-1], send))
        gone = asyncio.ensure_future(_gone(reader))
        try:
            await asyncio.wait({behaving, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not behaving.done():
                self.left += 1
                return False
            return await behaving
        finally:
            self.in_flight -= 1
            behaving.cancel()
            gone.cancel()
            await asyncio.gather(behaving, gone, return_exceptions=True)


async def _gone(reader: asyncio.StreamReader) -> None:
    # Without reading: what comes belongs to the next request.
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110  a stream has no event for its end
        await asyncio.sleep(0.005)


@contextmanager
def serving(behave: Behaviour) -> Iterator[UpstreamServer]:
    """A server on a thread of its own, for tests of blocking clients."""
    server, loop = UpstreamServer(behave), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
