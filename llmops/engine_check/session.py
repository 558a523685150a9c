"""One OpenAI-compatible server under check: what probes ask it through the `openai` engine, and what they report."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from llmops.engines.answer import Answer
from llmops.engines.openai import OpenAIEngine
from llmops.engines.openai_errors import read_key
from llmops.errors import EngineTimeout
from llmops.generation import UNKNOWN_USAGE, GenerationParameters, GenerationRequest, Message, Usage

REQUEST_SECONDS = 60.0
"""Most that one request of a probe may take."""
_LONGEST_DETAIL = 160


@dataclass(frozen=True, slots=True)
class Observation:
    """What a probe saw.

    verdict: `yes`, it was seen to work; `ignored`, the server took the request and did not do it; `refused`, by the
    server, whose message is the detail; `unknown`, what was seen decides nothing.
    """

    verdict: Literal["yes", "ignored", "refused", "unknown"]
    detail: str = ""


@dataclass(slots=True)
class ProbeReply:
    """The answers to one request, by index, as far as they have come.

    pieces: chunks that said something. first_s, seconds: from the request to the first of them, None before it came,
    and to the last. begun: set with the first.
    """

    answers: dict[int, Answer] = field(default_factory=dict)
    usage: Usage = UNKNOWN_USAGE
    pieces: int = 0
    first_s: float | None = None
    seconds: float = 0.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answer(self) -> Answer:
        return next(iter(self.answers.values()), Answer())

    @property
    def tokens(self) -> int:
        """Tokens made, as the server counts them; else pieces, which are tokens with most servers."""
        return self.pieces if self.usage.tokens_out is None else self.usage.tokens_out


class Session:
    """Asks one model of one server until the time is up.

    deadline: on the monotonic clock. requests: how many were sent. fields: names beyond OpenAI's core that replies had,
    by where they stood.
    """

    def __init__(self, base_url: str, model: str, key_variable: str | None, seconds: float) -> None:
        """Raises EngineUnavailable: the key is not set."""
        self.base_url, self.model = base_url, model
        self.engine = OpenAIEngine(base_url, model, key_variable=key_variable, timeout=2 * REQUEST_SECONDS)
        headers = {"authorization": f"Bearer {read_key(key_variable, base_url)}"} if key_variable else {}
        # No kept connections: between two requests of a probe servers close them.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(headers=headers, timeout=REQUEST_SECONDS, limits=limits)
        self.requests = 0
        self.fields: dict[str, set[str]] = {"message": set(), "choice": set(), "reply": set()}
        self.deadline = time.monotonic() + seconds

    async def ask(
        self,
        messages: str | Sequence[Message],
        *,
        max_tokens: int = 48,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: tuple[str, ...] = (),
        response_format: Mapping[str, Any] | None = None,
        whole: bool = False,
        reply: ProbeReply | None = None,
        **extras: Any,
    ) -> ProbeReply:
        """One request, streamed unless `whole`.

        messages: of the conversation, or the user's only one.
        reply: filled as the answer comes, for who may leave before its end.
        extras: further fields of OpenAI's request (`n`, `tools` …).

        Raises EngineError: as the engine does; EngineTimeout when the time for the request or for the check is up.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        parameters = GenerationParameters(max_tokens, temperature, 1.0, stop, seed, response_format)
        request = GenerationRequest(tuple(messages), parameters, extras, whole=whole)
        reply = ProbeReply() if reply is None else reply
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise EngineTimeout("the time for the check is up")
        self.requests += 1
        try:
            async with asyncio.timeout(min(REQUEST_SECONDS, left)):
                await self._take(request, reply)
        except TimeoutError as error:
            raise EngineTimeout(f"no whole answer within {min(REQUEST_SECONDS, left):.0f} s") from error
        return reply

    async def _take(self, request: GenerationRequest, reply: ProbeReply) -> None:
        start = time.perf_counter()
        async with aclosing(self.engine.stream(request)) as chunks:
            async for chunk in chunks:
                reply.seconds = time.perf_counter() - start
                reply.answers.setdefault(chunk.index, Answer(chunk.index)).take(chunk)
                reply.usage = chunk.usage or reply.usage
                if chunk.text or chunk.tool_calls or chunk.has_side_content:
                    reply.pieces += 1
                    reply.first_s = reply.first_s or reply.seconds
                    reply.begun.set()
                for names, said in zip(self.fields.values(), chunk.extra_fields or (), strict=False):
                    names |= {name for name, value in said.items() if value is not None} - {"role", "content"}

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


def shown(text: object) -> str:
    """A text of the server's or the model's, short enough for a line."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST_DETAIL else f"{line[:_LONGEST_DETAIL]}…"
