"""OpenAI's response object, and the typed events that a streamed one is told in."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmops.engines.protocol import Chunk, Usage
from service.error_map import ApiError
from service.exchange import Answer, Exchange
from service.response_body import ResponseRequest

MESSAGE = -1
"""In an order of outputs, the message; tool calls are numbered from 0."""


class ResponseObject:
    """One response as it grows: what it says about itself, and its output so far.

    order: the outputs, as they came; of a whole answer, the message before its tool calls.
    """

    def __init__(self, exchange: Exchange, body: ResponseRequest) -> None:
        self._exchange = exchange
        self._fixed = _about(exchange, body)
        self._ids: dict[int, str] = {}
        self.order: list[int] = []

    @property
    def answer(self) -> Answer:
        return self._exchange.answers[0]

    def begun(self) -> dict[str, Any]:
        """Before the first word."""
        return {**self._fixed, "status": "in_progress", "output": [], "usage": None}

    def ended(self) -> dict[str, Any]:
        """With the whole answer; `incomplete` where a limit cut it."""
        output = [self.item(output) for output in self.order or self._natural_order()]
        usage = _usage(self._exchange.usage)
        ending = _ending(self.answer.finish_reason)
        return {**self._fixed, **ending, "completed_at": int(time.time()), "output": output, "usage": usage}

    def item(self, output: int) -> dict[str, Any]:
        """One output, whole."""
        opened, answer = self.opened(output), self.answer
        if output == MESSAGE:
            status = _ending(answer.finish_reason)["status"]
            return {**opened, "status": status, "content": [text_part(answer.text, answer.logprobs)]}
        arguments = answer.tool_calls[output]["function"]["arguments"]
        return {**opened, "status": "completed", "arguments": arguments}

    def opened(self, output: int) -> dict[str, Any]:
        """One output before its content."""
        if output == MESSAGE:
            told: dict[str, Any] = {"type": "message", "role": "assistant", "content": []}
        else:
            call = self.answer.tool_calls[output]
            name = call["function"]["name"]
            told = {"type": "function_call", "call_id": call["id"], "name": name, "arguments": ""}
        prefix = "msg" if output == MESSAGE else "fc"
        identity = self._ids.setdefault(output, f"{prefix}_{uuid.uuid4().hex}")
        return {"id": identity, "status": "in_progress", **told}

    def _natural_order(self) -> list[int]:
        calls = list(range(len(self.answer.tool_calls)))
        return [MESSAGE, *calls] if self.answer.text or not calls else calls


class ResponseEvents:
    """Turns chunks into the bytes of OpenAI's events, numbered in sequence. Each chunk is in the exchange already.

    Whatever comes first has the two events that begin a response before it.
    """

    def __init__(self, exchange: Exchange, body: ResponseRequest) -> None:
        self._response = ResponseObject(exchange, body)
        self._number = 0

    def piece(self, chunk: Chunk) -> bytes:
        """What one chunk adds; empty for one without text and tool calls."""
        events = b""
        if chunk.text:
            events += self._opening(MESSAGE)
            place = {**self._place(MESSAGE), "content_index": 0}
            logprobs = list(chunk.logprobs)
            events += self._event("response.output_text.delta", **place, delta=chunk.text, logprobs=logprobs)
        for delta in chunk.tool_calls:
            call = delta.get("index", 0)
            events += self._opening(call)
            if arguments := (delta.get("function") or {}).get("arguments"):
                events += self._event("response.function_call_arguments.delta", **self._place(call), delta=arguments)
        return events

    def end(self) -> bytes:
        """What comes after the last piece."""
        events = b"" if self._response.order else self._opening(MESSAGE)
        events += b"".join(self._closing(output) for output in self._response.order)
        ended = self._response.ended()
        return events + self._event(f"response.{ended['status']}", response=ended)

    def error(self, problem: ApiError) -> bytes:
        """An end with an error: in OpenAI's shape for events and, under `error`, in its shape for bodies."""
        told = {"code": problem.code, "message": problem.message, "param": problem.param}
        return self._event("error", **told, error={**told, "type": problem.kind})

    def _opening(self, output: int) -> bytes:
        if output in self._response.order:
            return b""
        self._response.order.append(output)
        place = self._place(output)
        item = self._response.opened(output)
        opened = self._event("response.output_item.added", output_index=place["output_index"], item=item)
        if output == MESSAGE:
            part = text_part("", ())
            opened += self._event("response.content_part.added", **place, content_index=0, part=part)
        return opened

    def _closing(self, output: int) -> bytes:
        item, place = self._response.item(output), self._place(output)
        if output == MESSAGE:
            part = item["content"][0]
            text = {"text": part["text"], "logprobs": part["logprobs"]}
            done = self._event("response.output_text.done", **place, content_index=0, **text)
            done += self._event("response.content_part.done", **place, content_index=0, part=part)
        else:
            call = {"name": item["name"], "arguments": item["arguments"]}
            done = self._event("response.function_call_arguments.done", **place, **call)
        return done + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _place(self, output: int) -> dict[str, Any]:
        return {"item_id": self._response.opened(output)["id"], "output_index": self._response.order.index(output)}

    def _event(self, kind: str, **fields: Any) -> bytes:
        if self._number:
            return self._numbered(kind, **fields)
        begun = self._response.begun()
        before = self._numbered("response.created", response=begun)
        before += self._numbered("response.in_progress", response=begun)
        return before + self._numbered(kind, **fields)

    def _numbered(self, kind: str, **fields: Any) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


def text_part(text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _about(exchange: Exchange, body: ResponseRequest) -> dict[str, Any]:
    """What stays the same from the first event to the last: the request said back, and what was not asked for."""
    sent = body.model_dump(by_alias=True, exclude_none=True, exclude={"input", "model", "stream", "stream_options"})
    prompt = exchange.target.prompt
    if "prompt" in sent and prompt is not None:
        sent["prompt"] |= {"id": prompt.name, "version": str(prompt.version)}
    text = {"format": {"type": "text"}, **sent.get("text", {})}
    return {
        **_ABSENT,
        **sent,
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "model": exchange.target.ref,
        "text": text,
    }


_ABSENT: Mapping[str, Any] = {
    "error": None, "incomplete_details": None, "instructions": None, "max_output_tokens": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "prompt": None, "reasoning": None, "store": False,
    "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None, "truncation": "disabled", "user": None,
    "background": False, "top_logprobs": 0,
}  # fmt: skip


def _ending(finish_reason: str | None) -> dict[str, Any]:
    if finish_reason == "length":
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    if finish_reason == "content_filter":
        return {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    return {"status": "completed"}


def _usage(usage: Usage) -> dict[str, Any] | None:
    """The counts by this route's names; what else a server counted keeps its own. None where nobody counted."""
    said = dict(usage.reported or {})
    if not said and usage.tokens_in is None and usage.tokens_out is None:
        return None
    read, made = said.pop("prompt_tokens_details", None), said.pop("completion_tokens_details", None)
    rest = {name: value for name, value in said.items() if name not in _COUNTS}
    return {
        "input_tokens": usage.tokens_in,
        "input_tokens_details": {"cached_tokens": None, **(read or {})},
        "output_tokens": usage.tokens_out,
        "output_tokens_details": {"reasoning_tokens": None, **(made or {})},
        "total_tokens": said.get("total_tokens", usage.total),
        **rest,
    }


_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
