"""One answer put together from its chunks: text, tool calls, and whatever else its server says."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmops.errors import EngineError, EngineRejected
from llmops.generation import Chunk, Generation
from llmops.json_schema import AnswerSchema, schema_of

MOST_TOOL_CALLS = 128
"""Calls in one answer, or offered tools in one request."""
_NAMES_OF_REASONING = ("reasoning_content", "reasoning", "thinking")
_SAID_ONCE = frozenset({"role", "id", "index", "type", "format"})
"""Fields whose later value is the same again, where other texts are the next piece."""
_CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "max_length"})


def is_cut_off(finish_reason: str | None) -> bool:
    """Whether an answer ended because it may be no longer: OpenAI's `length`, or what other servers call it (Anthropic,
    Gemini in capitals, Mistral where its context ends …)."""
    return finish_reason is not None and finish_reason.lower() in _CUT_OFF


class Answer:
    """One of the `n` answers, as far as it has come.

    choice: what its server says of the choice beyond OpenAI's fields. finish_reason: None where none was given.
    """

    __slots__ = ("_fields", "_pieces", "_texts", "choice", "finish_reason", "index", "logprobs", "tool_calls")

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self._pieces: list[str] = []
        self._texts: dict[str, list[str]] = {}
        self._fields: dict[str, Any] = {}
        self.choice: dict[str, Any] = {}
        self.tool_calls: list[dict[str, Any]] = []
        self.logprobs: list[Mapping[str, Any]] = []
        self.finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def content(self) -> Any:
        """As a message has it: the text; parts, where the server sent parts; null where there is no text."""
        given = self._fields.get("content")
        if isinstance(given, list):
            return given
        nothing = None if self.tool_calls or "content" in self._fields else ""
        return self.text or (given if given is not None else nothing)

    @property
    def fields(self) -> dict[str, Any]:
        """What the message holds besides content and tool calls, by the server's own names."""
        if not self._fields and not self._texts:  # as most messages
            return {}
        held = {**self._fields, **{name: "".join(pieces) for name, pieces in self._texts.items()}}
        held.pop("content", None)
        return held

    @property
    def refusal(self) -> str | None:
        """What the model said in place of an answer: in a field of its own, or as parts of its content."""
        return "".join(self._texts.get("refusal", ())) or refused_in(self._fields.get("content")) or None

    @property
    def reasoning(self) -> str | None:
        """What the model thought before it answered, by whatever name its server gives it."""
        return reasoning_in({**self.fields, "content": self._fields.get("content")}) or None

    def take(self, chunk: Chunk) -> None:
        """Adds a piece. Raises EngineError: it has too many tool calls."""
        if chunk.text:
            self._pieces.append(chunk.text)
        if chunk.tool_calls:
            _merge_tool_calls(self.tool_calls, chunk.tool_calls)
        if chunk.logprobs:
            self.logprobs.extend(chunk.logprobs)
        if chunk.extra_fields is not None:
            for name, value in chunk.extra_fields.delta.items():
                if isinstance(value, str) and value and name not in _SAID_ONCE and name != "content":
                    self._fields.pop(name, None)
                    self._texts.setdefault(name, []).append(value)
                elif name not in self._texts:
                    merge(self._fields, {name: value})
            self.choice.update(chunk.extra_fields.choice)
        # Some servers send reasoning as parts, and then the answer as text: the message has both.
        parts = self._fields.get("content")
        if (
            chunk.text
            and isinstance(parts, list)
            and (chunk.extra_fields is None or "content" not in chunk.extra_fields.delta)
        ):
            parts.append({"type": "text", "text": chunk.text})
        self.finish_reason = chunk.finish_reason or self.finish_reason


def off_format(response_format: Mapping[str, Any] | None, answers: Iterable[Answer | Generation]) -> str | None:
    """Which rule the first answer breaks that does not follow a format its server was to enforce (`json_object`, or
    `json_schema` that is `strict`); None where all follow, or nothing can be said.

    Only text that the model ended itself is looked at: no refusals, tool calls, or answers that were cut off.
    """
    if response_format is None:
        return None
    promised = response_format["type"] == "json_object" or response_format["json_schema"].get("strict")
    ended = [each for each in answers if each.finish_reason in ("stop", None) and not (each.refusal or each.tool_calls)]
    if not promised or not ended:
        return None
    try:
        schema = AnswerSchema(schema_of(response_format))
    except EngineRejected:
        return None  # the server has read it in a way of its own
    return next((problem for each in ended if (problem := schema.problem(each.text)) is not None), None)


def refused_in(content: Any) -> str:
    """What parts of a content say as a refusal."""
    refused = [part.get("refusal") for part in _objects(content) if part.get("type") == "refusal"]
    return "".join(text for text in refused if isinstance(text, str))


def reasoning_in(message: Mapping[str, Any]) -> str:
    """What of a message, or a piece of one, is reasoning; some servers tell the same by two names."""
    for name in _NAMES_OF_REASONING:
        if (said := message.get(name)) and isinstance(said, str):
            return said
    # OpenRouter's details, and Mistral's parts of type `thinking`.
    parts = [part.get("thinking") for part in _objects(message.get("content"))]
    return _text_of(message.get("reasoning_details")) or "".join(
        part if isinstance(part, str) else _text_of(part) for part in parts
    )


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds a piece of an object to what came of it: texts and lists grow, objects in lists by their `index`."""
    for name, value in more.items():
        known = into.get(name)
        if value is None or known is None:
            if value is not None or name not in into:
                into[name] = _copy(value)
        elif isinstance(known, str) and isinstance(value, str) and name not in _SAID_ONCE:
            into[name] = known + value
        elif isinstance(known, dict) and isinstance(value, Mapping):
            merge(known, value)
        elif isinstance(known, list) and isinstance(value, Sequence) and not isinstance(value, str):
            for item in value:
                place = _place(item)
                same = next((each for each in reversed(known) if place is not None and _place(each) == place), None)
                if same is None:
                    known.append(_copy(item))
                else:
                    merge(same, item)
        else:
            into[name] = _copy(value)


def _place(item: Any) -> tuple[Any, Any] | None:
    return (item["index"], item.get("type")) if isinstance(item, dict) and "index" in item else None


def _copy(value: Any) -> Any:
    """What grows must not be the server's own object, which is on its way to the client."""
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _merge_tool_calls(calls: list[dict[str, Any]], deltas: Sequence[Mapping[str, Any]]) -> None:
    """Adds OpenAI's delta objects to the calls they belong to."""
    for delta in deltas:
        index = delta.get("index", len(calls))
        if not isinstance(index, int) or not 0 <= index < MOST_TOOL_CALLS:
            message = f"the model made tool call number {index!r}; at most {MOST_TOOL_CALLS} can be passed on"
            raise EngineError(message, reason=message)
        while index >= len(calls):
            calls.append({"id": None, "type": "function"})
        call = calls[index]
        merge(call, {name: value for name, value in delta.items() if name != "index"})
        if call["type"] == "function":
            function = {"name": "", "arguments": "", **(call.get("function") or {})}
            call["function"] = {name: value or "" if name in ("name", "arguments") else value
                                for name, value in function.items()}  # fmt: skip


def _text_of(details: Any) -> str:
    told = [item.get("text") or item.get("summary") for item in _objects(details)]
    return "".join(text for text in told if isinstance(text, str))


def _objects(parts: Any) -> list[dict[str, Any]]:
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
