"""What a request to `POST /v1/responses` may say, and what that is as a chat request."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from llmops.generation import HINTS, Message
from llmops.json_schema import MOST_NESTED, is_shallow
from service.routes.chat_body import check_choice, logprobs_asked, tools_offered
from service.schemas import (
    MOST_MESSAGES,
    MOST_TOOLS,
    JsonObject,
    SamplingBody,
    StrictBody,
    Text,
    TextOrList,
    field_fault,
    only,
    type_of,
)

LOGPROBS = "message.output_text.logprobs"


class Part(StrictBody):
    """One part of a turn's content: text from the client, or the assistant's own, sent back."""

    type: Literal["input_text", "output_text", "text"]
    text: Text
    annotations: Annotated[list[Any], Field(max_length=MOST_MESSAGES)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=100_000)] | None = None


class Refusal(StrictBody):
    """A part of an assistant's turn in which it refused, sent back."""

    type: Literal["refusal"]
    refusal: Text


Parts = TextOrList[Part]
TurnParts = TextOrList[
    Annotated[
        Annotated[Part, Tag("<text_part>")] | Annotated[Refusal, Tag("<refusal>")],
        Discriminator(lambda value: "<refusal>" if type_of(value) == "refusal" else "<text_part>"),
    ]
]


def _joined(parts: str | Sequence[Part | Refusal]) -> str:
    return parts if isinstance(parts, str) else "".join(part.text for part in parts if isinstance(part, Part))


class _Item(StrictBody):
    id: Text | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class Turn(_Item):
    """A message of the conversation. id, status, phase: what clients send back with an assistant's turn, as they do
    whatever else its server said with it."""

    model_config = ConfigDict(extra="allow")

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: TurnParts
    phase: Text | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.role != "assistant":
            if self.refusal:
                raise field_fault("content", "only an assistant's turn has a refusal")
            if self.model_extra:
                raise field_fault(next(iter(self.model_extra)), "unknown field")
        elif not is_shallow(self.model_extra or {}):
            raise field_fault("content", f"stands beside a field that is nested more than {MOST_NESTED} levels deep")
        return self

    @property
    def refusal(self) -> str:
        parts = () if isinstance(self.content, str) else self.content
        return "".join(part.refusal for part in parts if isinstance(part, Refusal))

    def to_message(self) -> Message:
        role = "system" if self.role == "developer" else self.role
        refused = {"refusal": self.refusal} if self.refusal else {}
        content = _joined(self.content) + self.refusal
        return cast(Message, {**(self.model_extra or {}), "role": role, "content": content, **refused})


class _Call(_Item):
    """A tool call that the assistant made earlier, with whatever else its server said of it."""

    model_config = ConfigDict(extra="allow")

    call_id: Text
    name: Text

    def _message(self, kind: str, **told: str) -> Message:
        call = {**(self.model_extra or {}), "id": self.call_id, "type": kind, kind: {"name": self.name, **told}}
        return Message(role="assistant", content="", tool_calls=[call])


class FunctionCall(_Call):
    """A call of a function."""

    type: Literal["function_call"]
    arguments: Text

    def to_message(self) -> Message:
        return self._message("function", arguments=self.arguments)


class CustomToolCall(_Call):
    """A call of a tool that takes free text."""

    type: Literal["custom_tool_call"]
    input: Text

    def to_message(self) -> Message:
        return self._message("custom", input=self.input)


class FunctionResult(_Item):
    """What the tool gave back."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: Text
    output: Parts

    def to_message(self) -> Message:
        return Message(role="tool", content=_joined(self.output), tool_call_id=self.call_id)


class ReasoningText(StrictBody):
    """A part of a reasoning item."""

    type: Literal["reasoning_text", "summary_text"]
    text: Text


class Reasoning(_Item):
    """What the assistant thought before its next item, sent back."""

    type: Literal["reasoning"]
    summary: Annotated[list[ReasoningText], Field(max_length=MOST_MESSAGES)] = []
    content: Annotated[list[ReasoningText], Field(max_length=MOST_MESSAGES)] | None = None
    encrypted_content: Annotated[None, only("not supported: this gateway gives none")] = None

    def to_message(self) -> Message:
        thought = "".join(part.text for part in self.content or self.summary)
        return cast(Message, {"role": "assistant", "content": "", "reasoning_content": thought})


def _item_kind(value: object) -> str:
    kind = type_of(value)
    if kind == "custom_tool_call_output":
        return "<function_call_output>"
    named = kind in ("function_call", "custom_tool_call", "function_call_output", "reasoning")
    return f"<{kind}>" if named else "<message>"


Item = Annotated[
    Annotated[Turn, Tag("<message>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[CustomToolCall, Tag("<custom_tool_call>")]
    | Annotated[FunctionResult, Tag("<function_call_output>")]
    | Annotated[Reasoning, Tag("<reasoning>")],
    Discriminator(_item_kind),
]

Input = TextOrList[Item]


class PromptChoice(StrictBody):
    """A registered prompt. version: its number, as text or not; left out: see `choose_prompt`."""

    id: Annotated[Text, Field(min_length=1, max_length=255)]
    version: Annotated[
        Annotated[str, Field(max_length=20)] | Annotated[int, Field(ge=1, lt=2**31)] | None, only("must be a number")
    ] = None
    variables: dict[Text, Parts] | None = None

    @property
    def texts(self) -> dict[str, str]:
        """The variables as plain text."""
        return {name: _joined(value) for name, value in (self.variables or {}).items()}


class TextFormat(StrictBody):
    """Text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None

    def to_response_format(self) -> dict[str, Any]:
        """As chat requests have it."""
        if self.type != "json_schema":
            return {"type": self.type}
        fields = self.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return {"type": self.type, "json_schema": fields}


class TextOptions(StrictBody):
    """format: what the answer must look like. verbosity: how long it shall be."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(StrictBody):
    """effort: how long the model shall think."""

    effort: Annotated[Text, Field(max_length=64)] | None = None
    summary: Annotated[None, only("not supported: reasoning comes whole, where an upstream gives it")] = None
    generate_summary: Annotated[None, only("not supported: reasoning comes whole, where an upstream gives it")] = None


class FunctionTool(StrictBody):
    """A function that the model may ask for."""

    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def to_tool(self) -> dict[str, Any]:
        """As chat requests have it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class FunctionChoice(StrictBody):
    """The function that the model must call."""

    type: Literal["function"]
    name: Text


class StreamOptions(StrictBody):
    """include_obfuscation: accepted; there is none."""

    include_obfuscation: bool | None = None


class ResponseRequest(SamplingBody):
    """The body of `POST /v1/responses`.

    model: as in chat requests; may be left out where `prompt` names the prompt of exactly one app's champion.
    prompt: a registered prompt, rendered with its variables; `input`'s last message of the user, or a variable, fills
    its input variable. Generation parameters left out, or null, are the release's, or else those of the prompt.
    """

    model: Annotated[Text, Field(min_length=1, max_length=255)] | None = None
    input: Input | None = None
    instructions: Text | None = None
    prompt: PromptChoice | None = None
    stream_options: StreamOptions | None = None

    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("<text>")] | Annotated[FunctionChoice, Tag("<object>")],
            Discriminator(lambda value: "<text>" if isinstance(value, str) else "<object>"),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]] | None, only(f"only {LOGPROBS} is supported")] = (
        None
    )

    safety_identifier: Annotated[Text, Field(max_length=512)] | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    service_tier: Text | None = None

    background: Annotated[Literal[False] | None, only("not supported; leave it out or send false")] = None
    conversation: Annotated[None, only("not supported: none are kept; send earlier turns in input")] = None
    max_tool_calls: Annotated[None, only("not supported: there are no built-in tools")] = None
    previous_response_id: Annotated[None, only("not supported: none are kept; send earlier turns in input")] = None
    reasoning: ReasoningOptions | None = None
    store: Annotated[Literal[False] | None, only("not supported: no response can be fetched later; leave it out")] = (
        None
    )
    truncation: Annotated[Literal["disabled"] | None, only("only disabled is supported")] = None

    @model_validator(mode="after")
    def _chooses_what_it_offers(self) -> Self:
        if isinstance(self.tool_choice, FunctionChoice) and self.tools:
            check_choice(self.tool_choice.name, [tool.name for tool in self.tools])
        return self

    @property
    def turns(self) -> tuple[Message, ...]:
        """Instructions and input as engines take them; calls that were made in one turn are one message."""
        messages: list[Message] = []
        if self.instructions is not None:
            messages.append(Message(role="system", content=self.instructions))
        if isinstance(self.input, str):
            messages.append(Message(role="user", content=self.input))
        else:
            for item in self.input or ():
                _add(messages, item.to_message())
        return tuple(messages)

    @property
    def sent_parameters(self) -> dict[str, Any]:
        """The generation parameters the client sent, by the names of `GenerationParameters`."""
        sent = self.given("temperature", "top_p")
        if self.max_output_tokens is not None:
            sent["max_tokens"] = self.max_output_tokens
        if self.text is not None and self.text.format is not None:
            sent["response_format"] = self.text.format.to_response_format()
        return sent

    @property
    def extras(self) -> dict[str, Any]:
        """What chat requests call `EXTRAS`, those sent with an effect, and what reaches an upstream as it is."""
        choice: Any = self.tool_choice
        if isinstance(choice, FunctionChoice):
            choice = {"type": "function", "function": {"name": choice.name}}
        extras = tools_offered([tool.to_tool() for tool in self.tools or ()], choice, self.parallel_tool_calls)
        extras |= logprobs_asked(bool(self.top_logprobs) or LOGPROBS in (self.include or ()), self.top_logprobs)
        sent = {name: getattr(self, name) for name in sorted(HINTS) if name != "store" and hasattr(self, name)}
        sent["reasoning_effort"] = None if self.reasoning is None else self.reasoning.effort
        if self.text is not None and self.text.verbosity != "medium":
            sent["verbosity"] = self.text.verbosity
        return extras | {name: value for name, value in sent.items() if value is not None}


def _add(messages: list[Message], message: Message) -> None:
    before = messages[-1] if messages else None
    if before is not None and "tool_calls" in message and before["role"] == "assistant":
        before["tool_calls"] = [*before.get("tool_calls", []), *message["tool_calls"]]
    elif before is not None and _is_thought(before) and message["role"] == "assistant" and not _is_thought(message):
        before.update(message)
    else:
        messages.append(message)


def _is_thought(message: Message) -> bool:
    """Whether nothing but reasoning is in it yet: what follows it is of the same turn."""
    return "reasoning_content" in message and not message["content"] and "tool_calls" not in message
