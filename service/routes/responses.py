"""`POST /v1/responses`: OpenAI's newer shape. Nothing is kept between requests, so earlier turns come in `input`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.generation import Message
from llmops.keys import Key
from llmops.versions import PromptVersion
from service.access import ANONYMOUS
from service.answering import Answering
from service.error_map import ApiError
from service.exchange import AnswerRequest
from service.gateway import Gateway
from service.json_route import JsonRoute
from service.routes.response_body import PromptChoice, ResponseRequest
from service.routes.response_events import ResponseStream, WholeResponse
from service.schemas import replies
from service.snapshot import Snapshot, Target

CHAT_NAMES: Mapping[str, str] = {
    "messages": "input",
    "prompt_variables": "prompt.variables",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "logprobs": "include",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
"""What a field of the chat request is called here, for errors that name it."""


class ResponseReply(BaseModel):
    """The reply to a request that is not streamed: what every one has, and the rest of OpenAI's fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


def responses_router(gateway: Gateway) -> APIRouter:
    """The responses route of one gateway."""
    router = APIRouter(tags=["responses"], route_class=JsonRoute)

    @router.post("/v1/responses", response_class=Response, responses=replies(ResponseReply, streams=True))
    def create_response(body: ResponseRequest) -> ASGIApp:
        """Answers `input` with a release, a registered prompt or a bare model version; streamed if `stream` is true."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            # Chosen when it runs, so that a registry that was not read yet is an error of this request.
            request = answer_request(gateway.keeper.snapshot, body, scope["state"].get("caller", ANONYMOUS))
            reply = partial(ResponseStream if body.stream else WholeResponse, body=body)
            await Answering(gateway, request, reply, CHAT_NAMES)(scope, receive, send)

        return answer

    return router


def answer_request(snapshot: Snapshot, body: ResponseRequest, caller: Key = ANONYMOUS) -> AnswerRequest:
    """What the body asks, in the terms that all routes share. Raises ApiError 400 and 404.

    caller: prompts of apps that are closed to it are unknown to it.
    """
    target, messages, variables = None, body.turns, None
    model = body.model
    if body.prompt is not None:
        model = model or _app_of_prompt(snapshot, body.prompt, caller)
        target, prompt = _chosen(snapshot, model, body.prompt, caller)
        variables = body.prompt.texts
        if body.input is None:
            text = variables.pop(prompt.template.input_variable, None)
            if text is None:
                missing = f"input: needed, or prompt.variables.{prompt.template.input_variable}"
                raise ApiError(400, missing, param="input")
            messages = (*messages, Message(role="user", content=text))
    elif model is None:
        raise ApiError(400, "model: needed, unless prompt names one", param="model")
    elif body.input is None:
        raise ApiError(400, "input: needed, or prompt", param="input")
    return AnswerRequest(
        route="responses",
        model=model,
        messages=messages,
        sent=body.sent_parameters,
        extras=body.extras,
        prompt_variables=variables or None,
        stream=bool(body.stream),
        user=body.user or body.safety_identifier,
        metadata=body.metadata,
        target=target,
    )


def _chosen(snapshot: Snapshot, model: str, choice: PromptChoice, caller: Key) -> tuple[Target | None, PromptVersion]:
    """What serves the request, and a prompt version that it may be. The target is None when routing shall choose.

    - Without a version, an app whose releases use that prompt serves its own version: the one that was evaluated.
    - A version that the named release uses is that release.
    - Any other pair of prompt and model is served without a release, with the prompt's own parameters.
    """
    named, split = snapshot.resolve(model), snapshot.splits.get(model)
    own, other = named.prompt, split.challenger.prompt if split is not None else named.prompt
    if choice.version is None and own is not None and other is not None and own.name == other.name == choice.id:
        return None, own
    prompt = _registered(snapshot, choice, caller)
    if own is not None and own.ref == prompt.ref:
        return named, prompt
    return Target(named.model, bare_prompt=prompt), prompt


def _registered(snapshot: Snapshot, choice: PromptChoice, caller: Key) -> PromptVersion:
    """The prompt version chosen; without a number the newest. Known are those that some release uses."""
    versions = {prompt.version: prompt for prompt in _prompts(snapshot, caller) if prompt.name == choice.id}
    if not versions:
        names = sorted({prompt.name for prompt in _prompts(snapshot, caller)})
        raise _unknown_prompt("id", f"prompt {choice.id[:100]!r} is used by no release", names)
    if choice.version is None:
        return versions[max(versions)]
    text = str(choice.version)
    number = int(text) if text.isdecimal() and text.isascii() else 0
    if number not in versions:
        refs = [versions[known].ref for known in sorted(versions)]
        raise _unknown_prompt("version", f"no release uses version {text!r} of prompt {choice.id!r}", refs)
    return versions[number]


def _app_of_prompt(snapshot: Snapshot, choice: PromptChoice, caller: Key) -> str:
    """The one app open to the caller whose champion uses the prompt."""
    apps = [
        app
        for app in snapshot.champions
        if caller.may_use(app) and (prompt := snapshot.targets[app].prompt) is not None and prompt.name == choice.id
    ]
    if len(apps) != 1:
        users = f"the champions of {', '.join(apps)} use" if apps else "no champion uses"
        raise ApiError(400, f"model: needed, because {users} prompt {choice.id[:100]!r}", param="model")
    return apps[0]


def _prompts(snapshot: Snapshot, caller: Key) -> list[PromptVersion]:
    apps = snapshot.apps.items()
    return [release.prompt for app, releases in apps if caller.may_use(app) for release in releases]


def _unknown_prompt(field: str, problem: str, known: Sequence[str]) -> ApiError:
    shown = ", ".join(known[:20]) or "none"
    message = f"prompt.{field}: {problem}; known: {shown}"
    return ApiError(404, message, param=f"prompt.{field}", code="prompt_not_found")
