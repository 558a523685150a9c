"""One chat request that reached a model: what came in, what has come out so far, and the log record of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llmops.engines.protocol import Chunk, GenerationParameters, GenerationRequest, Message, Usage
from llmops.errors import UsageError
from llmops.production_log import LogRecord
from service.error_map import ApiError
from service.schemas import ChatRequest
from service.snapshot import Target


class Exchange:
    """Collects an answer as it is made.

    request_id: the reply's x-request-id. at, start: arrival by the clock and by `time.perf_counter`. target: what
    serves the request; it is never looked up again.
    """

    def __init__(self, request_id: str, at: datetime, start: float, body: ChatRequest, target: Target) -> None:
        self.request_id, self.body, self.target = request_id, body, target
        self._at, self._start = at, start
        self._conversation = body.conversation
        self._parameters: GenerationParameters | None = None
        self._pieces: list[str] = []
        self._first_token_ms: float | None = None
        self.finish_reason: str | None = None
        self.usage = Usage(0, 0)

    def prepare(self) -> GenerationRequest:
        """The request as the engine takes it. Raises ApiError 400 naming the field at fault."""
        self._parameters = _parameters(self.body, self.target)
        return GenerationRequest(_messages(self.body, self.target, self._conversation), self._parameters)

    def take(self, chunk: Chunk) -> None:
        """Adds a piece of the answer."""
        if self._first_token_ms is None and chunk.text:
            self._first_token_ms = self._elapsed_ms()
        self._pieces.append(chunk.text)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.usage = chunk.usage or self.usage

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def record(self, status: int, outcome: str, error: str | None = None) -> LogRecord:
        """The log record as of now.

        status: what the client was, or would have been, told: an error in the middle of a stream comes after a 200
        was sent, and a client that has gone (499) reads nothing.
        """
        release = self.target.release
        return LogRecord(
            request_id=self.request_id,
            at=self._at,
            status=status,
            outcome=outcome,
            input=_storable(next((m["content"] for m in reversed(self._conversation) if m["role"] == "user"), "")),
            output=_storable(self.text),
            release=release.ref if release is not None else None,
            prompt=release.prompt.ref if release is not None else None,
            model=self.target.model.ref,
            tokens_in=self.usage.tokens_in,
            tokens_out=self.usage.tokens_out,
            latency_ms=self._elapsed_ms(),
            first_token_ms=self._first_token_ms,
            details=self._details(error),
        )

    def _details(self, error: str | None) -> Mapping[str, Any]:
        optional = {
            "error": error,
            "user": self.body.user,
            "metadata": self.body.metadata,
            "prompt_variables": self.body.prompt_variables,
        }
        return {
            "route": "chat",
            "stream": bool(self.body.stream),
            "messages": [dict(message) for message in self._conversation],
            "parameters": self._parameters.to_mapping() if self._parameters is not None else None,
            "finish_reason": self.finish_reason,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._start) * 1000


def _parameters(body: ChatRequest, target: Target) -> GenerationParameters:
    both = (body.max_tokens, body.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise ApiError(400, "max_tokens: differs from max_completion_tokens; send one of them", param="max_tokens")
    base = target.release.parameters if target.release is not None else GenerationParameters()
    sent = body.sent_parameters
    if not sent:
        return base
    try:
        return GenerationParameters.from_mapping({**base.to_mapping(), **sent})
    except UsageError as error:
        raise ApiError(400, str(error), param=str(error).partition(":")[0]) from error


def _messages(body: ChatRequest, target: Target, conversation: tuple[Message, ...]) -> tuple[Message, ...]:
    if target.release is None:
        if body.prompt_variables:
            problem = f"prompt_variables: {target.ref} is a model version; only a release has a prompt to fill"
            raise ApiError(400, problem, param="prompt_variables")
        return conversation
    try:
        return target.release.prompt.template.render_conversation(conversation, body.prompt_variables)
    except UsageError as error:
        name = str(error).partition(":")[0]
        param = name if name == "messages" else f"prompt_variables.{name}"
        raise ApiError(400, str(error), param=param) from error


def _storable(text: str) -> str:
    # PostgreSQL's text type holds every character but this one.
    return text.replace("\x00", "\ufffd")
