"""How answers are written: what every route's replies do, and the two forms of a chat reply."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.types import Send

from llmops.engines.protocol import Chunk
from service.error_map import ApiError
from service.exchange import Answer, Exchange

_REST_OF_A_PIECE = b'"logprobs":null,"finish_reason":null}]}\n\n'


class Reply(Protocol):
    """Sends the answers of one exchange to the client, in the format of a route."""

    async def piece(self, chunk: Chunk) -> None:
        """Takes a piece of an answer as it is made; the exchange has taken it already."""
        ...

    async def finish(self) -> None:
        """Ends a good answer. Called when its record is in the log: this is the acknowledgement."""
        ...

    async def fail(self, problem: ApiError) -> None:
        """Ends the reply with an error. Raises `problem` when nothing was sent yet."""
        ...


class WholeReply:
    """Sends nothing until the answers are whole. A route's own form overrides `body`."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send

    def body(self) -> dict[str, Any]:
        """The reply as plain values."""
        choices = [_whole_choice(answer) for answer in self._exchange.answers]
        return {
            **envelope(self._exchange, "chatcmpl", "chat.completion"),
            "choices": choices,
            "usage": usage_counts(self._exchange),
        }

    async def piece(self, chunk: Chunk) -> None:
        """Nothing to do: the exchange keeps it."""

    async def finish(self) -> None:
        body = orjson.dumps(self.body())
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, problem: ApiError) -> None:
        raise problem


class EventStream:
    """Sends each piece as it comes, as server-sent events. The headers wait for the first one, so that early errors
    have their own status. A route's own form overrides `opening`, `events` and `closing`.
    """

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send
        self._started = False
        self._together = b""  # events that wait for the next piece, which is there already

    def opening(self) -> bytes:
        """What stands before the first piece."""
        raise NotImplementedError

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

    async def _send_events(self, events: bytes, *, last: bool = False) -> None:
        events, self._together = self._together + events, b""
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            events = self.opening() + events
        await self._send({"type": "http.response.body", "body": events, "more_body": not last})


class ChatStream(EventStream):
    """Chat completion chunks."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        super().__init__(exchange, send)
        common = envelope(exchange, "chatcmpl", "chat.completion.chunk")
        if exchange.request.include_usage:
            common["usage"] = None
        self._envelope = common
        # What stands before the choices is the same in every event, so it is written once.
        self._head = b"data: " + orjson.dumps(common)[:-1] + b',"choices":['

    def opening(self) -> bytes:
        asked = range(self._exchange.request.extras.get("n", 1))
        return b"".join(self._chunk(index, {"role": "assistant", "content": "", "refusal": None}) for index in asked)

    def events(self, chunk: Chunk) -> bytes:
        if chunk.text and not chunk.tool_calls and not chunk.logprobs:
            return self._head + b'{"index":%d,"delta":{"content":%b},%b' % (
                chunk.index,
                orjson.dumps(chunk.text),
                _REST_OF_A_PIECE,
            )
        delta: dict[str, Any] = {"content": chunk.text} if chunk.text else {}
        if chunk.tool_calls:
            delta["tool_calls"] = chunk.tool_calls
        if not delta and not chunk.logprobs:
            return b""
        return self._chunk(chunk.index, delta, logprobs=_logprobs(chunk.logprobs))

    def closing(self) -> bytes:
        events = [self._chunk(each.index, {}, each.finish_reason or "stop") for each in self._exchange.answers]
        if self._exchange.request.include_usage and (usage := usage_counts(self._exchange)) is not None:
            events.append(event({**self._envelope, "choices": [], "usage": usage}))
        return b"".join([*events, b"data: [DONE]\n\n"])

    def _chunk(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: Any = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + orjson.dumps(choice) + b"]}\n\n"


def envelope(exchange: Exchange, prefix: str, kind: str) -> dict[str, Any]:
    """The fields with which every object of OpenAI's completion routes begins. `prefix` begins its id."""
    identity = f"{prefix}-{os.urandom(16).hex()}"
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


def _whole_choice(answer: Answer) -> dict[str, Any]:
    text = answer.text
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if answer.tool_calls:
        message.update(content=text or None, tool_calls=answer.tool_calls)
    return {
        "index": answer.index,
        "message": message,
        "logprobs": _logprobs(answer.logprobs),
        "finish_reason": answer.finish_reason or "stop",
    }


def _logprobs(entries: Any) -> dict[str, Any] | None:
    return {"content": entries, "refusal": None} if entries else None
