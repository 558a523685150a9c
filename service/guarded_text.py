"""The texts that guards search in JSON-like values: all of them, names of fields too, also as they read once decoded.

A text may be JSON itself (the arguments of a tool call), and spell characters as escapes: it is searched as it is, and
as it reads without them. Other encodings (base64, percent, another alphabet) are not undone.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmops.json_schema import is_shallow
from llmops.text_patterns import redact

MOST_LAYERS = 8
"""JSON inside of JSON texts, and escapes of escapes, are undone so often."""

_ESCAPES = re.compile(r"(?:\\+u[0-9a-fA-F]{4})+|\\/")
_UNIT = re.compile(r"\\+u([0-9a-fA-F]{4})")


def texts_in(value: Any, layers: int = MOST_LAYERS) -> Iterator[str]:
    """Every text inside a value: names, texts, numbers as they are written, and what texts say once decoded."""
    if isinstance(value, str):
        yield value
        if layers and (inner := _decoded(value)) is not None:
            yield from texts_in(inner, layers - 1)
        elif layers and (plain := _unescaped(value)) != value:
            yield from texts_in(plain, layers - 1)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from texts_in(name, layers)
            yield from texts_in(item, layers)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item, layers)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def redacted(value: Any, layers: int = MOST_LAYERS) -> tuple[Any, int]:
    """A copy with personal data replaced in all that `texts_in` gives; and how many pieces there were.

    A text that hides some behind escapes is written anew, without them.
    """
    if isinstance(value, str):
        return _redacted_text(value, layers)
    if isinstance(value, Mapping):
        copy: dict[Any, Any] = {}
        total = 0
        for name, item in value.items():
            shown, in_name = redacted(name, layers) if isinstance(name, str) else (name, 0)
            while in_name and shown in copy:  # two names that read alike now are still two
                shown = f"{shown}'"
            copy[shown], in_item = redacted(item, layers)
            total += in_name + in_item
        return copy, total
    if isinstance(value, (list, tuple)):
        items = [redacted(item, layers) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    if isinstance(value, int) and not isinstance(value, bool):
        text, count = redact(str(value))
        return (text, count) if count else (value, 0)
    return value, 0


def _redacted_text(text: str, layers: int) -> tuple[str, int]:
    if layers and (inner := _decoded(text)) is not None:
        changed, count = redacted(inner, layers - 1)
        if count:
            return orjson.dumps(changed).decode(), count
    plain, count = redact(text)
    if layers and (unescaped := _unescaped(text)) != text:
        changed, more = _redacted_text(unescaped, layers - 1)
        if more > count:
            return changed, more
    return plain, count


def _decoded(text: str) -> Any:
    """The object or list that a text is as JSON; None for any other text, and for JSON nested too deep."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if is_shallow(value) else None


def _unescaped(text: str) -> str:
    r"""The text with `\u0041` and `\/` read as JSON reads them: for JSON that was cut off, or is none."""
    return _ESCAPES.sub(_characters, text) if "\\" in text else text


def _characters(found: re.Match[str]) -> str:
    if found[0] == "\\/":
        return "/"
    units = b"".join(int(unit, 16).to_bytes(2, "big") for unit in _UNIT.findall(found[0]))
    return units.decode("utf-16-be", errors="replace")
