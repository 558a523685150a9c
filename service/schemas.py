"""Kinds of fields, and how much of a thing one request may hold: text, fields that are taken only with a value which
changes nothing, and free JSON of a bounded depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.engines.answer import MOST_TOOL_CALLS
from llmops.json_schema import MOST_NESTED, is_shallow
from service.error_map import ApiError

MOST_MESSAGES = 256

MOST_ANSWERS = 16
"""The largest `n`."""

MOST_TOOLS = MOST_TOOL_CALLS
"""Tools that a request may offer, and calls that a turn sent back may hold."""


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that can be sent, stored and read back: JSON's escapes can spell what UTF-8 cannot."""


class StrictBody(BaseModel):
    """A part of a request in which nothing unknown, and nothing of another type, is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def only(allowed: str) -> WrapValidator:
    """For `Annotated[T | None, only("…")]`: whatever is not a T is refused with that text."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(allowed) from None

    return WrapValidator(check)


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if not is_shallow(value):
        raise ValueError(f"is nested more than {MOST_NESTED} levels deep")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_shallow)]
"""Any JSON object, such as a schema, up to a depth."""


KIND_TAGS = frozenset(
    {"<text>", "<list>", "<object>", "<message>", "<function_call>", "<function_call_output>",
     "<custom_tool_call>", "<text_part>", "<refusal>", "<reasoning>", "<other_part>"}
)  # fmt: skip
"""What other routes' bodies tag the kinds of a value with, in the places that pydantic reports."""

_SEVERAL_KINDS = ("content", "tool_choice", "stop")


def field_fault(field: str, problem: str) -> PydanticCustomError:
    """An error of one field found when all were read; `first_problem` puts the field into its path."""
    return PydanticCustomError("field_fault", "{problem}", {"field": field, "problem": problem})


def first_problem(errors: Sequence[Mapping[str, Any]], *, within: int = 1) -> tuple[str | None, str]:
    """The field at fault and what is wrong with it, from pydantic's list of errors.

    within: how many steps of each error's place lead to the body itself: FastAPI puts `body` before all of them.
    """
    # An unknown field explains the errors it causes elsewhere (an image part has no text), so it comes first.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    if error["type"] == "json_invalid":
        return None, f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    path = _without_tags(error["loc"][within:])
    if error["type"] == "field_fault":
        path = [*path, error["ctx"]["field"]]
    if not path and error["type"] in ("model_type", "model_attributes_type", "missing"):
        return None, "the body must be a JSON object, sent with content-type: application/json"
    if not path:  # the body as a whole, such as one of several fields that is missing
        return None, str(error["msg"]).removeprefix("Value error, ")
    param = field_path(path)
    problem = "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")
    return param, f"{param}: {problem}"


def _without_tags(loc: Sequence[str | int]) -> list[str | int]:
    """Drops what pydantic puts after fields of several kinds: which of them the value was read as."""
    kept = [part for before, part in zip((None, *loc), loc, strict=False) if before not in _SEVERAL_KINDS]
    return [part for part in kept if part not in KIND_TAGS and part != "[key]"]


def field_path(parts: Sequence[str | int]) -> str:
    """`messages[0].content`, as OpenAI writes paths."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts)
    return text.removeprefix(".").encode(errors="backslashreplace").decode()


def renamed(problem: ApiError, names: Mapping[str, str]) -> ApiError:
    """The same error; where its field, or what that field is in, has another name here, it says that one."""
    param, message = problem.param or "", problem.message
    for name, here in names.items():
        if param == name or param.startswith((f"{name}.", f"{name}[")):
            there, param = param, here + param.removeprefix(name)
            if message.startswith(f"{there}:"):
                message = param + message.removeprefix(there)
            elif message.startswith(f"{name}:"):
                message = here + message.removeprefix(name)
            return ApiError(
                problem.status,
                message,
                kind=problem.kind,
                param=param,
                code=problem.code,
                retry_after=problem.retry_after,
            )
    return problem


def renaming(app: ASGIApp, names: Mapping[str, str]) -> ASGIApp:
    """The app, with the errors that it raises renamed."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ApiError as problem:
            raise renamed(problem, names) from problem

    return call


_EVENT = {
    "type": "object",
    "description": "One server-sent event; `data` is JSON, or `[DONE]` at the end.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}


def replies(whole: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: the whole reply, the events of a streamed one where the route `streams`, and errors."""
    good: dict[str, Any] = {"model": whole}
    if streams:
        good["content"] = {"text/event-stream": {"schema": _EVENT}}
    return {200: good, "4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}}


class UsageCounts(BaseModel):
    """Tokens of one request, as far as they were counted; what an upstream says beyond these comes with it."""

    model_config = ConfigDict(extra="allow")

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every error reply."""

    error: ErrorBody
