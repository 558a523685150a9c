"""Tool calls of other servers in the one shape that clients read: each has a place from 0 up, an id, a type, a name,
and its arguments as JSON text. Whatever else a server puts into a call stays in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmops.engines.upstream_wire import misshapen


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
        found = [call for call in self._calls if number is None or call.number == number]
        if not found:
            return self._begin(number)
        last = found[-1]
        if identity:
            same = [call for call in found if call.sent_id == identity]
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
