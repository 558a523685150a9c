"""`POST /v1/chat/completions`: OpenAI's chat format on the core that all routes share (`service.answering`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from starlette.types import Send

from llmops.engines.answer import Answer
from llmops.generation import NO_FIELDS, Chunk, Further
from service.answering import Answering
from service.exchange import AnswerRequest, Exchange
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.replies import EventStream, WholeReply, envelope, event, usage_counts
from service.routes.chat_body import ChatRequest, ToolCall
from service.schemas import UsageCounts, replies

_REST_OF_A_PIECE = b'"logprobs":null,"finish_reason":null}]}\n\n'
_NOTHING = Further()


class AssistantMessage(BaseModel):
    """The answer. content: null where the model only asks for tools, or refuses. What an upstream says beyond these
    (`reasoning_content`, `annotations` …) comes with it."""

    model_config = ConfigDict(extra="allow")

    role: Literal["assistant"] = "assistant"
    content: str | list[dict[str, Any]] | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class TokenLogprobs(BaseModel):
    """How likely the answer's tokens were; entries as OpenAI has them."""

    content: list[dict[str, Any]] | None
    refusal: list[dict[str, Any]] | None = None


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: TokenLogprobs | None = None
    finish_reason: str | None


class ChatCompletion(BaseModel):
    """The reply to a chat request that is not streamed. It documents the shape; `replies` writes the bytes."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageCounts | None


def chat_router(gateway: Gateway) -> APIRouter:
    """The chat route of one gateway."""
    router = APIRouter(tags=["chat"], route_class=JsonRoute)

    @router.post("/v1/chat/completions", response_class=Response, responses=replies(ChatCompletion, streams=True))
    def chat_completions(body: ChatRequest) -> Answering:
        """Answers a conversation with a release, or with a bare model version; streamed if `stream` is true."""
        request = AnswerRequest(
            route="chat",
            model=body.model,
            messages=body.conversation,
            sent=body.sent_parameters,
            extras=body.extras,
            prompt_variables=body.prompt_variables,
            stream=bool(body.stream),
            include_usage=body.include_usage,
            user=body.user or body.safety_identifier,
            metadata=body.metadata,
        )
        return Answering(gateway, request, ChatStream if body.stream else ChatReply)

    return router


class ChatReply(WholeReply):
    """All answers in one object."""

    def body(self) -> dict[str, Any]:
        common = envelope(self._exchange, "chatcmpl", "chat.completion")
        choices = [_whole_choice(answer) for answer in self._exchange.answers]
        return {**common, **self._exchange.fields, "choices": choices, "usage": usage_counts(self._exchange)}


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
            # Most events of most streams: no call more than needed.
            opening = self._opened(chunk) if chunk.index in self._unopened else b""
            head = self._head_with(NO_FIELDS) if self._fields else self._head
            piece = (chunk.index, orjson.dumps(chunk.text), _REST_OF_A_PIECE)
            return opening + head + b'{"index":%d,"delta":{"content":%b},%b' % piece
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
