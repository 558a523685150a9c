"""Guards: what a release lets through, in and out, and into the log. Opt-in, by the release's `guards`.

`redact_log` keeps personal data out of the record, `redact_engine` also out of what the engine reads; `block` refuses
input and cuts output that one of its patterns finds; `max_output` bounds the tokens of an answer. A guard that cannot
do its work (a pattern that takes too long, a text too long to search) acts as if it had found something.

All that goes to the engine or into the log is searched: messages, tool calls and their arguments decoded, descriptions
and schemas of tools and formats, `stop`, variables, metadata, names of fields, the client's own x-request-id, the trace
state (`service.guarded_text`). Each text is searched by itself: what is split over two turns, or over a variable and
the template around it, is not found.

In a stream, text is held back from where a pattern may be beginning to match, so that nothing of a match is sent.
Limits: of a match longer than MOST_HELD characters the beginning goes out before its end is seen; look-behind sees
CONTEXT characters; `$` matches at the end of the answer; what comes beside the text (arguments of tool calls, refusals,
reasoning) is searched, but not held back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
import regex

from llmops.generation import Chunk, GenerationParameters
from llmops.versions import Release
from service.error_map import ApiError
from service.guarded_text import redacted, texts_in

MOST_HELD = 512
"""Characters of a stream held back while they may be the beginning of a match."""

MOST_SEARCHED = 200_000
"""Characters of one text that block patterns search; a longer one is refused."""

SEARCH_SECONDS = 0.05
"""How long one pattern may search one text. It is also the longest that a pattern can hold up other requests."""

SEARCHES = 4
"""How often a search that took too long is begun, where the machine was busy with something else."""

SEARCH_ALL_SECONDS = 0.5
"""How much of a processor's time all patterns may take to search all texts of one request."""

CONTEXT = 64
"""Characters already sent that look-behind in a pattern still sees."""

CONTENT_FILTER = "content_filter"


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A place where pattern number `pattern` finds something, or why a text counts as if one did (`failure`)."""

    pattern: int | None = None
    start: int = 0
    end: int = 0
    failure: str | None = None

    def described(self) -> dict[str, Any]:
        values = {"pattern": self.pattern, "failure": self.failure}
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class GuardRules:
    """A release's guards, compiled once; empty rules guard nothing. max_output: the most tokens of an answer."""

    redact_log: bool = False
    redact_engine: bool = False
    block: tuple[regex.Pattern[str], ...] = ()
    max_output: int | None = None

    @classmethod
    def of(cls, guards: Mapping[str, Any]) -> GuardRules:
        """Raises ValueError for guards that this gateway does not know or cannot compile."""
        if unknown := guards.keys() - {item.name for item in dataclasses.fields(cls)}:
            raise ValueError(f"unknown guards: {', '.join(sorted(unknown))}")
        try:
            block = tuple(regex.compile(source) for source in guards.get("block") or ())
        except regex.error as error:
            raise ValueError(f"block: {error}") from error
        return cls(bool(guards.get("redact_log")), bool(guards.get("redact_engine")), block, guards.get("max_output"))


def guards_for(release: Release | None) -> Guards:
    """Fresh guards for one request. Raises ApiError 503 when the release's cannot be applied."""
    if release is None or not release.guards:
        return Guards(_NO_RULES)
    try:
        return Guards(_compiled(orjson.dumps(dict(release.guards))))
    except ValueError as error:
        message = f"{release.ref} has guards that this gateway cannot apply"
        raise ApiError(503, message, kind="server_error", code="guards") from error


@lru_cache(maxsize=1000)
def _compiled(guards: bytes) -> GuardRules:
    return GuardRules.of(orjson.loads(guards))


class Guards:
    """The guards of one request.

    actions: what they have done, in the shape that the log keeps. screening: whether answers must go through `screen`.
    """

    __slots__ = ("_screens", "actions", "rules", "screening")

    def __init__(self, rules: GuardRules) -> None:
        self.rules = rules
        self.screening = bool(rules.block)
        self._screens: dict[int, _Screen] = {}
        self.actions: list[dict[str, Any]] = []

    @property
    def active(self) -> bool:
        """Whether there is anything to guard."""
        return self.rules is not _NO_RULES

    def bound(self, parameters: GenerationParameters) -> GenerationParameters:
        """The parameters, with `max_tokens` no larger than the guard allows."""
        most = self.rules.max_output
        if most is None or parameters.max_tokens <= most:
            return parameters
        self.actions.append({"guard": "max_output", "where": "parameters", "asked": parameters.max_tokens})
        return dataclasses.replace(parameters, max_tokens=most)

    def admit(self, sent_on: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What may go on to the engine.

        sent_on: what the client wants to go there, by the name of its field. kept: what only the log gets.

        Raises ApiError: 400 `content_filter`, naming the field, when a pattern finds something in either.
        """
        self._refuse_if_blocked({**sent_on, **(kept or {})})
        if not self.rules.redact_engine:
            return dict(sent_on)
        passed, total = {}, 0
        for name, value in sent_on.items():
            # A number that stands by itself is a setting, such as a seed.
            passed[name], count = redacted(value) if isinstance(value, (str, Mapping, list, tuple)) else (value, 0)
            total += count
        self._note_redaction("input", total)
        return passed

    def hides(self, value: Any) -> bool:
        """Whether a value holds something that must stay out of the log."""
        return self.rules.redact_log and redacted(value)[1] > 0

    def feedback(self, texts: Mapping[str, Any]) -> dict[str, Any]:
        """What may be stored of an opinion on an answer. Raises ApiError 400 `content_filter`."""
        self._refuse_if_blocked(texts)
        return self.redacted_for_log(dict(texts)) if self.rules.redact_log else dict(texts)

    def screen(self, chunk: Chunk) -> Chunk | None:
        """What of a chunk may go out now, perhaps with text held back before; None when nothing may."""
        screen = self._screens.get(chunk.index)
        if screen is None:
            screen = self._screens[chunk.index] = _Screen(self.rules.block)
        if screen.closed:
            return None
        passed = screen.take(chunk)
        if screen.found is not None:
            self.actions.append({"guard": "block", "where": "output", "index": chunk.index, **screen.found.described()})
            passed = dataclasses.replace(passed or Chunk(""), index=chunk.index)
        # What follows may be held back, and this one would wait for it.
        return dataclasses.replace(passed, more=False) if passed is not None and passed.more else passed

    @property
    def blocked_answers(self) -> int:
        return sum(screen.found is not None for screen in self._screens.values())

    def redacted_for_log(self, values: dict[str, Any]) -> dict[str, Any]:
        """JSON values without personal data in any of their texts."""
        passed, count = redacted(values)
        self._note_redaction("log", count)
        return dict(passed)

    def _refuse_if_blocked(self, parts: Mapping[str, Any]) -> None:
        if not self.rules.block:
            return
        give_up_at = time.thread_time() + SEARCH_ALL_SECONDS
        for name, part in parts.items():
            for text in dict.fromkeys(texts_in(part)):
                match = _find(self.rules.block, text)
                if match is None and time.thread_time() > give_up_at:
                    match = _Found(failure="search took too long")
                if match is not None:
                    self.actions.append({"guard": "block", "where": "input", **match.described()})
                    message = "the request was refused by a content policy of this app"
                    raise ApiError(400, message, param=name, code=CONTENT_FILTER)

    def _note_redaction(self, where: str, count: int) -> None:
        if count:
            self.actions.append({"guard": "redact_pii", "where": where, "count": count})


class _Screen:
    """Looks for blocked patterns in one answer as it grows."""

    __slots__ = ("_beside", "_block", "_logprobs", "_search_from", "_sent", "_text", "closed", "found")

    def __init__(self, block: Sequence[regex.Pattern[str]]) -> None:
        self._block = block
        # The end of the answer: what was sent but may be part of a match, or seen by look-behind; then what is held.
        self._text, self._sent, self._search_from = "", 0, 0
        self._beside: dict[str, str] = {}
        self._logprobs: list[Mapping[str, Any]] = []
        self.closed = False
        self.found: _Found | None = None

    def take(self, chunk: Chunk) -> Chunk | None:
        if chunk.extra_fields is not None and chunk.extra_fields.delta.get("content"):
            # Content in parts would say the text a second time, and not held back.
            delta = {name: value for name, value in chunk.extra_fields.delta.items() if name != "content"}
            chunk = dataclasses.replace(chunk, extra_fields=chunk.extra_fields._replace(delta=delta))
        self._text += chunk.text
        self._logprobs += chunk.logprobs
        if found := self._find_beside(chunk):
            return self._cut(self._sent, found)
        end, held = len(self._text), len(self._text) - self._sent
        ends = chunk.finish_reason is not None
        start = end if ends else self._beginning_of_a_match()
        if found := _find(self._block, self._text, self._search_from):
            # What touches the end may become another word with the next piece, and then be no match.
            if ends or found.failure or found.end < end or held > MOST_HELD:
                return self._cut(found.start, found)
            start = min(start, found.start)
        return self._let_through(chunk, start)

    def _find_beside(self, chunk: Chunk) -> _Found | None:
        """Searches what comes in pieces beside the text, each put together: `refusal`, arguments of a tool call …"""
        values = {field.name: getattr(chunk, field.name) for field in dataclasses.fields(chunk)}
        for name in values.keys() - _SCREENED:
            for place, piece in _pieces(name, values[name]):
                whole = self._beside[place] = self._beside.get(place, "") + piece
                recent = whole[-len(piece) - MOST_HELD :]
                for text in texts_in(whole if whole[:1] in ("{", "[") else recent):
                    if found := _find(self._block, text):
                        return found
        return None

    def _let_through(self, chunk: Chunk, start: int) -> Chunk | None:
        """Sends what stands before `start`, from where a match may begin, and what is too much to hold."""
        send_to = max(start, len(self._text) - MOST_HELD, self._sent)
        text = self._text[self._sent : send_to]
        kept_from = max(0, min(start, send_to) - CONTEXT)
        self._text, self._sent = self._text[kept_from:], send_to - kept_from
        self._search_from = min(start, send_to) - kept_from
        self.closed = chunk.finish_reason is not None
        logprobs: tuple[Mapping[str, Any], ...] = ()
        if self._sent == len(self._text):
            logprobs, self._logprobs = tuple(self._logprobs), []
        if not (text or logprobs or chunk.tool_calls or chunk.extra_fields or self.closed):
            return None
        return dataclasses.replace(chunk, text=text, logprobs=logprobs)

    def _beginning_of_a_match(self) -> int:
        """The earliest place from where what comes next may complete a match."""
        start = len(self._text)
        for pattern in self._block:
            try:
                match = pattern.search(self._text, self._search_from, partial=True, timeout=SEARCH_SECONDS)
            except TimeoutError:
                return self._search_from
            if match is not None:
                start = min(start, match.start())
        return start

    def _cut(self, start: int, found: _Found) -> Chunk:
        """Ends the answer before a match."""
        self.closed, self.found = True, found
        return Chunk(self._text[self._sent : max(start, self._sent)], CONTENT_FILTER)


def _find(block: Sequence[regex.Pattern[str]], text: str, start: int = 0) -> _Found | None:
    """The earliest match of any pattern."""
    if len(text) > MOST_SEARCHED:
        return _Found(failure="text too long")
    earliest: _Found | None = None
    for position, pattern in enumerate(block):
        try:
            match = _search(pattern, text, start)
        except TimeoutError:
            return _Found(position, failure="search took too long")
        # A pattern that matches nothing at all would block everything.
        if match is not None and match.end() > match.start() and (earliest is None or match.start() < earliest.start):
            earliest = _Found(position, match.start(), match.end())
    return earliest


def _search(pattern: regex.Pattern[str], text: str, start: int) -> Any:
    """The first match. Raises TimeoutError, but not where this thread got no processor for much of the time."""
    for _ in range(SEARCHES - 1):
        began = time.thread_time()
        try:
            return pattern.search(text, start, timeout=SEARCH_SECONDS)
        except TimeoutError:
            if time.thread_time() - began > SEARCH_SECONDS / 2:
                raise
    return pattern.search(text, start, timeout=SEARCH_SECONDS)


def _pieces(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Texts in a value, and where they belong: pieces of one place follow each other."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _pieces(f"{place}.{name}", item)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            own = item.get("index", number) if isinstance(item, Mapping) else number
            yield from _pieces(f"{place}[{own}]", item)


_SCREENED = frozenset({"text", "finish_reason", "logprobs", "usage"})
"""Fields of a chunk that are held back with the text, or hold no text."""

_NO_RULES = GuardRules()
