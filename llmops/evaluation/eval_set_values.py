"""Values of a row as JSON has them, whatever the file had: a typed file has dates, decimals and bytes as well."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from llmops.errors import UsageError

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NAMES = ((bytes, "bytes"), (timedelta, "a duration"))


def plain(value: Any, field: str) -> Any:
    """The value as JSON has it. Dates, times and UUIDs become text; a decimal becomes the number that the same digits
    are in JSON.

    field: of the row, for errors.

    Raises:
        UsageError: JSON has no such value (bytes, a duration, NaN); starts with the field's name.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UsageError(f"{field}: has the name {name!r}, which is no text")
        return {name: plain(item, f"{field}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{field}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            raise UsageError(f"{field}: is {value}, which JSON does not have")
        whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
        return int(value) if whole else float(value)
    if isinstance(value, (date, time, UUID)):
        return as_text(value)
    kind = next((name for type_, name in _NAMES if isinstance(value, type_)), f"a {type(value).__name__}")
    raise UsageError(f"{field}: is {kind}, which JSON cannot hold")


def as_text(value: Any) -> Any:
    """Numbers, truth values and dates as text; anything else as it is, for the row's own checks to judge."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (int, float, Decimal)):
        return str(value) if math.isfinite(value) else value
    return str(value) if isinstance(value, UUID) else value


def as_messages(value: Any) -> Any:
    """Messages without the fields that chat data sets add (`name`, `tool_calls` …)."""
    if not isinstance(value, list):
        return value
    wanted = ("role", "content")
    return [{name: item[name] for name in wanted if name in item} if isinstance(item, dict) else item for item in value]


def without_nulls(values: Any, field: str) -> Any:
    """An object without its fields that are null: a typed table has every column in every row.

    Raises:
        UsageError: the name of a field holds what no store keeps; starts with `field`.
    """
    if not isinstance(values, Mapping):
        return values
    present = {name: value for name, value in values.items() if value is not None}
    for name in present:
        if _UNSTORABLE.search(str(name)):
            raise UsageError(f"{field}: the name {name!r} holds a character that no store keeps")
    return present
