"""A generation: what is asked of a model, with which parameters, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, Self, TypedDict

from llmops.errors import UsageError

HINTS = frozenset(
    {"store", "service_tier", "metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
     "prediction", "max_completion_tokens"}
)  # fmt: skip
"""Extra fields that do not change an answer: an engine which does not obey one may pass over it. The last is the
parameter `max_tokens` by its newer name."""

EXTRAS = HINTS | frozenset(
    {"n", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "presence_penalty",
     "frequency_penalty", "logit_bias", "reasoning_effort", "verbosity", "modalities", "audio", "web_search_options"}
)  # fmt: skip
"""Fields of OpenAI's chat request beyond `GenerationParameters`: a client's wish, never part of a release."""


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it; the optional fields are OpenAI's.

    content: all that was said, a refusal included. refusal: the part of it, at its end, that is one. sent_content: an
    assistant's content as its server gave it, where that is not its text alone: parts, or null. Further fields of such
    a turn (`reasoning_content` …) are those that its server gave it.
    """

    role: str
    content: str
    name: NotRequired[str]
    refusal: NotRequired[str]
    sent_content: NotRequired[list[dict[str, Any]] | None]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


@dataclass(frozen=True, slots=True)
class GenerationParameters:
    """How to decode. Part of a release, so part of what is evaluated.

    max_tokens: most tokens to generate. temperature: 0 is greedy. top_p: nucleus mass, 0–1. stop: strings that
    end the answer. seed: for temperatures above 0. response_format: OpenAI's object, `json_object` or `json_schema`.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: Mapping[str, Any] | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Checked construction from a file, a command line or stored JSON. Raises UsageError: an unknown name or a
        value out of range; the text starts with the parameter's name."""
        known = cls.__dataclass_fields__
        for name in values:
            if name not in known:
                raise UsageError(f"{name}: unknown parameter; known: {', '.join(sorted(known))}")
        checked = {name: _checked(name, value) for name, value in values.items() if value is not None}
        return cls(**checked)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values, every field named: what is stored, hashed and shown."""
        # Written out: it is on the path of every request.
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": list(self.stop),
            "seed": self.seed,
            "response_format": None if self.response_format is None else _plain(self.response_format),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


_WANTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda value: type(value) is int and value >= 1, "a whole number of 1 or more"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "temperature": (lambda value: type(value) in (int, float) and 0 <= value <= 2, "a number from 0 to 2"),
    "top_p": (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1"),
    "stop": (
        lambda value: (
            isinstance(value, Sequence) and value != "" and all(isinstance(item, str) and item for item in value)
        ),
        "a string or a list of strings, none empty",
    ),
    "response_format": (
        lambda value: isinstance(value, Mapping) and value.get("type") in ("text", "json_object", "json_schema"),
        "an object whose type is text, json_object or json_schema",
    ),
}
"""Of each parameter whether a value will do, and what it must be."""


def _checked(name: str, value: Any) -> Any:
    is_right, wanted = _WANTED[name]
    if not is_right(value):
        raise UsageError(f"{name}: must be {wanted}")
    match name:
        case "temperature" | "top_p":
            return float(value)
        case "stop":
            return (value,) if isinstance(value, str) else tuple(value)
        case "response_format" if value["type"] == "json_schema":
            wrapper = value.get("json_schema")
            if not isinstance(wrapper, Mapping) or not isinstance(wrapper.get("schema"), Mapping):
                raise UsageError("response_format: json_schema.schema must be an object")
            return dict(value)
        case "response_format":
            return None if value["type"] == "text" else dict(value)
    return value


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A rendered conversation and how to continue it.

    extras: of `EXTRAS`, as a client sent them. whole: nobody reads the answer before its end, so that it may be made,
    and come, in one piece. headers: to hand on to an upstream server, such as `traceparent`. shared_prefix: the
    messages that every request of the same template begins with; an engine may keep what it has read of them.
    """

    messages: tuple[Message, ...]
    parameters: GenerationParameters = GenerationParameters()
    extras: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    shared_prefix: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation; None is unknown, which is not zero.

    reported: the usage object of the server that counted, as it came: with details, and with whatever else it names.
    """

    tokens_in: int | None
    tokens_out: int | None
    reported: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def total(self) -> int | None:
        """Tokens read and made; None where one of both is unknown."""
        return None if self.tokens_in is None or self.tokens_out is None else self.tokens_in + self.tokens_out


UNKNOWN_USAGE = Usage(None, None)
"""Of an answer whose tokens nobody counted."""
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})

UNSAID = ""
"""The `finish_reason` of an answer that is whole, and whose server does not say why it ended."""


class ExtraFields(NamedTuple):
    """What a server says beyond the fields of `Chunk`, by its own names and as it came.

    delta: of the message (`refusal`, `reasoning_content`, `annotations`, a `role`, a `content` that is no text …).
    choice: of the choice (`stop_reason` …). reply: of the object around it (`service_tier`, `citations` …).
    """

    delta: Mapping[str, Any] = NO_FIELDS
    choice: Mapping[str, Any] = NO_FIELDS
    reply: Mapping[str, Any] = NO_FIELDS


@dataclass(slots=True)  # not frozen: to make one that is takes thrice as long, and a stream has many
class Chunk:
    """A piece of an answer; nobody changes one that was handed on. The last chunk of a stream, and only that, has
    `usage`; it has a `finish_reason` too.

    index: which of the `n` answers asked for; each has a chunk of its own with its `finish_reason`. tool_calls,
    logprobs: OpenAI's delta objects, and its entries of `logprobs.content` for the tokens of this piece.
    queued_s: seconds the request waited for a slot; on the first chunk, of engines that queue outside this process.
    extra_fields: whatever else the server says with it.
    more: the next chunk is there already, so that both can go out together; no part of the answer.
    """

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    index: int = 0
    tool_calls: Sequence[Mapping[str, Any]] = ()
    logprobs: Sequence[Mapping[str, Any]] = ()
    queued_s: float | None = None
    more: bool = field(default=False, compare=False)
    extra_fields: ExtraFields | None = field(default=None, compare=False)

    @property
    def has_side_content(self) -> bool:
        """Whether it holds something of the message that is neither text nor a call: reasoning, a refusal …"""
        delta = self.extra_fields.delta if self.extra_fields is not None else NO_FIELDS
        return any(value for name, value in delta.items() if name != "role")


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer. Times are seconds from the moment the engine took the request.

    finish_reason: None where the server gave none. first_token_s: None where it made nothing. tool_calls: OpenAI's
    objects. refusal: what the model said in place of an answer. reasoning: what it thought before.
    """

    text: str
    finish_reason: str | None
    usage: Usage
    first_token_s: float | None
    latency_s: float
    tool_calls: Sequence[Mapping[str, Any]] = ()
    refusal: str | None = None
    reasoning: str | None = None
