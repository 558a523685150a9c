"""What an engine is: something that turns a request into a stream of text chunks.

Every engine implements `Engine`; callers that want a whole answer use `generate`. A request is cancelled by
closing its stream (leaving the `async for`, or cancelling the task): the engine then stops decoding.
"""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from llmops.engines.answer import Answer
from llmops.errors import EngineRejected
from llmops.generation import EXTRAS, HINTS, UNKNOWN_USAGE, Chunk, Generation, GenerationRequest, Message, Usage


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What produced an answer besides the weights; recorded on every eval run and part of the cache key.

    settings: whatever of the engine's configuration can change a greedy answer (slots, cache, dtype …).
    """

    name: str
    build: str
    settings: Mapping[str, Any]


class Engine(Protocol):
    """A loaded model that answers requests, up to `slots` of them side by side."""

    @property
    def identity(self) -> EngineIdentity: ...

    @property
    def slots(self) -> int: ...

    @property
    def supported_extras(self) -> frozenset[str]:
        """Which of `EXTRAS` it obeys; a request with another one must not be sent to it. See `adapt_request`."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Chunks of the answer as they are made; ends with one that has `finish_reason` and `usage`. Raises
        EngineError: any of its kinds, before the first chunk or in between."""
        ...

    async def close(self) -> None:
        """Frees the model. No stream may be open."""
        ...


def adapt_request(request: GenerationRequest, engine: Engine, *, of: str | None = None) -> GenerationRequest:
    """The request without the hints that the engine does not obey. of: the model it serves, for errors to name.

    Raises EngineRejected: naming an extra field which changes the answer and which the engine cannot obey, or what of
    an earlier turn it cannot read: only another server takes a turn as it is.
    """
    named = "the engine" if of is None else f"the engine of {of}"
    if not engine.supported_extras >= EXTRAS and (unread := _unread(request.messages)) is not None:
        raise EngineRejected(f"messages: {named} cannot read {unread}; leave it out", param="messages")
    foreign = request.extras.keys() - engine.supported_extras
    for name in request.extras:
        if name in foreign and name not in HINTS:
            raise EngineRejected(f"{name}: {named} cannot honour it; leave it out", param=name)
    if not foreign:
        return request
    return replace(request, extras={name: value for name, value in request.extras.items() if name not in foreign})


def refuse_response_format(engine: str, response_format: Mapping[str, Any] | None) -> None:
    """For an engine that decodes freely. Raises EngineRejected: there is a response format, which it cannot enforce."""
    if response_format is not None:
        problem = f"response_format: the {engine} engine decodes freely and cannot enforce it"
        raise EngineRejected(problem, param="response_format")


def _unread(messages: Sequence[Message]) -> str | None:
    """What of the assistant's turns no chat template renders."""
    for message in messages:
        for part in message.get("sent_content") or ():
            if part["type"] not in ("text", "refusal", "thinking"):
                return f"a part of type {part['type']!r}"
        for call in message.get("tool_calls", ()):
            if call["type"] != "function":
                return f"a tool call of type {call['type']!r}"
        if not message["content"] and (lost := message.keys() - _READ):
            return f"the {min(lost)} of a turn without text"
    return None


_READ = Message.__annotations__.keys() | {
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "annotations",
}
"""Fields of a turn that chat templates render, or that leave nothing out of it."""


@runtime_checkable
class ScoringEngine(Engine, Protocol):
    """An engine that can also say how likely given answers are."""

    async def loglikelihoods(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[float], Usage]:
        """Natural log of the probability of each continuation as the assistant's next words, summed over its tokens.
        Raises EngineError: any of its kinds; a continuation of no tokens is rejected."""
        ...


@runtime_checkable
class PrefixCachingEngine(Engine, Protocol):
    """An engine that can read once what coming requests begin with."""

    async def prime(self, messages: Sequence[Message]) -> None:
        """Reads messages whose beginning the next requests share. Raises EngineError."""
        ...


@runtime_checkable
class RelayingEngine(Engine, Protocol):
    """An engine that asks other servers and knows how they are."""

    def problems(self) -> list[str]:
        """A line for each server that gets no requests now: why, and until when."""
        ...


async def generate(engine: Engine, request: GenerationRequest) -> Generation:
    """Runs one request to its end. Raises EngineError."""
    start = time.perf_counter()
    first: float | None = None
    answer, usage = Answer(), UNKNOWN_USAGE
    async with aclosing(engine.stream(request)) as chunks:
        async for chunk in chunks:
            if first is None and (chunk.text or chunk.tool_calls or chunk.has_side_content):
                first = time.perf_counter() - start
            answer.take(chunk)
            usage = chunk.usage or usage
    beside = answer.tool_calls, answer.refusal, answer.reasoning
    return Generation(answer.text, answer.finish_reason, usage, first, time.perf_counter() - start, *beside)
