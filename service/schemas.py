"""What bodies and replies of several routes share: kinds of fields, errors that name a field by its path, shapes of
replies for the OpenAPI document.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from llmops.engines.answer import MOST_TOOL_CALLS
from llmops.json_schema import MOST_NESTED, is_shallow

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


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if not is_shallow(value):
        raise ValueError(f"is nested more than {MOST_NESTED} levels deep")
    return value


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that can be sent, stored and read back: JSON's escapes can spell what UTF-8 cannot."""

JsonObject = Annotated[dict[str, Any], AfterValidator(_shallow)]
"""Any JSON object, such as a schema, up to a depth."""


def text_or_list(value: object) -> str:
    """Discriminator of a text that may come in parts, by tags. Those in angle brackets are left out of the paths that
    errors name."""
    return "<list>" if isinstance(value, (list, tuple)) else "<text>"


def type_of(value: object) -> object:
    """What a part or an item says that it is; a discriminator gets it raw, or as a checked model."""
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


T = TypeVar("T")
TextOrList = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[T], Tag("<list>"), Field(min_length=1, max_length=MOST_MESSAGES)],
    Discriminator(text_or_list),
]
"""Text, whole or in parts."""


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


class StreamOptions(StrictBody):
    """include_usage: send token counts in a last chunk. include_obfuscation: accepted; there is none."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class SamplingBody(StrictBody):
    """Fields of all routes that ask a language model. Those left out, or null, are the release's."""

    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: Annotated[Text, Field(max_length=512)] | None = None
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the fields that the client sent with a value."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class CompletionBody(SamplingBody):
    """Fields of both completion routes. prompt_variables: fill the release's template, besides its input variable."""

    prompt_variables: dict[Text, Text] | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def changed_odds(self) -> dict[str, Any]:
        """The number of answers, penalties and biases, those that were sent with an effect."""
        given = self.given("n", "presence_penalty", "frequency_penalty", "logit_bias")
        return {name: value for name, value in given.items() if value and (name, value) != ("n", 1)}


KIND_TAGS = frozenset(
    {"<text>", "<list>", "<object>", "<message>", "<function_call>", "<function_call_output>",
     "<custom_tool_call>", "<text_part>", "<refusal>", "<reasoning>", "<other_part>"}
)  # fmt: skip
"""What bodies tag the kinds of a value with, in the places that pydantic reports."""

_SEVERAL_KINDS = ("tool_choice", "stop")


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
    loc = error["loc"][within:]
    # What pydantic puts after fields of several kinds, which of them the value was read as, is no part of the path.
    kept = [part for before, part in zip((None, *loc), loc, strict=False) if before not in _SEVERAL_KINDS]
    path = [part for part in kept if part not in KIND_TAGS and part != "[key]"]
    if error["type"] == "field_fault":
        path = [*path, error["ctx"]["field"]]
    if not path and error["type"] in ("model_type", "model_attributes_type", "missing"):
        return None, "the body must be a JSON object, sent with content-type: application/json"
    if not path:  # the body as a whole, such as one of several fields that is missing
        return None, str(error["msg"]).removeprefix("Value error, ")
    param = field_path(path)
    problem = "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")
    return param, f"{param}: {problem}"


def field_path(parts: Sequence[str | int]) -> str:
    """`messages[0].content`, as OpenAI writes paths."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts)
    return text.removeprefix(".").encode(errors="backslashreplace").decode()


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
