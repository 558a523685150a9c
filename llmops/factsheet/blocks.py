"""The plain blocks that a sheet is laid out in, and how values stand in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.factsheet.contents import Metric
from llmops.factsheet.times import spoken

NOT_ON_RECORD = "not on record"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    caption: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in `#` are numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Means:
    """Means with 95 % intervals. rows: (what, a word beside it, the metric)."""

    caption: str
    rows: tuple[tuple[str, str, Metric], ...]


@dataclass(frozen=True, slots=True)
class Points:
    """Sentences, as a list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A text from outside, kept as it is."""

    caption: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence."""

    text: str


Block = Facts | Table | Means | Points | Quoted | Note


@dataclass(frozen=True, slots=True)
class Section:
    """A part under a heading. name: what links point at."""

    name: str
    heading: str
    blocks: tuple[Block, ...]


def time_or_unknown(at: str | None) -> str:
    """A time as readers write it."""
    return spoken(at) or NOT_ON_RECORD


def shown_value(value: Any) -> str:
    """A value of parameters and the like: text as it is, what has parts as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, Sequence, bool)) or value is None:
        return json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)
