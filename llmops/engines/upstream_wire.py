"""What upstream servers send, however sloppy: events from bytes as they arrive, JSON, and tool calls.

Tool calls take the one shape that clients read: each has a place from 0 up, an id, a type, a name, and its arguments as
JSON text. Whatever else a server puts into a call stays in it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
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


class ToolCallReader:
    """Reads the calls of one answer, in the pieces of a stream or whole.

    Servers number calls from 0, from 1, not at all, or all with 0; some repeat id and name in every piece, or make up
    an id for every piece. So a new call begins with a new number, a new id that brings a name, or, where there are no
    ids, with a name after whole arguments. What was said once is not repeated, for clients put pieces together by
    appending.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def take(self, deltas: object) -> list[dict[str, Any]]:
        """The pieces, put right; a call without a name waits for it. Raises EngineError."""
        pieces = [self._call_of(delta).take(delta) for delta in _objects(deltas)]
        return [piece for piece in pieces if piece is not None]

    def take_whole(self, calls: object) -> list[dict[str, Any]]:
        """Calls that came in one piece: each is one by itself, whatever its number. One that names no arguments has
        none. Raises EngineError."""
        whole = [self._begin(None).take(call) or {} for call in _objects(calls)]
        for lacking in self.end():
            whole[lacking["index"]]["function"].update(lacking["function"])
        return whole

    def end(self) -> list[dict[str, Any]]:
        """The answer is over: the pieces that calls lack, for arguments that were never told are none, as in whole
        answers. Raises EngineError: a call has no name."""
        if any(call.held is not None for call in self._calls):
            raise misshapen("a tool call without a name")
        return [{"index": call.place, "function": {"arguments": "{}"}} for call in self._calls if call.lacks_arguments]

    def _call_of(self, delta: Mapping[str, Any]) -> _Call:
        number, identity = whole_number(delta.get("index")), _id(delta)
        if number is not None and type(number) is not int:
            raise misshapen("a tool call whose index is no number")
        of_number = [call for call in self._calls if number is None or call.number == number]
        if not of_number:
            return self._begin(number)
        last = of_number[-1]
        if identity:
            same = [call for call in of_number if call.sent_id == identity]
            goes_on = not last.sent_id or (number is not None and last.goes_on(_name(delta)))
            return same[-1] if same else last if goes_on else self._begin(number)
        return self._begin(number) if _name(delta) and last.name and last.is_whole else last

    def _begin(self, number: int | None) -> _Call:
        self._calls.append(_Call(len(self._calls), number))
        return self._calls[-1]


class _Call:
    """A call as far as it has come. place: among the answer's calls. number, sent_id: the server's own, if any.

    held: what came before its name, and goes out with it; None once it has.
    """

    __slots__ = ("_arguments", "_is_function", "held", "name", "number", "place", "sent_id")

    def __init__(self, place: int, number: int | None) -> None:
        self.place, self.number = place, number
        self.sent_id = self.name = ""
        self._arguments: list[str] = []
        self._is_function = False
        self.held: dict[str, Any] | None = {}

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are a JSON text: then what comes next may be another call."""
        try:
            orjson.loads("".join(self._arguments))
        except orjson.JSONDecodeError:
            return False
        return True

    @property
    def lacks_arguments(self) -> bool:
        """Whether it is a function's, and nothing was said of its arguments."""
        return self._is_function and not any(self._arguments)

    def goes_on(self, name: str) -> bool:
        """Whether a piece with a new id, of the same number and of this name, is none of a new call."""
        same = name == self.name and any(self._arguments) and not self.is_whole
        return bool(self.name) and (not name or same)

    def take(self, delta: Mapping[str, Any]) -> dict[str, Any] | None:
        """The next piece of the call, put right; None while it has no name. Raises EngineError."""
        piece = {
            name: value for name, value in delta.items() if name not in ("index", "id") and value not in (None, "")
        }
        if (identity := _id(delta)) and not self.sent_id:
            self.sent_id = piece["id"] = identity
        if "function" in piece:
            self._is_function = True
            piece["function"] = self._function(piece["function"])
        name = _name(piece)
        self.name += name
        if self.held is None:
            return {"index": self.place, **piece} if piece else None
        arguments = (self.held.get("function") or {}).get("arguments", "")
        self.held.update(piece)
        if arguments and "function" in piece:
            self.held["function"] = {**piece["function"], "arguments": arguments + piece["function"]["arguments"]}
        if not self.name:
            return None
        held, self.held = self.held, None
        return {
            "index": self.place,
            "id": held.pop("id", "") or f"call_{os.urandom(12).hex()}",
            "type": "function",
            **held,
        }

    def _function(self, function: object) -> dict[str, Any]:
        if not isinstance(function, dict):
            raise misshapen("a tool call whose function is no object")
        arguments = argument_text(function.get("arguments"))
        self._arguments.append(arguments)
        told = {**function, "arguments": arguments}
        if not told.get("name") or told["name"] == self.name:
            told.pop("name", None)
        return told


def argument_text(arguments: Any) -> str:
    """A call's arguments as the JSON text that clients read, whatever a server made of them."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


def whole_number(value: Any) -> Any:
    """A number that some servers write with a point, or as text; what is none stays as it came."""
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return value


def _id(call: Mapping[str, Any]) -> str:
    """A call's id, which some servers send as a number; empty where there is none."""
    identity = call.get("id")
    return str(identity) if type(identity) in (str, int) else ""


def _name(call: Mapping[str, Any]) -> str:
    """The name that a piece of a call tells: of a function, or of a tool of another type."""
    told = call.get("function") or call.get(str(call.get("type")))
    name = told.get("name") if isinstance(told, dict) else None
    if name is not None and not isinstance(name, str):
        raise misshapen("a tool call whose name is no text")
    return name or ""


def _objects(value: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise misshapen("a tool call that is no object in a list")
    return value
