"""Checks of scorers' parameters: each gives the value back, or raises a UsageError that begins with its name."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from llmops.errors import UsageError

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: must be true or false, not {value!r}")
    return value


def one_of(name: str, value: Any, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(f"{name}: must be one of {', '.join(allowed)}, not {value!r}")
    return value


def number(name: str, value: Any) -> float:
    """A finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{name}: must be a number of 0 or more, not {value!r}")
    return float(value)


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: must be a whole number from {least} to {most}, not {value!r}")
    return value


def texts(name: str, value: Any) -> list[str]:
    """A list of at least one text, none of them blank."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{name}: must be a list of texts, not {value!r}")
    if any(not item.strip() for item in value):
        raise UsageError(f"{name}: must hold no empty text")
    return list(value)


def regular_expression(name: str, value: Any, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name}: must be a regular expression, not {value!r}")
    try:
        return re.compile(value, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{name}: {value!r} is no regular expression: {error}") from error


def regular_expression_flags(name: str, value: Any) -> re.RegexFlag:
    """The flags of `re` by their letters: i (case), m (lines), s (dot takes line ends), x (spaces mean nothing)."""
    if not isinstance(value, str) or not set(value) <= _FLAGS.keys():
        raise UsageError(f"{name}: must be letters out of {', '.join(_FLAGS)}, not {value!r}")
    flags = re.NOFLAG
    for letter in value:
        flags |= _FLAGS[letter]
    return flags
