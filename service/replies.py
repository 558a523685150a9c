"""How answers are written: what the replies of every route do."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Send

from llmops.generation import Chunk
from llmops.random_ids import random_id
from service.error_map import ApiError
from service.exchange import Exchange

_OFF_FORMAT = (b"x-llmops-response-format", b"not-followed")

SILENT_SECONDS = 1.0
"""How long a stream says nothing before a comment does. Until then an error has a status of its own."""


class Reply:
    """Sends the answers of one exchange to the client, in the format of a route."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send

    def begin(self) -> None:
        """The engine is asked from now on. Called once, inside the event loop."""

    def end(self) -> None:
        """The engine is no longer asked. Called once, before `finish` or `fail`."""

    async def piece(self, chunk: Chunk) -> None:
        """Takes a piece of an answer as it is made; the exchange has taken it already."""

    async def finish(self) -> None:
        """Ends a good answer. Called when its record is in the log: this is the acknowledgement."""
        raise NotImplementedError

    async def fail(self, problem: ApiError) -> None:
        """Ends the reply with an error. Raises `problem` when nothing was sent yet."""
        raise problem


class WholeReply(Reply):
    """Sends nothing until the answers are whole. A route's own form says its `body`."""

    def body(self) -> dict[str, Any]:
        raise NotImplementedError

    async def finish(self) -> None:
        off_format = self._exchange.off_format is not None
        await send_json(self._send, orjson.dumps(self.body()), *([_OFF_FORMAT] if off_format else ()))


class EventStream(Reply):
    """Sends each piece as it comes, as server-sent events. The headers wait for the first one, so that early errors
    have their own status, but no longer than SILENT_SECONDS: then they go out, with a comment, and so does another in
    every such time without an event, for a client or proxy that takes silence for death.

    A route's own form overrides `events` and `closing`.
    """

    def __init__(self, exchange: Exchange, send: Send) -> None:
        super().__init__(exchange, send)
        self._started = False
        self._together = b""  # events that wait for the next piece, which is there already
        self._silent = True  # whether nothing was sent since the clock last looked
        self._clock: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(SILENT_SECONDS, self._look)

    def events(self, chunk: Chunk) -> bytes:
        """The events of one piece; may be empty."""
        raise NotImplementedError

    def closing(self) -> bytes:
        """What ends a good answer."""
        raise NotImplementedError

    def failing(self, problem: ApiError) -> bytes:
        """What ends a reply that had begun when something went wrong."""
        # Clients of OpenAI's API look for `error` in the data; readers of plain SSE for the event's name.
        return b"event: error\ndata: " + problem.body() + b"\n\n"

    async def piece(self, chunk: Chunk) -> None:
        events = self.events(chunk)
        if chunk.more:
            self._together += events
        elif events or self._together:
            await self._send_events(events)

    async def finish(self) -> None:
        await self._send_events(self.closing(), last=True)

    async def fail(self, problem: ApiError) -> None:
        if not self._started:
            raise problem
        await self._send_events(self.failing(problem), last=True)

    def end(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        if self._comment is not None and not self._started:  # it has not begun, and an error may yet have its status
            self._comment.cancel()
            self._comment = None

    async def _send_events(self, events: bytes, *, last: bool = False) -> None:
        if self._comment is not None:
            await self._comment
            self._comment = None
        self._silent = False
        events, self._together = self._together + events, b""
        await self._start()
        await self._send({"type": "http.response.body", "body": events, "more_body": not last})

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    def _look(self) -> None:
        if self._silent and self._comment is None:
            self._comment = asyncio.get_running_loop().create_task(self._send_comment())
        self._silent = True
        self.begin()

    async def _send_comment(self) -> None:
        await self._start()
        await self._send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})
        self._comment = None


def envelope(exchange: Exchange, prefix: str, kind: str) -> dict[str, Any]:
    """The fields with which every object of OpenAI's completion routes begins. `prefix` begins its id."""
    identity = f"{prefix}-{random_id()}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": exchange.target.ref}


def usage_counts(exchange: Exchange) -> Mapping[str, Any] | None:
    """Token counts by OpenAI's names: the upstream's own, or the engine's; None where nobody counted."""
    usage = exchange.usage
    if usage.reported is not None:
        return usage.reported
    if usage.tokens_in is None and usage.tokens_out is None:
        return None
    return {"prompt_tokens": usage.tokens_in, "completion_tokens": usage.tokens_out, "total_tokens": usage.total}


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def send_json(send: Send, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """A whole good reply."""
    usual = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": [*usual, *headers]})
    await send({"type": "http.response.body", "body": body})
