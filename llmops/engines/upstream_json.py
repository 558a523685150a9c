"""JSON as servers send it, read as their clients read it: also where it is not JSON by the letter."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from llmops.errors import EngineError
from llmops.json_schema import MOST_NESTED, is_shallow

_Place = tuple[str | int, ...]


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
            raise _too_deep(what)
        return value if letter and not self._halves else self._mended(value, ())

    def _mended(self, value: Any, place: _Place) -> Any:
        if isinstance(value, str):
            return self._text(value, place)
        if isinstance(value, dict):
            return {_characters(name): self._mended(item, (*place, name)) for name, item in value.items()}
        if isinstance(value, list):
            numbers = [item.get("index", at) if isinstance(item, dict) else at for at, item in enumerate(value)]
            return [self._mended(item, (*place, str(at))) for at, item in zip(numbers, value, strict=True)]
        return value

    def _text(self, text: str, place: _Place) -> str:
        text = self._halves.pop(place, "") + text
        if self._streamed and "\ud800" <= text[-1:] <= "\udbff":
            self._halves[place] = text[-1]
            text = text[:-1]
        return _characters(text)


def _loosely(data: bytes, what: str) -> Any:
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding, errors="surrogatepass")
    except UnicodeDecodeError:
        text = data.decode(encoding, errors="replace")
    try:
        return json.loads(text, parse_constant=_nothing, parse_float=_number, parse_int=_whole_number)
    except RecursionError as error:
        raise _too_deep(what) from error
    except ValueError as error:
        message = f"the upstream sent {what} that is not JSON"
        raise EngineError(message, reason=message) from error


def _nothing(_: str) -> None:
    return None


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole_number(text: str) -> float | int | None:
    # From 20 digits on it may be more than can be written again.
    return int(text) if len(text) < 19 else _number(text)


def _characters(text: str) -> str:
    """Halves that follow each other as one character; others as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _too_deep(what: str) -> EngineError:
    message = f"the upstream sent {what} that is not flat enough: more than {MOST_NESTED} levels"
    return EngineError(message, reason=message)
