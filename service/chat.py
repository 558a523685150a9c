"""`POST /v1/chat/completions`: OpenAI's chat format on the core that all routes share (`service.answering`)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from service.answering import Answering
from service.documented_replies import replies
from service.exchange import AnswerRequest
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.replies import ChatStream, WholeReply
from service.reply_schemas import ChatCompletion
from service.schemas import ChatRequest


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
