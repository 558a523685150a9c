"""OpenAI's chat format, as servers that speak it and llama.cpp itself take and give it: the request, and the answer
as chunks, streamed or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from llmops.engines.protocol import UNKNOWN_USAGE, Chunk, GenerationRequest, Usage
from llmops.errors import EngineError, EngineUnavailable

_EVENT, _REPLY = "an event", "a reply"


def chat_body(request: GenerationRequest, *, stream: bool = True) -> dict[str, Any]:
    """The body of a chat request; what is not set is left out. A streamed one asks for token counts at its end."""
    parameters = request.parameters
    body: dict[str, Any] = {
        "messages": [dict(message) for message in request.messages],
        "max_tokens": parameters.max_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
    }
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if parameters.seed is not None:
        body["seed"] = parameters.seed
    if parameters.response_format is not None:
        body["response_format"] = dict(parameters.response_format)
    if request.extras:
        body.update(request.extras)
    return body


class AnswerReader:
    """Makes chunks of a streamed answer's events, one after another.

    The last chunk alone has usage, which comes after everything else: so a finish is kept back until something follows.
    """

    def __init__(self) -> None:
        self._usage = UNKNOWN_USAGE
        self._seen: set[int] = set()
        self._finished: dict[int, str] = {}
        self._kept: int | None = None

    def take(self, event: object) -> Sequence[Chunk]:
        """The chunks of one parsed event. Raises EngineError: it reports a failure, or is not of OpenAI's shape."""
        if type(event) is not dict:
            raise EngineError("the upstream sent an event that is not an object")
        if event.get("error") is not None:
            raise EngineError(f"the upstream failed: {error_message(event)}")
        chunks: list[Chunk] = []
        if choices := event.get("choices"):
            for choice in _objects(choices, _EVENT):
                self._take_choice(choice, chunks)
        if usage := event.get("usage"):
            self._usage = _usage(usage, _EVENT)
        return chunks

    def end(self) -> Chunk:
        """The last chunk. Raises EngineUnavailable: the events ended before every answer did."""
        if not self._finished or len(self._seen) > len(self._finished):
            raise EngineUnavailable("the stream ended before the answer did")
        index = self._kept if self._kept is not None else max(self._finished)
        return Chunk("", self._finished[index], self._usage, index)

    def _take_choice(self, choice: Mapping[str, Any], chunks: list[Chunk]) -> None:
        index = _index(choice)
        self._seen.add(index)
        text, calls, logprobs = _parts(choice, "delta", _EVENT)
        if text or calls or logprobs:
            self._release(chunks)
            chunks.append(Chunk(text, None, None, index, calls, logprobs))
        if (reason := choice.get("finish_reason")) is not None:
            if not isinstance(reason, str):
                _misshapen(_EVENT)
            if self._kept != index:
                self._release(chunks)
            self._kept, self._finished[index] = index, reason

    def _release(self, chunks: list[Chunk]) -> None:
        if self._kept is not None:
            chunks.append(Chunk("", self._finished[self._kept], None, self._kept))
            self._kept = None


def whole_answer(reply: object) -> list[Chunk]:
    """The chunks of a reply that was not streamed: one for each answer, the last one with usage.

    Raises:
        EngineError: it reports a failure, or is not of OpenAI's shape. EngineUnavailable: an answer has no end.
    """
    if type(reply) is not dict:
        raise EngineError("the upstream sent a reply that is not an object")
    if reply.get("error") is not None:
        raise EngineError(f"the upstream failed: {error_message(reply)}")
    choices = _objects(reply.get("choices"), _REPLY)
    usage = _usage(reply.get("usage"), _REPLY)
    if not choices:
        _misshapen(_REPLY)
    chunks: list[Chunk] = []
    for choice in choices:
        text, calls, logprobs = _parts(choice, "message", _REPLY)
        reason = choice.get("finish_reason")
        if not isinstance(reason, str):
            raise EngineUnavailable("the reply ended before the answer did")
        # Whole tool calls come in order; as pieces of a stream each would name its place.
        placed = [{"index": place, **call} for place, call in enumerate(calls)] if calls else ()
        last = len(chunks) == len(choices) - 1
        chunks.append(Chunk(text, reason, usage if last else None, _index(choice), placed, logprobs))
    return chunks


def error_message(body: object) -> str:
    """What an error object of OpenAI's shape, or of another server's, says; short enough for a line."""
    if not isinstance(body, dict):
        return "no message"
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or body.get("message") or body.get("detail") or "no message")[:300]


def _parts(
    choice: Mapping[str, Any], place: str, what: str
) -> tuple[str, Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """Text, tool calls and logprobs of a choice; place: the field that holds the first two."""
    content = choice.get(place) or {}
    if type(content) is not dict:
        _misshapen(what)
    text = content.get("content") or ""
    if not isinstance(text, str):
        _misshapen(what)
    calls, logprobs = content.get("tool_calls"), choice.get("logprobs")
    if not calls and not logprobs:
        return text, (), ()
    if not isinstance(logprobs or {}, dict):
        _misshapen(what)
    entries = (logprobs or {}).get("content")
    return text, _objects(calls, what) if calls else (), _objects(entries, what) if entries else ()


def _objects(value: object, what: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        _misshapen(what)
    return value


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index") or 0
    if type(index) is not int:
        _misshapen(_EVENT)
    return index


def _usage(usage: object, what: str) -> Usage:
    """What an answer took; None, and what it does not name, is unknown."""
    if usage is None:
        return UNKNOWN_USAGE
    if type(usage) is not dict:
        _misshapen(what)
    return Usage(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), usage)


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    count = usage.get(name)
    if count is not None and (type(count) is not int or count < 0):
        raise EngineError(f"the upstream sent usage.{name} = {str(count)[:40]}, which is no number of tokens")
    return count


def _misshapen(what: str) -> NoReturn:
    raise EngineError(f"the upstream sent {what} that is not of OpenAI's shape")
