"""What a chat request may say, strictly: an unknown field, or one this gateway cannot honour, is an error."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from llmops.generation import HINTS, Message
from llmops.json_schema import MOST_NESTED, is_shallow
from service.schemas import (
    MOST_MESSAGES,
    MOST_TOOLS,
    CompletionBody,
    JsonObject,
    StrictBody,
    Text,
    field_fault,
    text_or_list,
)


class _Part(StrictBody):
    model_config = ConfigDict(extra="allow")


class TextPart(_Part):
    """One part of a message's content. In an assistant's, other fields (`annotations` …) are those of its server."""

    type: Literal["text"]
    text: Text


class RefusalPart(_Part):
    """A part of an assistant's content in which it refused."""

    type: Literal["refusal"]
    refusal: Text


class OtherPart(_Part):
    """A part of an assistant's content of any other kind, such as `thinking`, as its server sent it."""

    type: Annotated[Text, Field(max_length=64)]


def _part_kind(value: object) -> str:
    kind = value.get("type", "text") if isinstance(value, dict) else getattr(value, "type", None)
    if not isinstance(kind, str):
        return "<text_part>"
    return {"text": "<text_part>", "refusal": "<refusal>"}.get(kind, "<other_part>")


_AnyPart = Annotated[
    Annotated[TextPart, Tag("<text_part>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[OtherPart, Tag("<other_part>")],
    Discriminator(_part_kind),
]


_Content = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[_AnyPart], Tag("<list>"), Field(max_length=MOST_MESSAGES)],
    Discriminator(text_or_list),
]


class CalledFunction(StrictBody):
    """What a model asked to be called, with arguments as JSON text. Other fields are those of its server."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[Text, Field(min_length=1, max_length=256)]
    arguments: Text


_CallId = Annotated[Text, Field(min_length=1, max_length=65_536)]
"""Of a server's own making: some put signatures into it."""


class ToolCall(StrictBody):
    """A call that an assistant's turn asked for. Other fields are those that the model's server gave it, such as
    `custom` of a call of that type."""

    model_config = ConfigDict(extra="allow")

    id: _CallId
    type: Annotated[Text, Field(max_length=64)] = "function"
    function: CalledFunction | None = None
    index: int | None = None

    @model_validator(mode="after")
    def _is_of_its_type(self) -> Self:
        if (self.type == "function") != (self.function is not None):
            raise field_fault("function", "needed" if self.function is None else "only a call of that type has it")
        if not is_shallow(self.as_sent()):
            raise field_fault("type", f"stands beside what is nested more than {MOST_NESTED} levels deep")
        return self

    def as_sent(self) -> dict[str, Any]:
        """As it came, without its number."""
        return self.model_dump(exclude={"index", *(() if self.function else ("function",))})


class ChatMessage(StrictBody):
    """One turn. An assistant's may hold whatever its server put into it (`reasoning_content`, `audio` …): clients send
    it back, and an upstream gets it.

    content: text, or null in an assistant's turn. tool_call_id: in a tool's turn, the call
    that it answers. name: of who speaks, or of the tool.
    """

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: _CallId | None = None
    name: Annotated[Text, Field(max_length=256)] | None = None
    refusal: Text | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        said = _said(self.model_extra)
        if self.role != "assistant":
            self._holds_nothing_of_an_assistant()
        elif not is_shallow(said):
            raise field_fault(next(iter(said)), f"is nested more than {MOST_NESTED} levels deep")
        elif "sent_content" in said:  # what a turn calls content here that is no plain text
            raise field_fault("sent_content", "unknown field")
        elif not is_shallow([part.model_extra or {} for part in self._parts]):
            raise field_fault("content", f"is nested more than {MOST_NESTED} levels deep")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            needed = "a tool's turn must name the call that it answers"
            raise field_fault("tool_call_id", needed if self.role == "tool" else "only a tool's turn has it")
        return self

    def _holds_nothing_of_an_assistant(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name not in _EMPTY_FIELDS or value:
                raise field_fault(name, "unknown field")
        if self.refusal is not None:
            raise field_fault("refusal", "only an assistant's turn has it")
        for at, part in enumerate(self._parts):
            if not isinstance(part, TextPart):
                raise field_fault(
                    f"content[{at}]", f"is no text, but {part.type}: only an assistant's turn may hold it"
                )
            for name in part.model_extra or ():
                raise field_fault(f"content[{at}].{name[:100]}", "unknown field")
        if self.tool_calls:
            raise field_fault("tool_calls", "only an assistant's turn has them")
        if self.content is None or self.content == []:
            raise field_fault("content", "must be a text or a list of text parts")

    @property
    def _parts(self) -> Sequence[TextPart | RefusalPart | OtherPart]:
        return () if isinstance(self.content, str) or self.content is None else self.content

    @property
    def _is_plain(self) -> bool:
        """Whether text and refusal are all that the content says."""
        return self.content not in (None, []) and not any(
            isinstance(part, OtherPart) or part.model_extra for part in self._parts
        )

    def to_message(self) -> Message:
        """As engines take it: `developer` is OpenAI's newer word for system, parts are joined, a refusal is the end."""
        role = "system" if self.role == "developer" else self.role
        texts = [part.text for part in self._parts if isinstance(part, TextPart)]
        text = self.content if isinstance(self.content, str) else "".join(texts)
        refusal = self.refusal or "".join(part.refusal for part in self._parts if isinstance(part, RefusalPart))
        message = cast(Message, {"role": role, "content": text + refusal, **_said(self.model_extra)})
        if refusal:
            message["refusal"] = refusal
        if not self._is_plain:
            message["sent_content"] = None if self.content is None else [part.model_dump() for part in self._parts]
        if self.name is not None:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [call.as_sent() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


_EMPTY_FIELDS = frozenset({"audio", "function_call", "annotations"})
"""What some clients put into every turn, empty."""


def _said(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an assistant's turn holds beyond the fields that are read here."""
    return {name: value for name, value in (extra or {}).items() if value is not None and value != []}


class JsonSchemaFormat(StrictBody):
    """The schema an answer must follow."""

    name: str | None = None
    description: str | None = None
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictBody):
    """Text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ToolFunction(StrictBody):
    """A function that the model may ask to be called. parameters: a JSON schema."""

    name: Annotated[Text, Field(min_length=1, max_length=256)]
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(StrictBody):
    """Something the model may ask to be called; of OpenAI's kinds, functions."""

    type: Literal["function"]
    function: ToolFunction


class NamedFunction(StrictBody):
    """A function's name."""

    name: Annotated[Text, Field(min_length=1, max_length=256)]


class NamedTool(StrictBody):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(CompletionBody):
    """The body of `POST /v1/chat/completions`.

    model: an app (its champion), `app@alias`, `app@version`, or a model version. The fields of `HINTS` reach an
    upstream, and change nothing on other engines.
    """

    model: Annotated[str, Field(min_length=1, max_length=255)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stop: Text | list[Text] | None = None
    response_format: ResponseFormat | None = None

    service_tier: Annotated[Text, Field(max_length=64)] | None = None
    store: bool | None = None
    safety_identifier: Annotated[Text, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[Text, Field(max_length=512)] | None = None
    prompt_cache_retention: Annotated[Text, Field(max_length=64)] | None = None
    prediction: JsonObject | None = None

    modalities: Annotated[list[Literal["text", "audio", "image"]], Field(max_length=3)] | None = None
    audio: JsonObject | None = None
    reasoning_effort: Annotated[Text, Field(max_length=64)] | None = None
    verbosity: Annotated[Text, Field(max_length=64)] | None = None
    web_search_options: JsonObject | None = None

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_strings(cls, value: object) -> object:
        strings = [value] if isinstance(value, str) else value
        if value is None or (
            isinstance(strings, list) and len(strings) <= 4 and all(isinstance(text, str) and text for text in strings)
        ):
            return value
        raise ValueError("must be a string or at most 4 strings, none empty")

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        limits = (self.max_tokens, self.max_completion_tokens)
        if None not in limits and limits[0] != limits[1]:
            raise field_fault("max_tokens", "differs from max_completion_tokens; send one of them")
        if self.top_logprobs and not self.logprobs:
            raise field_fault("top_logprobs", "needs logprobs: true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise field_fault("tool_choice", "needs tools")
        if isinstance(self.tool_choice, NamedTool):
            check_choice(self.tool_choice.function.name, [tool.function.name for tool in self.tools or ()])
        return self

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages as engines take them."""
        return tuple(message.to_message() for message in self.messages)

    @property
    def extras(self) -> dict[str, Any]:
        """The fields of `llmops.engines.protocol.EXTRAS` sent with an effect, as the client sent them."""
        extras = self.changed_odds | logprobs_asked(bool(self.logprobs), self.top_logprobs) | self.given(*_PASSED_ON)
        if self.modalities and self.modalities != ["text"]:
            extras["modalities"] = self.modalities
        tools = [tool.model_dump(exclude_unset=True) for tool in self.tools or ()]
        return extras | tools_offered(tools, as_sent(self.tool_choice), self.parallel_tool_calls)

    @property
    def sent_parameters(self) -> dict[str, Any]:
        """The generation parameters the client sent, by the names of `GenerationParameters`."""
        sent = self.given("temperature", "top_p", "max_tokens", "stop", "seed")
        if self.max_completion_tokens is not None:
            sent["max_tokens"] = self.max_completion_tokens
        if self.response_format is not None:
            sent["response_format"] = as_sent(self.response_format)
        return sent


_PASSED_ON = (*sorted(HINTS), "audio", "reasoning_effort", "verbosity", "web_search_options")


def check_choice(name: str, offered: Sequence[str]) -> None:
    """Raises the error of a `tool_choice` whose tool is not among those of the request."""
    if name not in offered:
        raise field_fault("tool_choice", f"names {name[:60]!r}, which is none of the tools")


def logprobs_asked(asked: bool, top: int | None) -> dict[str, Any]:
    """The extras that ask for log-probabilities, of as many other tokens."""
    return {"logprobs": True, **({"top_logprobs": top} if top else {})} if asked else {}


def tools_offered(tools: Sequence[Mapping[str, Any]], choice: Any, parallel: bool | None) -> dict[str, Any]:
    """The extras that offer tools; without tools the others mean nothing."""
    offered = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}
    return {name: value for name, value in offered.items() if value is not None} if tools else {}


def as_sent(value: Any) -> Any:
    """A part of a checked request as plain JSON values, without what the client did not send."""
    return value.model_dump(by_alias=True, exclude_unset=True) if isinstance(value, BaseModel) else value
