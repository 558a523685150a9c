"""How answers are written: what every route's replies do, and the two forms of a chat reply."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.types import Send

from llmops.engines.answer import Answer
from llmops.generation import NO_FIELDS, Chunk, Further
from service.error_map import ApiError
from service.exchange import Exchange

SILENT_SECONDS = 1.0
"""How long a stream says nothing before a comment does. Until then an error has a status of its own."""

_REST_OF_A_PIECE = b'"logprobs":null,"finish_reason":null}]}\n\n'


class Reply(Protocol):
    """Sends the answers of one exchange to the client, in the format of a route."""

    def begin(self) -> None:
        """The engine is asked from now on. Called once, inside the event loop."""
        ...

    def end(self) -> None:
        """The engine is no longer asked. Called once, before `finish` or `fail`."""
        ...

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
            **self._exchange.fields,
            "choices": choices,
            "usage": usage_counts(self._exchange),
        }

    def begin(self) -> None:
        """Nothing to do: nothing is sent until the answers are whole."""

    def end(self) -> None:
        """Nothing to do."""

    async def piece(self, chunk: Chunk) -> None:
        """Nothing to do: the exchange keeps it."""

    async def finish(self) -> None:
        body = orjson.dumps(self.body())
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if self._exchange.off_format is not None:
            headers.append((b"x-llmops-response-format", b"not-followed"))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, problem: ApiError) -> None:
        raise problem


class EventStream:
    """Sends each piece as it comes, as server-sent events. The headers wait for the first one, so that early errors
    have their own status, but no longer than SILENT_SECONDS: then they go out, with a comment, and so does another in
    every such time without an event, for a client or proxy that takes silence for death.

    A route's own form overrides `events` and `closing`.
    """

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange, self._send = exchange, send
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


class ChatStream(EventStream):
    """Chat completion chunks: an upstream's as it sent them, those of other engines with a role before the first."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        super().__init__(exchange, send)
        self._envelope = envelope(exchange, "chatcmpl", "chat.completion.chunk")
        if exchange.request.include_usage:
            self._envelope["usage"] = None
        self._unopened = set(range(exchange.request.extras.get("n", 1)))
        self._endings: dict[int, Further] = {}
        # What stands before the choices is the same in most events, so it is written once.
        self._fields: Mapping[str, Any] = NO_FIELDS
        self._head = self._written_head()

    def events(self, chunk: Chunk) -> bytes:
        further = chunk.further
        if further is None and chunk.text and not chunk.tool_calls and not chunk.logprobs:
            return (
                self._opened(chunk)
                + self._head_with(NO_FIELDS)
                + b'{"index":%d,"delta":{"content":%b},%b'
                % (
                    chunk.index,
                    orjson.dumps(chunk.text),
                    _REST_OF_A_PIECE,
                )
            )
        further = further or _NOTHING
        delta = dict(further.delta)
        if chunk.text and "content" not in delta:
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = chunk.tool_calls
        if chunk.finish_reason is not None:
            # Ends come when the record is in the log, so one without content waits until then with all it has.
            waits = not (chunk.text or chunk.tool_calls or chunk.logprobs or chunk.says_beside)
            self._endings[chunk.index] = further if waits else Further(NO_FIELDS, further.choice, further.reply)
            if waits:
                if delta.get("role"):
                    self._unopened.discard(chunk.index)
                return b""
            further = Further(further.delta, NO_FIELDS, further.reply)
        if not delta and not chunk.logprobs and not further.choice:
            return b""
        told = self._chunk(chunk.index, delta, further, logprobs=_logprobs(chunk.logprobs, further.choice))
        return self._opened(chunk) + told

    def closing(self) -> bytes:
        exchange = self._exchange
        events = [self._opening(index) for index in sorted(self._unopened & self._endings.keys())]
        events += [self._end(answer) for answer in exchange.answers]
        if exchange.request.include_usage and (usage := usage_counts(exchange)) is not None:
            events.append(event({**self._envelope, **self._fields, "choices": [], "usage": usage}))
        return b"".join([*events, b"data: [DONE]\n\n"])

    def _end(self, answer: Answer) -> bytes:
        further = self._endings.get(answer.index, _NOTHING)
        if answer.finish_reason is None and not (further.delta or further.choice or further.reply):
            return b""
        return self._chunk(answer.index, dict(further.delta), further, answer.finish_reason)

    def _opened(self, chunk: Chunk) -> bytes:
        """The role before an answer's first piece, where the server gave none. Answers that never come have none."""
        if chunk.index not in self._unopened:
            return b""
        self._unopened.discard(chunk.index)
        has_role = chunk.further is not None and chunk.further.delta.get("role")
        return b"" if has_role else self._opening(chunk.index)

    def _opening(self, index: int) -> bytes:
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        further: Further | None = None,
        finish_reason: str | None = None,
        logprobs: Any = None,
    ) -> bytes:
        further = further or _NOTHING
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        choice |= {name: value for name, value in further.choice.items() if name != "logprobs"}
        return self._head_with(further.reply) + orjson.dumps(choice) + b"]}\n\n"

    def _head_with(self, fields: Mapping[str, Any]) -> bytes:
        if fields != self._fields:
            self._fields = fields
            self._head = self._written_head()
        return self._head

    def _written_head(self) -> bytes:
        return b"data: " + orjson.dumps({**self._envelope, **self._fields})[:-1] + b',"choices":['


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
    message = {"role": "assistant", "content": answer.content, "refusal": None, **answer.fields}
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    choice = {
        "index": answer.index,
        "message": message,
        "finish_reason": answer.finish_reason,
        **answer.choice,
    }
    choice["logprobs"] = _logprobs(answer.logprobs, answer.choice)
    return choice


def _logprobs(entries: Any, choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """OpenAI's object of an answer's tokens, and what else a server says in it."""
    others = choice.get("logprobs") or NO_FIELDS
    return {"content": entries or None, "refusal": None, **others} if entries or others else None


_NOTHING = Further()
