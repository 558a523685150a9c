"""`POST /v1/chat/completions`: OpenAI's chat format on the core that all routes share (`service.answering`)."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from service.answering import Answering
from service.exchange import AnswerRequest
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.replies import ChatStream, WholeReply
from service.routes.chat_body import ChatRequest, ToolCall
from service.schemas import UsageCounts, replies


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
        return Answering(gateway, _asked(body), ChatStream if body.stream else WholeReply)

    return router


def _asked(body: ChatRequest) -> AnswerRequest:
    options = body.stream_options
    return AnswerRequest(
        route="chat",
        model=body.model,
        messages=body.conversation,
        sent=body.sent_parameters,
        extras=body.extras,
        prompt_variables=body.prompt_variables,
        stream=bool(body.stream),
        include_usage=options is not None and options.include_usage,
        user=body.user or body.safety_identifier,
        metadata=body.metadata,
    )
