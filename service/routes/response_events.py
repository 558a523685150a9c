"""OpenAI's response object, and the typed events that a streamed one is told in."""

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from starlette.types import Send

from llmops.engines.answer import Answer, is_cut_off, reasoning_in
from llmops.generation import Chunk, Usage
from service.error_map import ApiError
from service.exchange import COUNTS, Exchange
from service.replies import EventStream, WholeReply
from service.routes.response_body import ResponseRequest

MESSAGE, REASONING = -1, -2
"""In an order of outputs, the message and what was thought before it; tool calls are numbered from 0."""

TEXT, REFUSAL = "text", "refusal"
"""The parts that a message may have."""


class ResponseObject:
    """One response as it grows: what it says about itself, and its output so far.

    order: the outputs, as they came; of a whole answer, reasoning, then the message, then tool calls. parts: those of
    the message, likewise.
    """

    def __init__(self, exchange: Exchange, body: ResponseRequest) -> None:
        self._exchange = exchange
        self._fixed = _about(exchange, body)
        self._ids: dict[int, str] = {}
        self.order: list[int] = []
        self.parts: list[str] = []

    @property
    def answer(self) -> Answer:
        return self._exchange.answers[0]

    def begun(self) -> dict[str, Any]:
        """Before the first word."""
        return {**self._fixed, "status": "in_progress", "output": [], "usage": None}

    def ended(self) -> dict[str, Any]:
        """With the whole answer; `incomplete` where a limit cut it. What an upstream says beside it comes with it."""
        answer = self.answer
        order = self.order
        if not order:
            calls = list(range(len(answer.tool_calls)))
            message = [MESSAGE] if answer.text or answer.refusal or not calls else []
            order = [*([REASONING] if answer.reasoning else []), *message, *calls]
        output = [self.item(output) for output in order]
        ending = {"completed_at": int(time.time()), "output": output, "usage": _usage(self._exchange.usage)}
        beside = {**self._exchange.fields, **_unnamed(answer.choice, ("logprobs", "finish_reason"))}
        tier = {name: value for name, value in beside.items() if name == "service_tier"}
        return {**beside, **self._fixed, **tier, **_ending(answer.finish_reason), **ending}

    def item(self, output: int) -> dict[str, Any]:
        """One output, whole."""
        opened, answer = self.opened(output), self.answer
        if output == MESSAGE:
            status = _ending(answer.finish_reason)["status"]
            beside = _unnamed(answer.fields, _TOLD_ELSEWHERE)
            refused = [REFUSAL] if answer.refusal else []
            parts = self.parts or ([TEXT, *refused] if answer.text or not refused else refused)
            return {**beside, **opened, "status": status, "content": [self.part(kind) for kind in parts]}
        if output == REASONING:
            part = {"type": "reasoning_text", "text": answer.reasoning or ""}
            return {**opened, "status": "completed", "content": [part]}
        call = answer.tool_calls[output]
        if "function" in call:
            return {**opened, "status": "completed", "arguments": call["function"]["arguments"]}
        return {**opened, "status": "completed", "input": (call.get("custom") or {}).get("input") or ""}

    def part(self, kind: str) -> dict[str, Any]:
        """One part of the message, whole."""
        if kind == REFUSAL:
            return {"type": "refusal", "refusal": self.answer.refusal or ""}
        said = self.answer.fields.get("annotations") or ()
        annotations = [_annotation(each) for each in (said if isinstance(said, list) else [said])] if said else []
        return {**text_part(self.answer.text, self.answer.logprobs), "annotations": annotations}

    def opened(self, output: int) -> dict[str, Any]:
        """One output before its content."""
        if output == MESSAGE:
            prefix, told = "msg", {"type": "message", "role": "assistant", "content": []}
        elif output == REASONING:
            prefix, told = "rs", {"type": "reasoning", "summary": [], "content": []}
        else:
            prefix, told = "fc", _opened_call(self.answer.tool_calls[output])
        identity = self._ids.setdefault(output, f"{prefix}_{uuid.uuid4().hex}")
        return {"id": identity, "status": "in_progress", **told}


class WholeResponse(WholeReply):
    """The response in one object."""

    def __init__(self, exchange: Exchange, send: Send, body: ResponseRequest) -> None:
        super().__init__(exchange, send)
        self._response = ResponseObject(exchange, body)

    def body(self) -> dict[str, Any]:
        return self._response.ended()


class ResponseStream(EventStream):
    """The response told in OpenAI's typed events, numbered in sequence.

    Whatever comes first has the two events that begin a response before it.
    """

    def __init__(self, exchange: Exchange, send: Send, body: ResponseRequest) -> None:
        super().__init__(exchange, send)
        self._response = ResponseObject(exchange, body)
        self._number = 0

    def events(self, chunk: Chunk) -> bytes:
        """What one chunk adds; empty for one without text, reasoning, refusal and tool calls."""
        events = b""
        if chunk.extra_fields is not None:  # reasoning and refusal; other fields stand in the whole item at the end
            if thought := reasoning_in(chunk.extra_fields.delta):
                events += self._opening(REASONING)
                place = {**self._place(REASONING), "content_index": 0}
                events += self._event("response.reasoning_text.delta", **place, delta=thought)
            if refused := chunk.extra_fields.delta.get("refusal"):
                opening, place = self._part_place(REFUSAL)
                events += opening + self._event("response.refusal.delta", **place, delta=refused)
        if chunk.text:
            opening, place = self._part_place(TEXT)
            logprobs = list(chunk.logprobs)
            events += opening + self._event("response.output_text.delta", **place, delta=chunk.text, logprobs=logprobs)
        for delta in chunk.tool_calls:
            call = delta.get("index", 0)
            events += self._opening(call)
            told = delta.get("function") or {}
            if arguments := told.get("arguments") or (delta.get("custom") or {}).get("input"):
                kind = _CALL_EVENTS["function" in self._response.answer.tool_calls[call]]
                events += self._event(f"response.{kind}.delta", **self._place(call), delta=arguments)
        return events

    def closing(self) -> bytes:
        events = b"" if set(self._response.order) - {REASONING} else self._part_place(TEXT)[0]
        events += b"".join(self._closing(output) for output in self._response.order)
        ended = self._response.ended()
        return events + self._event(f"response.{ended['status']}", response=ended)

    def failing(self, problem: ApiError) -> bytes:
        """An end with an error: in OpenAI's shape for events and, under `error`, in its shape for bodies."""
        told = {"code": problem.code, "message": problem.message, "param": problem.param}
        return self._event("error", **told, error={**told, "type": problem.kind})

    def _opening(self, output: int) -> bytes:
        """What comes before the first piece of an output; nothing before later ones."""
        if output in self._response.order:
            return b""
        self._response.order.append(output)
        place = self._place(output)
        item = self._response.opened(output)
        return self._event("response.output_item.added", output_index=place["output_index"], item=item)

    def _part_place(self, kind: str) -> tuple[bytes, dict[str, Any]]:
        """What comes before a piece of that part of the message, and where it belongs."""
        opening = self._opening(MESSAGE)
        parts, place = self._response.parts, self._place(MESSAGE)
        new = kind not in parts
        if new:
            parts.append(kind)
        fields = {**place, "content_index": parts.index(kind)}
        if new:
            part = text_part("", ()) if kind == TEXT else {"type": "refusal", "refusal": ""}
            opening += self._event("response.content_part.added", **fields, part=part)
        return opening, fields

    def _closing(self, output: int) -> bytes:
        item, place = self._response.item(output), self._place(output)
        done = b""
        for number, part in enumerate(item["content"] if output in (MESSAGE, REASONING) else ()):
            fields, kind = {**place, "content_index": number}, part["type"]
            told = {name: part[name] for name in ("text", "refusal", "logprobs") if name in part}
            done += self._event(f"response.{kind}.done", **fields, **told)
            if kind != "reasoning_text":
                done += self._event("response.content_part.done", **fields, part=part)
        if output not in (MESSAGE, REASONING):
            kind = _CALL_EVENTS[item["type"] == "function_call"]
            call = {name: item[name] for name in ("name", "arguments", "input") if name in item}
            done = self._event(f"response.{kind}.done", **place, **call)
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


def _opened_call(call: Mapping[str, Any]) -> dict[str, Any]:
    named = call.get("function") or call.get("custom") or {}
    nothing = {"arguments": ""} if "function" in call else {"input": ""}
    kind = "function_call" if "function" in call else "custom_tool_call"
    beside = {name: value for name, value in call.items() if name not in ("id", "type", "function", "custom")}
    return {**beside, "type": kind, "call_id": call["id"], "name": named.get("name"), **nothing}


def _annotation(annotation: Any) -> Any:
    """A citation of a chat message, whose details stand in an object named like its type; here they stand in it."""
    if not isinstance(annotation, Mapping):
        return annotation
    kind = annotation.get("type")
    inner = annotation.get(str(kind))
    return {"type": kind, **inner} if isinstance(inner, Mapping) else annotation


def _unnamed(fields: Mapping[str, Any], named: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in named and value is not None}


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


_TOLD_ELSEWHERE = frozenset(
    {"role", "refusal", "annotations", "reasoning", "reasoning_content", "thinking", "reasoning_details"}
)
"""Fields of a chat message that this route tells of in another way."""

_CALL_EVENTS = {True: "function_call_arguments", False: "custom_tool_call_input"}

_ABSENT: Mapping[str, Any] = {
    "error": None, "incomplete_details": None, "instructions": None, "max_output_tokens": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "prompt": None, "reasoning": None, "store": False,
    "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None, "truncation": "disabled", "user": None,
    "background": False, "top_logprobs": 0,
}  # fmt: skip


def _ending(finish_reason: str | None) -> dict[str, Any]:
    if is_cut_off(finish_reason):
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
    rest = {name: value for name, value in said.items() if name not in COUNTS}
    return {
        "input_tokens": usage.tokens_in,
        "input_tokens_details": {"cached_tokens": None, **(read or {})},
        "output_tokens": usage.tokens_out,
        "output_tokens_details": {"reasoning_tokens": None, **(made or {})},
        "total_tokens": said.get("total_tokens", usage.total),
        **rest,
    }
