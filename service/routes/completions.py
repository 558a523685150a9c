"""`POST /v1/completions`, OpenAI's older shape: one text in, one or several texts out.

The models here are chat models. With a release the prompt fills the template's input variable; with a bare model
version it is one message of the user, in the model's own chat template: no route continues a raw text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Send

from llmops.generation import Chunk, Message
from service.answering import Answering
from service.exchange import AnswerRequest, Exchange
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.replies import EventStream, WholeReply, envelope, event, usage_counts
from service.schemas import CompletionBody, Text, UsageCounts, only, replies

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
        logprobs = {} if self.logprobs is None else {"logprobs": True, "top_logprobs": self.logprobs}
        extras = {name: value for name, value in logprobs.items() if value}
        return AnswerRequest(
            route="completions",
            model=self.model,
            messages=(Message(role="user", content=text),),
            sent=self.given("temperature", "top_p", "max_tokens", "stop", "seed"),
            extras=self.changed_odds | extras | self.given("user", "metadata"),
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
        self._envelope = envelope(exchange, "cmpl", "text_completion")
        if exchange.request.include_usage:
            self._envelope["usage"] = None
        self._sent_characters: dict[int, int] = {}

    def events(self, chunk: Chunk) -> bytes:
        if not chunk.text and not chunk.logprobs and not chunk.says_beside:
            return b""
        offset = self._sent_characters.get(chunk.index, 0)
        self._sent_characters[chunk.index] = offset + len(chunk.text)
        beside = {} if chunk.further is None else _said_beside(chunk.further.delta)
        return self._event({**beside, **_choice(chunk.index, chunk.text, chunk.logprobs, None, offset)})

    def closing(self) -> bytes:
        self._envelope.update(self._exchange.fields)
        events = [
            self._event({**each.choice, **_choice(each.index, "", (), each.finish_reason)})
            for each in self._exchange.answers
        ]
        if self._exchange.request.include_usage and (usage := usage_counts(self._exchange)) is not None:
            events.append(event({**self._envelope, "choices": [], "usage": usage}))
        return b"".join([*events, b"data: [DONE]\n\n"])

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
