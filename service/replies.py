"""The two forms of a chat reply: one JSON object, or a stream of server-sent events."""

from __future__ import annotations

import time
import uuid
from typing import Any, Protocol

import orjson
from starlette.types import Send

from service.error_map import ApiError
from service.exchange import Exchange


class Reply(Protocol):
    """Sends an answer to the client."""

    async def piece(self, text: str) -> None:
        """Takes a piece of the answer as it is made."""
        ...

    async def finish(self) -> None:
        """Ends a good answer. Called when its record is in the log: this is the acknowledgement."""
        ...

    async def fail(self, problem: ApiError) -> None:
        """Ends the reply with an error. Raises `problem` when nothing was sent yet."""
        ...


class WholeReply:
    """Sends nothing until the answer is whole."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send

    async def piece(self, text: str) -> None:
        """Nothing to do: the exchange keeps the text."""

    async def finish(self) -> None:
        exchange = self._exchange
        message = {"role": "assistant", "content": exchange.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": exchange.finish_reason or "stop"}
        body = orjson.dumps(
            {**_envelope(exchange, "chat.completion"), "choices": [choice], "usage": _usage_counts(exchange)}
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, problem: ApiError) -> None:
        raise problem


class EventStream:
    """Sends each piece as it comes. The headers wait for the first one, so that early errors have their own status."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send
        self._started = False
        self._envelope = _envelope(exchange, "chat.completion.chunk")
        options = exchange.body.stream_options
        self._with_usage = options is not None and options.include_usage
        if self._with_usage:
            self._envelope["usage"] = None

    async def piece(self, text: str) -> None:
        if text:
            await self._send_events(self._chunk({"content": text}))

    async def finish(self) -> None:
        events = self._chunk({}, self._exchange.finish_reason or "stop")
        if self._with_usage:
            events += _event({**self._envelope, "choices": [], "usage": _usage_counts(self._exchange)})
        await self._send_events(events + b"data: [DONE]\n\n", last=True)

    async def fail(self, problem: ApiError) -> None:
        if not self._started:
            raise problem
        # Clients of OpenAI's API look for `error` in the data; readers of plain SSE for the event's name.
        await self._send_events(b"event: error\ndata: " + problem.body() + b"\n\n", last=True)

    async def _send_events(self, events: bytes, *, last: bool = False) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            events = self._chunk({"role": "assistant", "content": "", "refusal": None}) + events
        await self._send({"type": "http.response.body", "body": events, "more_body": not last})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._envelope, "choices": [choice]})


def _envelope(exchange: Exchange, kind: str) -> dict[str, Any]:
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": exchange.target.ref}


def _usage_counts(exchange: Exchange) -> dict[str, int]:
    usage = exchange.usage
    total = usage.tokens_in + usage.tokens_out
    return {"prompt_tokens": usage.tokens_in, "completion_tokens": usage.tokens_out, "total_tokens": total}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
