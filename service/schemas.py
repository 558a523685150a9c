"""What a chat request may say, strictly: an unknown field, or one this gateway cannot honour, is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from llmops.engines.protocol import Message

MOST_MESSAGES = 256

LIMITED_FIELDS: Mapping[str, str] = {
    "n": "only 1 is supported",
    "logprobs": "not supported; leave it out or send false",
    "top_logprobs": "not supported; leave it out",
    "tools": "not supported; leave it out or send an empty list",
    "tool_choice": "not supported; only none or auto",
    "presence_penalty": "not supported; only 0",
    "frequency_penalty": "not supported; only 0",
    "logit_bias": "not supported; leave it out or send an empty object",
    "store": "not supported; leave it out or send false",
    "modalities": "only text is supported",
}
"""Fields of OpenAI's API accepted only with a value that changes nothing, and how the refusal of others reads."""

_Empty = Field(max_length=0)
_Zero = Field(ge=0, le=0)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that can be sent, stored and read back: JSON's escapes can spell what UTF-8 cannot."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TextPart(_Strict):
    """One part of a message's content."""

    type: Literal["text"]
    text: Text


def _content_kind(value: object) -> str:
    return "parts" if isinstance(value, (list, tuple)) else "text"


_Content = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[TextPart], Tag("parts"), Field(min_length=1, max_length=MOST_MESSAGES)],
    Discriminator(_content_kind),
]


class ChatMessage(_Strict):
    """One turn. The fields after `content` are those that OpenAI's clients send back with an assistant's turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Content
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], _Empty] | None = None
    annotations: Annotated[list[Any], _Empty] | None = None

    def to_message(self) -> Message:
        """As engines take it: `developer` is OpenAI's newer word for system, text parts are joined."""
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=role, content=content)


class StreamOptions(_Strict):
    """include_usage: send token counts in a last chunk. include_obfuscation: accepted; there is none."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class JsonSchemaFormat(_Strict):
    """The schema an answer must follow."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """Text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @field_validator("json_schema", mode="after")
    @classmethod
    def _is_json(cls, value: JsonSchemaFormat | None) -> JsonSchemaFormat | None:
        # Python's parser lets NaN and unbounded nesting through; the production log's JSON column does not.
        if value is not None:
            try:
                json.dumps(value.schema_, allow_nan=False)
            except RecursionError as error:
                raise ValueError("the schema is nested too deeply") from error
        return value


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`.

    model: an app (its champion), `app@alias`, `app@version`, or a model version. prompt_variables: fill the release's
    template, besides its input variable. Generation parameters left out, or null, are the release's.
    """

    model: Annotated[str, Field(min_length=1, max_length=255)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    prompt_variables: dict[Text, Text] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stop: Text | list[Text] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    response_format: ResponseFormat | None = None

    user: Annotated[Text, Field(max_length=512)] | None = None
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None

    n: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    tools: Annotated[list[Any], _Empty] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    presence_penalty: Annotated[float, _Zero] | None = None
    frequency_penalty: Annotated[float, _Zero] | None = None
    logit_bias: Annotated[dict[str, Any], _Empty] | None = None
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_strings(cls, value: object) -> object:
        strings = [value] if isinstance(value, str) else value
        if value is None or (
            isinstance(strings, list) and len(strings) <= 4 and all(isinstance(text, str) and text for text in strings)
        ):
            return value
        raise ValueError("must be a string or at most 4 strings, none empty")

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages as engines take them."""
        return tuple(message.to_message() for message in self.messages)

    @property
    def sent_parameters(self) -> dict[str, Any]:
        """The generation parameters the client sent, by the names of `GenerationParameters`."""
        names = ("temperature", "top_p", "max_tokens", "stop", "seed")
        sent = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.max_completion_tokens is not None:
            sent["max_tokens"] = self.max_completion_tokens
        if self.response_format is not None:
            sent["response_format"] = self.response_format.model_dump(by_alias=True, exclude_unset=True)
        return sent


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One answer of a reply; there is always exactly one."""

    index: int
    message: AssistantMessage
    logprobs: None = None
    finish_reason: str


class UsageCounts(BaseModel):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The reply to a chat request that is not streamed. It documents the shape; `replies` writes the bytes."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageCounts


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every error reply."""

    error: ErrorBody


def first_problem(errors: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """The field at fault and what is wrong with it, from pydantic's list of errors."""
    # An unknown field explains the errors it causes elsewhere (an image part has no text), so it comes first.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    if error["type"] == "json_invalid":
        return None, f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    path = _without_tags(error["loc"][1:])
    if not path:
        return None, "the body must be a JSON object, sent with content-type: application/json"
    param = field_path(path)
    if path[0] in LIMITED_FIELDS:
        return str(path[0]), f"{path[0]}: {LIMITED_FIELDS[str(path[0])]}"
    problem = "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")
    return param, f"{param}: {problem}"


def _without_tags(loc: Sequence[str | int]) -> list[str | int]:
    """Drops what pydantic puts after `content`: which of its two kinds the value was read as."""
    return [part for before, part in zip((None, *loc), loc, strict=False) if before != "content"]


def field_path(parts: Sequence[str | int]) -> str:
    """`messages[0].content`, as OpenAI writes paths."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts)
    return text.removeprefix(".").encode(errors="backslashreplace").decode()
