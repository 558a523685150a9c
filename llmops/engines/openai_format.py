"""OpenAI's chat format, as servers that speak it and llama.cpp itself take and give it: the request, and the answer
as chunks, streamed or whole.

Of an answer the fields that llmops works with are read and put right; all others, of whatever name, come with the
chunks as `ExtraFields`, so that nothing a server says is lost here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmops.engines.openai_errors import failure, reported, unwrapped
from llmops.engines.protocol import EngineIdentity
from llmops.engines.upstream_wire import ToolCallReader, argument_text, misshapen, whole_number
from llmops.errors import EngineError, EngineUnavailable
from llmops.generation import NO_FIELDS, UNKNOWN_USAGE, UNSAID, Chunk, ExtraFields, GenerationRequest, Message, Usage

_NAMED_IN_REPLY = frozenset({"id", "object", "created", "model", "choices", "usage", "error"})
_NAMED_IN_CHOICE = frozenset({"index", "delta", "message", "logprobs", "finish_reason", "error"})
_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_DETAILS = frozenset({"prompt_tokens_details", "completion_tokens_details"})
_TOO_MANY_TOKENS = 2**53  # from here on JSON's numbers, and the log's, are not exact

FAILED = frozenset({"error", "abort", "insufficient_system_resource", "network_error"})
"""Finish reasons of an answer that its server gave up: OpenRouter's, Mistral's and vLLM's; vLLM's and SGLang's;
DeepSeek's; Zhipu's."""


def identity(base_url: str, model: str) -> EngineIdentity:
    """What the engine for a server will be, known before it connects, or imports what connects."""
    return EngineIdentity("openai", base_url.rstrip("/"), {"model": model})


def chat_body(request: GenerationRequest, *, stream: bool = True) -> dict[str, Any]:
    """The body of a chat request; what is not set is left out. A streamed one asks for token counts at its end."""
    parameters = request.parameters
    turns = [{name: value for name, value in turn.items() if name != "sent_content"} for turn in request.messages]
    body: dict[str, Any] = {
        "messages": turns,
        "max_tokens": parameters.max_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
    }
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if parameters.seed is not None:
        body["seed"] = parameters.seed
    if parameters.response_format is not None:
        body["response_format"] = dict(parameters.response_format)
    if request.extras:
        body.update(request.extras)
    return body


def sent_message(message: Message) -> dict[str, Any]:
    """A turn as OpenAI's servers take it: content that is no plain text as its server sent it, and what the assistant
    refused in a field of its own."""
    sent: dict[str, Any] = dict(message)
    if "sent_content" in sent and (sent["sent_content"] is not None or not sent["content"]):
        sent["content"] = sent.pop("sent_content")
    elif refused := sent.get("refusal"):
        sent["content"] = message["content"].removesuffix(refused) or None
    sent.pop("sent_content", None)
    return sent


class AnswerReader:
    """Makes chunks of a streamed answer's events, one after another.

    What each answer ends with comes last, and the last chunk alone has usage, which may come after everything else. An
    event that only names the role waits for the next one: until something was said another upstream can be asked.

    asked: how many answers were asked for.
    """

    def __init__(self, asked: int = 1) -> None:
        self._asked = asked
        self._usage = UNKNOWN_USAGE
        self._choices: dict[int, _ChoiceReader] = {}
        self._last_fields = NO_FIELDS

    def take(self, event: object) -> Sequence[Chunk]:
        """The chunks of one parsed event. Raises EngineError: it reports a failure, or is not of OpenAI's shape."""
        more = self._more_text(event)
        return self._read(event) if more is None else (more,)

    def _read(self, event: object) -> Sequence[Chunk]:
        event = unwrapped(event)
        if type(event) is not dict:
            raise misshapen("an event that is not an object")
        choices = event.get("choices")
        if (event.get("error") or choices is None) and (problem := reported(event)) is not None:
            raise problem
        fields = {name: value for name, value in event.items() if name not in _NAMED_IN_REPLY}
        chunks: list[Chunk] = []
        if choices:
            for choice in _objects(choices, "choices"):
                index = _index(choice, 0, self._asked)
                reader = self._choices.get(index) or self._choices.setdefault(index, _ChoiceReader(index))
                if said := reader.take(choice, fields):
                    # Clients may count answers by their first events: those that wait of earlier answers go before.
                    for each in self._choices.values():
                        if each is reader:
                            break
                        chunks += each.opened()
                    chunks += said
        elif fields:
            self._last_fields = fields
        if event.get("usage") is not None:
            self._usage = _usage(event["usage"])
        return chunks

    def _more_text(self, event: Any) -> Chunk | None:
        """The commonest event, read without a look at each field: more text of the only answer, and nothing beside."""
        if len(self._choices) != 1:
            return None
        try:
            (choice,) = event["choices"]
            index, text = choice["index"], choice["delta"]["content"]
            begun = self._choices[index].said
        except (KeyError, TypeError, ValueError):
            return None
        only = {"index": index, "delta": {"content": text}, "finish_reason": None, "logprobs": None}
        plain = begun and type(text) is str and text and {"logprobs": None, **choice} == only
        if plain and _NAMED_IN_REPLY.issuperset(event) and event.get("usage") is None and not event.get("error"):
            return Chunk(text, index=index)
        return None

    def end(self, *, said: bool = True) -> list[Chunk]:
        """The last chunks, one for each answer. said: the server has said that it is at the end. Raises
        EngineUnavailable: the events ended before every answer did. EngineError: there is no answer."""
        readers = [self._choices[index] for index in sorted(self._choices)]
        if not said and not (readers and all(reader.finish_reason for reader in readers)):
            message = "the stream ended before the answer did"
            raise EngineUnavailable(message, reason=message)
        if not readers:
            raise misshapen("no answer")
        _without_gaps(self._choices)
        *others, last = readers
        return [chunk for each in others for chunk in each.end()] + last.end(self._usage, self._last_fields)


class _ChoiceReader:
    """One answer of a stream. finish_reason: None until one came. said: whether a chunk was given out."""

    __slots__ = ("_begun", "_calls", "_ending", "_index", "_opening", "finish_reason", "said")

    def __init__(self, index: int) -> None:
        self._index = index
        self._calls = ToolCallReader()
        self._opening: Chunk | None = None
        self._begun = self.said = False
        self._ending: ExtraFields | None = None
        self.finish_reason: str | None = None

    def take(self, choice: Mapping[str, Any], reply: Mapping[str, Any]) -> list[Chunk]:
        piece = choice.get("delta")
        if piece is None and not self.said:
            piece = choice.get("message")  # of a server that sends an answer in one event perhaps
        self._begun = self._begun or piece is not None or "delta" in choice
        delta = _with_texts(_object(piece, "delta"))
        text = _text(delta)
        calls = self._calls.take(delta["tool_calls"]) if delta.get("tool_calls") else ()
        entries, fields = _choice_fields(choice)
        said = _message_fields(delta, text)
        finished = choice.get("finish_reason") is not None
        if finished:
            self.finish_reason = _finish_reason(choice, fields)
        if text or calls or entries or _tells(said) or (fields and not finished and _tells(fields)):
            self.said = True
            self._ending = ExtraFields(NO_FIELDS, fields, reply) if finished else self._ending
            extra_fields = _extra_fields_of(said, NO_FIELDS if finished else fields, reply)
            return [*self.opened(), Chunk(text, None, None, self._index, calls, entries, extra_fields=extra_fields)]
        if finished:
            self._ending = ExtraFields(said, fields, reply)
        elif said and not self.said and self._opening is None:
            self._opening = Chunk("", index=self._index, extra_fields=ExtraFields(said, fields, reply))
        return []

    def end(self, usage: Usage | None = None, reply: Mapping[str, Any] = NO_FIELDS) -> list[Chunk]:
        """What the answer ends with. Raises EngineError."""
        if not self._begun:
            raise misshapen("an answer without a message")
        calls = self._calls.end()
        last_calls = [Chunk("", index=self._index, tool_calls=calls)] if calls else []
        ending = self._ending or ExtraFields()
        extra_fields = _extra_fields_of(ending.delta, ending.choice, {**ending.reply, **reply})
        last = Chunk("", self.finish_reason or UNSAID, usage, self._index, extra_fields=extra_fields)
        return [*self.opened(), *last_calls, last]

    def opened(self) -> list[Chunk]:
        """The event that waited, once."""
        opening, self._opening = self._opening, None
        if opening is None:
            return []
        opening.more = True
        return [opening]


def whole_answer(reply: object, asked: int = 1) -> list[Chunk]:
    """The chunks of a reply that was not streamed: one for each answer, the last one with usage.

    asked: how many answers were asked for. Raises EngineError: it reports a failure, or is not of OpenAI's shape.
    """
    reply = unwrapped(reply)
    if type(reply) is not dict:
        raise misshapen("a reply that is not an object")
    if (problem := reported(reply)) is not None:
        raise problem
    choices = _objects(reply.get("choices") or [], "choices")
    if not choices:
        raise misshapen("no answer")
    usage = _usage(reply.get("usage"))
    fields = {name: value for name, value in reply.items() if name not in _NAMED_IN_REPLY}
    chunks = []
    for place, choice in enumerate(choices):
        if choice.get("message") is None:
            raise misshapen("an answer without a message")
        message = _with_texts(_object(choice["message"], "message"))
        text, index = _text(message), _index(choice, place, asked)
        calls = ToolCallReader().take_whole(message["tool_calls"]) if message.get("tool_calls") else ()
        entries, others = _choice_fields(choice)
        reason = UNSAID if choice.get("finish_reason") is None else _finish_reason(choice, others)
        extra_fields = _extra_fields_of(_message_fields({"content": None, **message}, text), others, NO_FIELDS)
        chunks.append(Chunk(text, reason, None, index, calls, entries, extra_fields=extra_fields))
    if len({chunk.index for chunk in chunks}) < len(chunks):
        raise misshapen("two answers of one number")
    _without_gaps({chunk.index for chunk in chunks})
    said = chunks[-1].extra_fields or ExtraFields()
    return [
        *chunks[:-1],
        replace(chunks[-1], usage=usage, extra_fields=_extra_fields_of(said.delta, said.choice, fields)),
    ]


def _message_fields(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What a message or delta holds besides its text and calls: also a content that is no text, as it is."""
    return {
        name: value
        for name, value in message.items()
        if name != "tool_calls" and not (name == "content" and value is not None and value == text != "")
    }


def _extra_fields_of(
    delta: Mapping[str, Any], choice: Mapping[str, Any], reply: Mapping[str, Any]
) -> ExtraFields | None:
    return ExtraFields(delta, choice, reply) if delta or choice or reply else None


def _with_texts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message or delta with JSON text for what came as an object: a content that follows a schema, and the arguments
    of a call in OpenAI's older form."""
    if isinstance(message.get("content"), dict):
        message = {**message, "content": argument_text(message["content"])}
    call = message.get("function_call")
    if not isinstance(call, dict) or isinstance(call.get("arguments", ""), str):
        return message
    return {**message, "function_call": {**call, "arguments": argument_text(call["arguments"])}}


def _tells(fields: Mapping[str, Any]) -> bool:
    """Whether there is more than a role and nothings in them."""
    return any(value for name, value in fields.items() if name != "role")


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message or delta; of content in parts, that of its text parts."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = _objects(content, "content")
    texts = [part.get("text") for part in parts if part.get("type", "text") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise misshapen("content with a part whose text is none")
    return "".join(str(text) for text in texts)


def _choice_fields(choice: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any]]:
    """The log-probabilities of a choice's tokens, and whatever else it names."""
    if problem := choice.get("error"):
        raise failure({"error": problem})
    fields = {name: value for name, value in choice.items() if name not in _NAMED_IN_CHOICE}
    if not (logprobs := choice.get("logprobs")):
        return (), fields
    entries = _object(logprobs, "logprobs").get("content")
    others = {name: value for name, value in logprobs.items() if name != "content" and value is not None}
    if others:
        fields["logprobs"] = others
    return _objects(entries, "logprobs.content") if entries else (), fields


def _finish_reason(choice: Mapping[str, Any], fields: dict[str, Any]) -> str:
    """Raises EngineError: the server gave the answer up. An empty reason is none, and stays among the fields."""
    reason = choice["finish_reason"]
    if not isinstance(reason, str):
        raise misshapen("a finish_reason that is no text")
    if reason in FAILED:
        message = f"the upstream gave the answer up: finish_reason {reason!r}"
        raise EngineError(message, reason=message)
    if not reason:
        fields["finish_reason"] = reason
    return reason


def _object(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return NO_FIELDS
    if type(value) is not dict:
        raise misshapen(f"{name} that is no object")
    return value


def _objects(value: object, name: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise misshapen(f"{name} that is no list of objects")
    return value


def _index(choice: Mapping[str, Any], place: int, asked: int) -> int:
    index = whole_number(choice.get("index"))
    if index is None:
        return place
    if type(index) is not int or not 0 <= index < asked:
        wanted = "one answer was" if asked == 1 else f"{asked} answers were"
        raise misshapen(f"an answer of index {str(index)[:20]} where {wanted} asked for")
    return index


def _without_gaps(indexes: Collection[int]) -> None:
    """Raises EngineError where one answer came and an earlier one did not: nobody makes that up."""
    if missing := set(range(max(indexes))) - set(indexes):
        raise misshapen(f"no answer of index {min(missing)}, but a later one")


def _usage(usage: object) -> Usage:
    """What an answer took; None, and what it does not name, is unknown. Counts are whole numbers, also where they were
    written with a point (11.0) or as text; all else stays as it came."""
    if usage is None:
        return UNKNOWN_USAGE
    if type(usage) is not dict:
        raise misshapen("usage that is no object")
    told = {**usage, **{name: _count(usage[name], f"usage.{name}") for name in usage if name in _COUNTS}}
    for name in _DETAILS & usage.keys():
        details = _object(usage[name], f"usage.{name}")
        counts = {each: _count(details[each], f"usage.{name}.{each}") for each in details if each.endswith("_tokens")}
        told[name] = usage[name] and {**details, **counts}
    return Usage(told.get("prompt_tokens"), told.get("completion_tokens"), told)


def _count(count: Any, place: str) -> int | None:
    count = whole_number(count)
    if count is not None and (type(count) is not int or not 0 <= count < _TOO_MANY_TOKENS):
        raise misshapen(f"{place} = {str(count)[:40]}, which is no number of tokens")
    return count
