"""One request that reached a model: what was asked, what has come out so far, and the log record of it."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import orjson

from llmops.engines.answer import Answer, off_format
from llmops.engines.protocol import Engine, adapt_request
from llmops.errors import EngineError, EngineRejected, UsageError
from llmops.generation import UNKNOWN_USAGE, Chunk, GenerationParameters, GenerationRequest, Message
from llmops.keys import Key
from llmops.production_log import LogRecord, hidden_if_redacted
from llmops.versions import PromptVersion
from service.access import ANONYMOUS
from service.error_map import ApiError
from service.guards import Guards
from service.request_context import is_own_request_id
from service.schemas import MOST_ANSWERS
from service.snapshot import Target

COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
"""OpenAI's names of the counts that every server has."""

_BYTES_OF_A_TOKEN = 3


def estimated_tokens(value: Any) -> int:
    """About how many tokens a text has, or the texts of JSON values: one for every three bytes. Languages and
    vocabularies differ; English has fewer, rare scripts more."""
    size = len(value.encode(errors="replace")) if isinstance(value, str) else len(orjson.dumps(value, default=str))
    return -(-size // _BYTES_OF_A_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """What a client asked, whatever route it came by.

    route: `chat`, `completions` or `responses`, for the log.
    model: what names the target, as the client sent it.
    messages: the conversation; a raw prompt is one user message.
    sent: the generation parameters that the client sent, by the names of `GenerationParameters`; others are the
    release's.
    extras: of `llmops.engines.protocol.EXTRAS`, those sent with an effect: an engine that does not honour one refuses
    the request by its name.
    prompt_variables: fill the template besides its input variable.
    include_usage: the stream ends with token counts.
    user, metadata: the client's own, for the log; `user` keeps a client on one side of a canary.
    target: what must serve it, when the route has chosen already, else None.
    """

    route: str
    model: str
    messages: tuple[Message, ...]
    sent: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    prompt_variables: Mapping[str, str] | None = None
    stream: bool = False
    include_usage: bool = False
    user: str | None = None
    metadata: Mapping[str, str] | None = None
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a request came: its x-request-id, when by the clock and by `time.perf_counter`, from whom."""

    request_id: str
    at: datetime
    start: float
    caller: Key = ANONYMOUS
    headers: Mapping[str, str] = field(default_factory=dict)
    """To hand on to an upstream server, such as `traceparent`."""

    @property
    def key_id(self) -> str | None:
        """The public id of the caller's key; None where no key was needed."""
        return self.caller.id or None

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since then."""
        return (time.perf_counter() - self.start) * 1000

    def record(self, status: int, outcome: str, details: Mapping[str, Any], **fields: Any) -> LogRecord:
        """The request's record as of now. details: those without a value are left out."""
        known = {name: value for name, value in details.items() if value is not None}
        about: dict[str, Any] = {"latency_ms": self.elapsed_ms, "caller": self.key_id, "details": known}
        return LogRecord(self.request_id, self.at, status, outcome, **about, **fields)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """From what the middlewares keep in a scope's state."""
        return cls(
            state["request_id"],
            state["at"],
            state["start"],
            state.get("caller", ANONYMOUS),
            state.get("upstream_headers") or {},
        )


class Exchange:
    """Collects the answers to one request as they are made.

    target: what serves the request; it is never looked up again.
    fields: what an upstream says beside the answers, by its own names.
    off_format: which rule an upstream's answers break of the format that was asked for.
    arm: which side of a traffic policy that is (`champion`, `challenger`, `explicit`).
    last_record: what was handed to the log.
    """

    def __init__(
        self, arrival: Arrival, request: AnswerRequest, target: Target, guards: Guards, arm: str | None = None
    ) -> None:
        self.arrival, self.request, self.target, self.guards, self.arm = arrival, request, target, guards, arm
        self.answers = [Answer()]
        self.usage = UNKNOWN_USAGE
        self._parameters: GenerationParameters | None = None
        self._first_token_ms: float | None = None
        self._queued_s: float | None = None
        self._pieces = 0
        self.fields: dict[str, Any] = {}
        self.off_format: str | None = None
        self.last_record: LogRecord | None = None

    def prepare(self) -> GenerationRequest:
        """The request as the engine takes it, guarded. Raises ApiError 400 naming the field at fault."""
        asked, prompt = self.request, self.target.prompt
        headers = self.arrival.headers
        if self.guards.active:
            asked, headers = self._guarded_request()
        self._parameters = self.guards.bound(_parameters(asked.sent, self.target))
        messages: tuple[Message, ...] = asked.messages
        shared_prefix: tuple[Message, ...] = ()
        if prompt is not None:
            messages = _rendered(prompt, messages, asked.prompt_variables)
            shared_prefix = prompt.template.shared_prefix
        elif asked.prompt_variables:
            problem = f"prompt_variables: {self.target.ref} is a model version; only a release has a prompt to fill"
            raise ApiError(400, problem, param="prompt_variables")
        return GenerationRequest(messages, self._parameters, asked.extras, not asked.stream, headers, shared_prefix)

    def _guarded_request(self) -> tuple[AnswerRequest, Mapping[str, str]]:
        """What of the request, and of the headers to hand on, may go to the engine. Raises ApiError 400."""
        asked, headers = self.request, self.arrival.headers
        # What nobody wrote is not looked at: of 32 random digits, one in 140 ids has `bad` in it.
        written = {name: value for name, value in headers.items() if name != "traceparent"}
        whole = {"messages": asked.messages, "prompt_variables": asked.prompt_variables, "tracestate": written}
        request_id = None if is_own_request_id(self.arrival.request_id) else self.arrival.request_id
        kept = {"x-request-id": request_id, "user": asked.user, "metadata": asked.metadata}
        passed = self.guards.admit({**asked.sent, **asked.extras, **whole}, kept)
        # A header with something replaced in it is no header of its kind any more.
        replaced = {name for name, value in written.items() if passed["tracestate"].get(name) != value}
        unchanged = {name: value for name, value in headers.items() if name not in replaced}
        request = dataclasses.replace(
            asked,
            messages=tuple(passed["messages"]),
            prompt_variables=passed["prompt_variables"],
            sent={name: passed[name] for name in asked.sent},
            extras={name: passed[name] for name in asked.extras},
        )
        return request, unchanged

    @property
    def answers_hidden(self) -> bool:
        """Whether a guard keeps something of the answers out of the log."""
        return self.guards.active and self.guards.hides([_described(answer) for answer in self.answers])

    @property
    def tokens_used(self) -> int:
        """Tokens to charge for: what the engine counted; of an answer that was cut, at least its pieces. What nobody
        counted is estimated, once anything has come."""
        if not self._pieces:
            return max(0, self.usage.total or 0)
        read, made = self.usage.tokens_in, self.usage.tokens_out
        read = self._estimated_input if read is None else read
        made = estimated_tokens([_described(answer) for answer in self.answers]) if made is None else made
        return max(read + made, self._pieces)

    @property
    def most_tokens(self) -> int:
        """About the most tokens that the request can take: its conversation, estimated, and the longest answers."""
        try:
            longest = _parameters(self.request.sent, self.target).max_tokens
        except ApiError:
            return 0  # it will be refused
        most = self.guards.rules.max_output
        longest = longest if most is None else min(longest, most)
        return self._estimated_input + longest * int(self.request.extras.get("n", 1))

    @property
    def _estimated_input(self) -> int:
        asked, prompt = self.request, self.target.prompt
        template = 0 if prompt is None else estimated_tokens(prompt.template.turns)
        return template + estimated_tokens([asked.messages, asked.prompt_variables, asked.extras.get("tools")])

    async def collect(
        self, engine: Engine, request: GenerationRequest, pass_on: Callable[[Chunk], Awaitable[None]] | None = None
    ) -> None:
        """Takes the engine's answer to its end, or until guards have cut all of it.

        pass_on: gets each piece as guards let it through.

        Raises:
            ApiError: 400, naming the field that the engine cannot honour.
            EngineError: the engine fails.
        """
        try:
            request = adapt_request(request, engine, of=self.target.model.ref)
        except EngineRejected as error:
            raise ApiError(400, str(error), param=error.param) from error
        guards, wanted = self.guards, self.request.extras.get("n", 1)
        async with aclosing(engine.stream(request)) as chunks:
            async for chunk in chunks:
                passed = guards.screen(chunk) if guards.screening else chunk
                self.take(chunk, passed)
                if passed is not None and pass_on is not None:
                    await pass_on(passed)
                if guards.screening and guards.blocked_answers >= wanted:
                    return  # every answer is cut, so that nothing more can go out
        if request.parameters.response_format is not None and engine.identity.name == "openai":
            self.off_format = await asyncio.to_thread(off_format, request.parameters.response_format, self.answers)

    def take(self, made: Chunk, passed: Chunk | None) -> None:
        """Adds a piece of an answer: what the engine made, and what of it guards let through now."""
        self._pieces += 1
        self.usage = made.usage or self.usage
        if made.queued_s is not None:
            self._queued_s = made.queued_s
        if passed is None:
            return
        if self._first_token_ms is None and (passed.text or passed.tool_calls or passed.has_side_content):
            self._first_token_ms = self.arrival.elapsed_ms
        if passed.extra_fields is not None:
            self.fields.update(passed.extra_fields.reply)
        if not 0 <= passed.index < MOST_ANSWERS:
            raise EngineError(f"the engine sent a piece of answer number {passed.index}")
        while passed.index >= len(self.answers):
            self.answers.append(Answer(len(self.answers)))
        self.answers[passed.index].take(passed)

    def record(self, status: int, outcome: str, error: str | None = None) -> LogRecord:
        """The log record as of now.

        status: what the client was, or would have been, told: an error in the middle of a stream comes after a 200
        was sent, and a client that has gone (499) reads nothing.
        """
        release, prompt = self.target.release, self.target.prompt
        asked = next((m["content"] for m in reversed(self.request.messages) if m["role"] == "user"), "")
        record = LogRecord(
            request_id=self.arrival.request_id,
            at=self.arrival.at,
            status=status,
            outcome=outcome,
            input=_storable(asked),
            output=_storable(self.answers[0].text),
            release=release.ref if release is not None else None,
            prompt=prompt.ref if prompt is not None else None,
            model=self.target.model.ref,
            tokens_in=self.usage.tokens_in,
            tokens_out=self.usage.tokens_out,
            latency_ms=self.arrival.elapsed_ms,
            first_token_ms=self._first_token_ms,
            details=self._details(status, error),
            route=self.request.route,
            caller=self.arrival.key_id,
            user=self.request.user,
        )
        return self._guarded(record) if self.guards.active else record

    def _guarded(self, record: LogRecord) -> LogRecord:
        """The record without what a guard keeps out of the log, and with what the guards did."""
        details: dict[str, Any] = dict(record.details)
        if self.guards.rules.redact_log:
            details = self.guards.redacted_for_log({"input": record.input, "output": record.output, **details})
            texts = {"input": details.pop("input"), "output": details.pop("output")}
            record = dataclasses.replace(record, **texts, user=hidden_if_redacted(record.user, details.get("user")))
        if self.guards.actions:
            details["guards"] = self.guards.actions
        return dataclasses.replace(record, details=details)

    def _details(self, status: int, error: str | None) -> dict[str, Any]:
        asked, first = self.request, self.answers[0]
        missing = asked.extras.get("n", 1) - len(self.answers)
        counts = (self.usage.reported or {}).items()
        optional = {
            "error": error,
            "user": asked.user,
            "metadata": asked.metadata,
            "prompt_variables": asked.prompt_variables,
            "extras": {name: value for name, value in asked.extras.items() if name not in ("user", "metadata")} or None,
            "arm": self.arm,
            "estimated_tokens": self.tokens_used if self._pieces and self.usage.total is None else None,
            "queue_ms": None if self._queued_s is None else round(1000 * self._queued_s, 3),
            "key": self.arrival.key_id,
            **_said_beside(first),
            "upstream": {name: value for name, value in self.fields.items() if value is not None} or None,
            # What a server counted beyond the tokens that the record has fields for.
            "usage": {name: count for name, count in counts if name not in COUNTS and count is not None} or None,
            "off_format": self.off_format,
            "missing_answers": missing if status == 200 and missing > 0 and not self.guards.blocked_answers else None,
            "other_answers": [_described(answer) for answer in self.answers[1:]] or None,
        }
        return {
            "route": asked.route,
            "stream": asked.stream,
            "messages": list(asked.messages),
            "parameters": self._parameters.to_mapping() if self._parameters is not None else None,
            "finish_reason": first.finish_reason,
            **{name: value for name, value in optional.items() if value is not None},
        }


def _parameters(sent: Mapping[str, Any], target: Target) -> GenerationParameters:
    if target.release is not None:
        base = target.release.parameters
    else:
        base = target.prompt.template.parameters if target.prompt is not None else GenerationParameters()
    if not sent:
        return base
    try:
        # The release's own values were checked when it was made.
        checked = GenerationParameters.from_mapping(sent)
        return dataclasses.replace(base, **{name: getattr(checked, name) for name in sent})
    except UsageError as error:
        raise ApiError(400, str(error), param=str(error).partition(":")[0]) from error


def _rendered(
    prompt: PromptVersion, conversation: tuple[Message, ...], variables: Mapping[str, str] | None
) -> tuple[Message, ...]:
    """The conversation in the prompt's template. What follows the last user message, the model's tool calls and what
    the tools said, stays behind it."""
    end = len(conversation)
    if conversation[-1]["role"] == "tool":
        end = max((at for at, message in enumerate(conversation, 1) if message["role"] == "user"), default=end)
    try:
        filled = prompt.template.render_conversation(conversation[:end], variables)
    except UsageError as error:
        name = str(error).partition(":")[0]
        param = name if name == "messages" else f"prompt_variables.{name}"
        raise ApiError(400, str(error), param=param) from error
    if (speaker := conversation[end - 1].get("name")) and filled[-1]["role"] == "user":
        filled = (*filled[:-1], Message(**{**filled[-1], "name": speaker}))
    return (*filled, *conversation[end:])


def _described(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"output": answer.text, "finish_reason": answer.finish_reason}
    return {**described, **{name: value for name, value in _said_beside(answer).items() if value is not None}}


_TOLD_BY_NAME = frozenset({"role", "refusal", "reasoning_content", "reasoning", "thinking"})


def _said_beside(answer: Answer) -> dict[str, Any]:
    """What the log tells of an answer besides its text. fields: those of message and choice without a name here."""
    fields = {**answer.choice, **answer.fields}
    rest = {name: value for name, value in fields.items() if value not in (None, [], "") and name not in _TOLD_BY_NAME}
    return {
        "tool_calls": answer.tool_calls or None,
        "refusal": answer.refusal,
        "reasoning": answer.reasoning,
        "fields": rest or None,
    }


def _storable(text: str) -> str:
    # PostgreSQL's text type holds every character but this one.
    return text.replace("\0", "\ufffd")
