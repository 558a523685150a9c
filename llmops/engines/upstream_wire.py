"""What upstream servers send: events from bytes as they arrive, in pieces of any size, and JSON, however sloppy."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import orjson

from llmops.errors import EngineError
from llmops.json_schema import MOST_NESTED, is_shallow

_BOM = b"\xef\xbb\xbf"
_Place = tuple[str | int, ...]
_TOO_DEEP = f"that is not flat enough: more than {MOST_NESTED} levels"


class SentEvent(NamedTuple):
    """One event: its `event:` name (empty for a plain message) and its data."""

    name: bytes
    data: bytes


class EventParser:
    """Splits a stream into events as the HTML standard says; however the bytes are cut, the events are the same.

    limit: most bytes of one event. An event counts when its blank line has come: one that is cut off never does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._skip_newline = False
        self._at_start = True

    def feed(self, piece: bytes) -> list[SentEvent]:
        """The events that end in `piece`. Events without data are none. Raises EngineError: one is too long."""
        if self._is_one_message(piece):
            self._at_start = False
            return [SentEvent(b"", piece[6:-2])]
        if self._skip_newline or b"\r" in piece:
            piece = self._with_plain_newlines(piece)
        # The blank line may have begun in the last piece. Nothing before that is searched twice.
        seen = max(0, len(self._rest) - 1)
        if self._rest:
            self._rest += piece
            if self._rest.find(b"\n\n", seen) < 0:
                return self._wait()
            piece = bytes(self._rest)
            self._rest.clear()
        *blocks, rest = piece.split(b"\n\n")
        self._rest += rest
        events = [event for block in blocks if (event := self._event(block)) is not None]
        return events + self._wait() if rest else events

    def rest(self) -> SentEvent | None:
        """At the end of the stream, an event that no blank line follows: by the standard it does not count."""
        return self._event(bytes(self._rest.removesuffix(b"\n")))

    def _is_one_message(self, piece: bytes) -> bool:
        """Whether this is the whole of the commonest event, as most servers send it: in a packet of its own."""
        return (
            piece.startswith(b"data: ")
            and piece.find(b"\n") == len(piece) - 2 > 6
            and piece.endswith(b"\n")
            and b"\r" not in piece
            and not self._rest
            and len(piece) - 2 <= self._limit
            and not self._skip_newline
        )

    def _wait(self) -> list[SentEvent]:
        if len(self._rest) > self._limit + 1:  # its last byte may be the first of the blank line
            raise self._too_long()
        return []

    def _too_long(self) -> EngineError:
        return misshapen(f"an event of more than {self._limit} bytes")

    def _with_plain_newlines(self, piece: bytes) -> bytes:
        """Every line ending as a line feed. One that is cut between its two characters counts once."""
        if self._skip_newline and piece:
            piece = piece.removeprefix(b"\n")
            self._skip_newline = False
        if piece.endswith(b"\r"):
            self._skip_newline = True
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event(self, block: bytes) -> SentEvent | None:
        if len(block) > self._limit:
            raise self._too_long()
        if self._at_start:
            block, self._at_start = block.removeprefix(_BOM), False
        if b"\n" not in block and block.startswith(b"data: ") and len(block) > 6:
            return SentEvent(b"", block[6:])
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"error":  # how llama.cpp's server told of one until 2025: in a field of that name
                name = field
                data.append(value)
        joined = b"\n".join(data)
        return SentEvent(name, joined) if joined else None


class UpstreamJson:
    """Reads the body of a reply, or the events of a stream one after another.

    Beyond JSON it takes a byte order mark, NaN and infinite numbers (as null), and text that is no Unicode: what is no
    character there is U+FFFD. A character whose two halves (UTF-16) came in two events is one again, in the later one.
    """

    def __init__(self, *, streamed: bool = False) -> None:
        self._streamed = streamed
        self._halves: dict[_Place, str] = {}  # what a text ended with, by its place in the event

    def read(self, data: bytes, what: str) -> object:
        """The value. Raises EngineError: it is no JSON, or nested too deep to be written again."""
        try:
            value, letter = orjson.loads(data), True
        except orjson.JSONDecodeError:
            value, letter = _loosely(data, what), False
        # Few events have so many brackets that they need a look.
        deep = not letter or data.count(b"{") + data.count(b"[") > MOST_NESTED
        if deep and isinstance(value, (dict, list)) and not is_shallow(value):
            raise misshapen(f"{what} {_TOO_DEEP}")
        return value if letter and not self._halves else self._mended(value, ())

    def _mended(self, value: Any, place: _Place) -> Any:
        if isinstance(value, str):
            value = self._halves.pop(place, "") + value
            if self._streamed and "\ud800" <= value[-1:] <= "\udbff":
                self._halves[place], value = value[-1], value[:-1]
            return _characters(value)
        if isinstance(value, dict):
            return {_characters(name): self._mended(item, (*place, name)) for name, item in value.items()}
        if isinstance(value, list):
            numbers = [item.get("index", at) if isinstance(item, dict) else at for at, item in enumerate(value)]
            return [self._mended(item, (*place, str(at))) for at, item in zip(numbers, value, strict=True)]
        return value


def _loosely(data: bytes, what: str) -> Any:
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding, errors="surrogatepass")
    except UnicodeDecodeError:
        text = data.decode(encoding, errors="replace")
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_number, parse_int=_whole_number)
    except RecursionError as error:
        raise misshapen(f"{what} {_TOO_DEEP}") from error
    except ValueError as error:
        raise misshapen(f"{what} that is not JSON") from error


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole_number(text: str) -> float | int | None:
    # From 20 digits on it may be more than can be written again.
    return int(text) if len(text) < 19 else _number(text)


def _characters(text: str) -> str:
    """Halves that follow each other as one character; others as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def misshapen(what: str) -> EngineError:
    """The error for an answer that is none; its message may be shown to clients."""
    message = f"the upstream sent {what}"
    return EngineError(message, reason=message)
