"""OpenAI's two completion routes on the core that all routes share (`service.answering`).

`POST /v1/chat/completions` is the format into which all others are converted. `POST /v1/completions` is the older one:
a text in, one or several texts out. The models here are chat models: with a release the prompt fills the template's
input variable; with a bare model version it is one message of the user, in the model's own chat template.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Send

from llmops.engines.answer import Answer
from llmops.generation import NO_FIELDS, Chunk, ExtraFields, Message
from service.answering import Answering
from service.exchange import AnswerRequest, Exchange
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.replies import EventStream, WholeReply, envelope, event, usage_counts
from service.routes.chat_body import ChatRequest, ToolCall, logprobs_asked
from service.schemas import CompletionBody, Text, UsageCounts, only, replies

_REST_OF_A_PIECE = b'"logprobs":null,"finish_reason":null}]}\n\n'
_NOTHING = ExtraFields()


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
        self._envelope = _stream_envelope(exchange, "chatcmpl", "chat.completion.chunk")
        self._unopened = set(range(exchange.request.extras.get("n", 1)))
        self._endings: dict[int, ExtraFields] = {}
        # What stands before the choices is the same in most events, so it is written once.
        self._fields: Mapping[str, Any] = NO_FIELDS
        self._head = self._written_head()

    def events(self, chunk: Chunk) -> bytes:
        extra_fields = chunk.extra_fields
        if extra_fields is None and chunk.text and not chunk.tool_calls and not chunk.logprobs:
            # Most events of most streams: no call more than needed.
            opening = self._opened(chunk) if chunk.index in self._unopened else b""
            head = self._head_with(NO_FIELDS) if self._fields else self._head
            piece = (chunk.index, orjson.dumps(chunk.text), _REST_OF_A_PIECE)
            return opening + head + b'{"index":%d,"delta":{"content":%b},%b' % piece
        extra_fields = extra_fields or _NOTHING
        delta = dict(extra_fields.delta)
        if chunk.text and "content" not in delta:
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = chunk.tool_calls
        if chunk.finish_reason is not None:
            # Ends come when the record is in the log, so one without content waits until then with all it has.
            waits = not (chunk.text or chunk.tool_calls or chunk.logprobs or chunk.has_side_content)
            self._endings[chunk.index] = (
                extra_fields if waits else ExtraFields(NO_FIELDS, extra_fields.choice, extra_fields.reply)
            )
            if waits:
                if delta.get("role"):
                    self._unopened.discard(chunk.index)
                return b""
            extra_fields = ExtraFields(extra_fields.delta, NO_FIELDS, extra_fields.reply)
        if not delta and not chunk.logprobs and not extra_fields.choice:
            return b""
        told = self._chunk(chunk.index, delta, extra_fields, logprobs=_logprobs(chunk.logprobs, extra_fields.choice))
        return self._opened(chunk) + told

    def closing(self) -> bytes:
        exchange = self._exchange
        events = [self._opening(index) for index in sorted(self._unopened & self._endings.keys())]
        events += [self._end(answer) for answer in exchange.answers]
        return b"".join([*events, _stream_end(exchange, {**self._envelope, **self._fields})])

    def _end(self, answer: Answer) -> bytes:
        extra_fields = self._endings.get(answer.index, _NOTHING)
        if answer.finish_reason is None and not (extra_fields.delta or extra_fields.choice or extra_fields.reply):
            return b""
        return self._chunk(answer.index, dict(extra_fields.delta), extra_fields, answer.finish_reason)

    def _opened(self, chunk: Chunk) -> bytes:
        """The role before an answer's first piece, where the server gave none. Answers that never come have none."""
        if chunk.index not in self._unopened:
            return b""
        self._unopened.discard(chunk.index)
        has_role = chunk.extra_fields is not None and chunk.extra_fields.delta.get("role")
        return b"" if has_role else self._opening(chunk.index)

    def _opening(self, index: int) -> bytes:
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        extra_fields: ExtraFields | None = None,
        finish_reason: str | None = None,
        logprobs: Any = None,
    ) -> bytes:
        extra_fields = extra_fields or _NOTHING
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        choice |= {name: value for name, value in extra_fields.choice.items() if name != "logprobs"}
        return self._head_with(extra_fields.reply) + orjson.dumps(choice) + b"]}\n\n"

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
    choice = {"index": answer.index, "message": message, "finish_reason": answer.finish_reason, **answer.choice}
    choice["logprobs"] = _logprobs(answer.logprobs, answer.choice)
    return choice


def _logprobs(entries: Any, choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """OpenAI's object of an answer's tokens, and what else a server says in it."""
    others = choice.get("logprobs") or NO_FIELDS
    return {"content": entries or None, "refusal": None, **others} if entries or others else None


def _stream_envelope(exchange: Exchange, prefix: str, kind: str) -> dict[str, Any]:
    """As `envelope`, for every event of a stream; where it ends with token counts, those before have none."""
    return {**envelope(exchange, prefix, kind), **({"usage": None} if exchange.request.include_usage else {})}


def _stream_end(exchange: Exchange, fields: Mapping[str, Any]) -> bytes:
    """The token counts where they were asked for, in an event with these fields, and the end."""
    counts = b""
    if exchange.request.include_usage and (usage := usage_counts(exchange)) is not None:
        counts = event({**fields, "choices": [], "usage": usage})
    return counts + b"data: [DONE]\n\n"


FIELD_NAMES: Mapping[str, str] = {"messages": "prompt", "top_logprobs": "logprobs"}
"""What a field of the chat request is called here, for errors that name it."""

_OneText = Annotated[list[Text], Field(min_length=1, max_length=1)]


class CompletionRequest(CompletionBody):
    """The body of `POST /v1/completions`.

    prompt: a text, or a list of one. logprobs: how many of the likeliest tokens to name at each place, besides the
    chosen one. Where max_tokens is left out it is the release's; OpenAI's servers take it as 16.
    """

    model: Annotated[Text, Field(min_length=1, max_length=255)]
    prompt: Annotated[Text | _OneText, only("must be a text, or a list of one text; token numbers are not supported")]
    stop: Annotated[
        Annotated[Text, Field(min_length=1)]
        | Annotated[list[Annotated[Text, Field(min_length=1)]], Field(max_length=4)]
        | None,
        only("must be a string or at most 4 strings, none empty"),
    ] = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[Literal[1] | None, only("not supported; leave it out or send 1")] = None
    echo: Annotated[Literal[False] | None, only("not supported; leave it out or send false")] = None
    suffix: Annotated[Literal[""] | None, only("not supported: these models answer, they do not fill gaps")] = None

    def to_answer_request(self) -> AnswerRequest:
        """What it asks, in the terms that all routes share."""
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        # The older `logprobs` is a number, the newer one a switch with a number beside it.
        logprobs = logprobs_asked(self.logprobs is not None, self.logprobs)
        return AnswerRequest(
            route="completions",
            model=self.model,
            messages=(Message(role="user", content=text),),
            sent=self.given("temperature", "top_p", "max_tokens", "stop", "seed"),
            extras=self.changed_odds | logprobs | self.given("user", "metadata"),
            prompt_variables=self.prompt_variables,
            stream=bool(self.stream),
            include_usage=self.include_usage,
            user=self.user,
            metadata=self.metadata,
        )


class CompletionChoice(BaseModel):
    """One of the texts."""

    index: int
    text: str
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None


class Completion(BaseModel):
    """The reply to a request that is not streamed. It documents the shape."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageCounts | None


def completions_router(gateway: Gateway) -> APIRouter:
    """The completions route of one gateway."""
    router = APIRouter(tags=["completions"], route_class=JsonRoute)

    @router.post("/v1/completions", response_class=Response, responses=replies(Completion, streams=True))
    def create_completion(body: CompletionRequest) -> Answering:
        """Answers one text with a release, or with a bare model version; streamed if `stream` is true.

        These are chat models: the text fills the release's prompt, or is one message of the user. It is not continued.
        """
        reply = CompletionStream if body.stream else WholeCompletion
        return Answering(gateway, body.to_answer_request(), reply, FIELD_NAMES)

    return router


class WholeCompletion(WholeReply):
    """All texts in one object."""

    def body(self) -> dict[str, Any]:
        choices = [
            {
                **_said_beside(each.fields),
                **each.choice,
                **_choice(each.index, each.text, each.logprobs, each.finish_reason),
            }
            for each in self._exchange.answers
        ]
        common = envelope(self._exchange, "cmpl", "text_completion")
        return {**common, **self._exchange.fields, "choices": choices, "usage": usage_counts(self._exchange)}


class CompletionStream(EventStream):
    """Each piece in an object of the same kind as the whole."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        super().__init__(exchange, send)
        self._envelope = _stream_envelope(exchange, "cmpl", "text_completion")
        self._sent_characters: dict[int, int] = {}

    def events(self, chunk: Chunk) -> bytes:
        if not chunk.text and not chunk.logprobs and not chunk.has_side_content:
            return b""
        offset = self._sent_characters.get(chunk.index, 0)
        self._sent_characters[chunk.index] = offset + len(chunk.text)
        beside = {} if chunk.extra_fields is None else _said_beside(chunk.extra_fields.delta)
        return self._event({**beside, **_choice(chunk.index, chunk.text, chunk.logprobs, None, offset)})

    def closing(self) -> bytes:
        self._envelope.update(self._exchange.fields)
        events = [
            self._event({**each.choice, **_choice(each.index, "", (), each.finish_reason)})
            for each in self._exchange.answers
        ]
        return b"".join([*events, _stream_end(self._exchange, self._envelope)])

    def _event(self, choice: Mapping[str, Any]) -> bytes:
        return event({**self._envelope, "choices": [choice]})


def _choice(
    index: int, text: str, logprobs: Sequence[Mapping[str, Any]], finish_reason: str | None, offset: int = 0
) -> dict[str, Any]:
    """offset: characters of the answer before these tokens."""
    told = None
    if logprobs:  # parallel lists, as this route has always told them
        offsets = [offset]
        for entry in logprobs[:-1]:
            offsets.append(offsets[-1] + len(entry.get("token") or ""))
        tops = [{top.get("token"): top.get("logprob") for top in entry.get("top_logprobs") or ()} for entry in logprobs]
        told = {
            "tokens": [entry.get("token") for entry in logprobs],
            "token_logprobs": [entry.get("logprob") for entry in logprobs],
            "top_logprobs": tops,
            "text_offset": offsets,
        }
    return {"index": index, "text": text, "logprobs": told, "finish_reason": finish_reason}


def _said_beside(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat message holds besides its text: this shape has no place for it but beside the text."""
    return {name: value for name, value in message.items() if value is not None and name not in ("role", "content")}
