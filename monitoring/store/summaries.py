"""What a set of rows is like, in a form that can be added up: the summary of a month is the sum of its hours'.

A summary of all rows equals the merged summaries of its parts, in whatever order: counts exactly, sums (float64) to a
relative 1e-12. Only what is stored is limited (`Summary.limited`): of a label descriptor the 200 most frequent
labels of an hour, the others counted together under OTHER.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.production_log.tables import storable
from monitoring.store.packed_summaries import (
    FLAGS,
    NUMBERS,
    Bins,
    Integers,
    Packed,
    Schema,
    bins_of,
    from_bytes,
    merged,
    middle_of,
    summed_numbers,
    to_bytes,
)
from monitoring.store.rows import Column, DescribedRows, present

if TYPE_CHECKING:
    from monitoring.descriptors import DescriptorSet
    from monitoring.descriptors.model import Descriptor

OTHER = "(other)"
MOST_LABELS = 200
LABEL_CHARACTERS = 200
_AT_ONCE = 64  # summaries merged in one step: enough for arrays to pay, and memory is bounded by it
_ROUNDING = 1e-12  # of sums that were added up in another order


@dataclass(eq=False)
class NumberSummary:
    """n numbers, as float32. Two are equal when only rounding tells their sums apart.

    minimum, maximum: inf and -inf without numbers.
    bins, counts: the filled bins of the grid of `packed_summaries`, ascending, and the numbers in each.
    """

    n: int = 0
    total: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    bins: Bins = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    counts: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, values: Column | Sequence[float]) -> NumberSummary:
        """Of the finite ones among the values."""
        given = np.asarray(values, dtype=np.float32)
        given = given[np.isfinite(given)]
        (number,), bins, counts = summed_numbers(given, bins_of(given), np.zeros(len(given), dtype=np.int64), 1)
        n, total, minimum, maximum, _ = number.tolist()
        return cls(n, total, minimum, maximum, bins, counts)

    @property
    def mean(self) -> float:
        """NaN without numbers."""
        return self.total / self.n if self.n else math.nan

    def quantile(self, q: float) -> float:
        """The number below which the share q (0 to 1) lies, within its bin: at most 2.2 % off. NaN without numbers."""
        if not self.n:
            return math.nan
        rank = min(max(math.ceil(q * self.n), 1), self.n)
        place = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min(max(middle_of(int(self.bins[place])), self.minimum), self.maximum)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NumberSummary):
            return NotImplemented
        largest = max(abs(self.minimum), abs(self.maximum)) if self.n else 0.0
        return (
            (self.n, self.minimum, self.maximum) == (other.n, other.minimum, other.maximum)
            and np.array_equal(self.bins, other.bins)
            and np.array_equal(self.counts, other.counts)
            and abs(self.total - other.total) <= _ROUNDING * self.n * largest
        )


@dataclass
class FlagSummary:
    """n rows with a value, `hits` of them true."""

    n: int = 0
    hits: int = 0

    @classmethod
    def of(cls, values: Column | Sequence[float]) -> FlagSummary:
        given = np.asarray(values, dtype=np.float32)
        return cls(int((~np.isnan(given)).sum()), int((given > 0).sum()))

    @property
    def share(self) -> float:
        """NaN without rows."""
        return self.hits / self.n if self.n else math.nan


@dataclass
class LabelSummary:
    """How often each label was given."""

    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Column | Sequence[str | None]) -> LabelSummary:
        return cls(dict(Counter(label for value in values if (label := stored_label(value)) is not None)))

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def share(self, label: str) -> float:
        """Of all rows with a label; 0 without any."""
        return self.counts.get(label, 0) / max(self.n, 1)

    def limited(self) -> LabelSummary:
        """The MOST_LABELS most frequent labels, of equals the first by name; the others together under OTHER."""
        named = [(label, count) for label, count in self.counts.items() if label != OTHER]
        if len(named) <= MOST_LABELS:
            return self
        kept = dict(sorted(named, key=lambda item: (-item[1], item[0]))[:MOST_LABELS])
        return LabelSummary({**kept, OTHER: self.n - sum(kept.values())})


Part = NumberSummary | FlagSummary | LabelSummary
"""What a summary has of one descriptor."""


@dataclass
class Summary:
    """Some rows. first_at, last_at: seconds since the epoch, None without rows.

    numbers, flags, labels: by descriptor. versions: each descriptor's own version. Feedback stands among them as
    `feedback.score` and `feedback.label`, with as many values as were given, not as there are rows.
    """

    rows: int = 0
    first_at: float | None = None
    last_at: float | None = None
    numbers: dict[str, NumberSummary] = field(default_factory=dict)
    flags: dict[str, FlagSummary] = field(default_factory=dict)
    labels: dict[str, LabelSummary] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: DescribedRows, descriptors: DescriptorSet) -> Summary:
        """Of the descriptors that the rows have."""
        return Summariser(rows, descriptors.descriptors).by_group(np.zeros(len(rows), dtype=np.int64), 1)[0]

    @classmethod
    def merged(cls, parts: Iterable[Summary]) -> Summary:
        """Of all rows of the parts. Of a descriptor in two versions the version is `a+b`: not to be compared."""
        merge = SummaryMerge()
        for part in parts:
            merge.add(part)
        return merge.result()

    def part(self, name: str) -> Part | None:
        """Of one descriptor; None where it has none."""
        return self.numbers.get(name) or self.flags.get(name) or self.labels.get(name)

    def known(self, name: str) -> int:
        """How many rows have a value of the descriptor."""
        part = self.part(name)
        return 0 if part is None else part.n

    def limited(self) -> Summary:
        """As it is stored; see the module."""
        return replace(self, labels={name: summary.limited() for name, summary in self.labels.items()})

    def to_bytes(self) -> bytes:
        """Some 2 kB for 30 descriptors of an hour."""
        return to_bytes(self.to_packed())

    @classmethod
    def from_bytes(cls, data: bytes) -> Summary:
        """Reads `to_bytes`. Raises ValueError for anything else."""
        return cls.from_packed(from_bytes(data))

    def to_packed(self) -> Packed:
        numbers, flags = self.numbers.values(), self.flags.values()
        return Packed(
            schema=Schema(tuple(self.numbers), tuple(self.flags), tuple(sorted(self.versions.items()))),
            rows=self.rows,
            first_at=math.inf if self.first_at is None else self.first_at,
            last_at=-math.inf if self.last_at is None else self.last_at,
            numbers=np.array(
                [(each.n, each.total, each.minimum, each.maximum, len(each.bins)) for each in numbers],
                NUMBERS,
            ),
            bins=np.concatenate([np.zeros(0, dtype=np.int32), *(each.bins for each in numbers)]),
            counts=np.concatenate([np.zeros(0, dtype=np.int64), *(each.counts for each in numbers)]),
            flags=np.array([(each.n, each.hits) for each in flags], FLAGS),
            labels={name: label.counts for name, label in self.labels.items()},
        )

    @classmethod
    def from_packed(cls, packed: Packed) -> Summary:
        numbers, start = {}, 0
        for name, values in zip(packed.schema.numbers, packed.numbers.tolist(), strict=True):
            n, total, minimum, maximum, filled = values
            end = start + filled
            bins, counts = packed.bins[start:end], packed.counts[start:end]
            numbers[name] = NumberSummary(n, total, minimum, maximum, bins, counts)
            start = end
        return cls(
            rows=packed.rows,
            first_at=None if packed.first_at == math.inf else packed.first_at,
            last_at=None if packed.last_at == -math.inf else packed.last_at,
            numbers=numbers,
            flags={
                name: FlagSummary(*flag) for name, flag in zip(packed.schema.flags, packed.flags.tolist(), strict=True)
            },
            labels={name: LabelSummary(dict(counts)) for name, counts in packed.labels.items()},
            versions=dict(packed.schema.versions),
        )


class SummaryMerge:
    """Adds up any number of summaries, in bounded memory and without unpacking the stored ones."""

    def __init__(self) -> None:
        self._waiting: dict[Schema, list[Packed]] = {}

    def add(self, part: Summary | Packed) -> None:
        packed = part.to_packed() if isinstance(part, Summary) else part
        waiting = self._waiting.setdefault(packed.schema, [])
        waiting.append(packed)
        if len(waiting) >= _AT_ONCE:
            self._waiting[packed.schema] = [merged(waiting)]

    def result(self) -> Summary:
        return Summary.from_packed(merged([merged(waiting) for waiting in self._waiting.values()]))


class Summariser:
    """Summarises the same rows by several groupings; what the groupings share is computed once."""

    def __init__(self, rows: DescribedRows, descriptors: Mapping[str, Descriptor]) -> None:
        described = {name: each for name, each in descriptors.items() if name in rows.columns}
        self._at = rows.at
        self._numbers = _Cells.of(rows, [name for name, each in described.items() if each.kind == "numeric"])
        self._flags = _Cells.of(rows, [name for name, each in described.items() if each.kind == "flag"])
        self._labels = {name: rows.columns[name] for name, each in described.items() if each.kind == "label"}
        self._bins = bins_of(self._numbers.values)
        versions = tuple(sorted((name, each.version) for name, each in described.items()))
        self._schema = Schema(self._numbers.names, self._flags.names, versions)

    def by_group(self, groups: Integers, count: int) -> list[Summary]:
        """A summary for each group 0 … count - 1. groups: each row's, -1 for none."""
        chosen = groups >= 0
        rows = np.bincount(groups[chosen], minlength=count)
        first, last = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(first, groups[chosen], self._at[chosen])
        np.maximum.at(last, groups[chosen], self._at[chosen])
        of_group, cells = self._numbers.by_group(groups)
        numbers, bins, counts = summed_numbers(
            self._numbers.values[of_group], self._bins[of_group], cells, count * len(self._numbers.names)
        )
        numbers = numbers.reshape(count, len(self._numbers.names))
        ends = np.concatenate([[0], np.cumsum(numbers["bins"].sum(axis=1))]).tolist()
        of_group, cells = self._flags.by_group(groups)
        flags = np.zeros((count, len(self._flags.names)), FLAGS)
        flags["n"] = np.bincount(cells, minlength=flags.size).reshape(flags.shape)
        hits = cells[self._flags.values[of_group] > 0]
        flags["hits"] = np.bincount(hits, minlength=flags.size).reshape(flags.shape)
        labels = self._count_labels(groups, count)
        return [
            Summary.from_packed(
                Packed(
                    schema=self._schema,
                    rows=int(rows[group]),
                    first_at=float(first[group]),
                    last_at=float(last[group]),
                    numbers=numbers[group],
                    bins=bins[ends[group] : ends[group + 1]],
                    counts=counts[ends[group] : ends[group + 1]],
                    flags=flags[group],
                    labels=labels[group],
                )
            )
            for group in range(count)
        ]

    def _count_labels(self, groups: Integers, count: int) -> list[dict[str, dict[str, int]]]:
        counts: list[dict[str, dict[str, int]]] = [{name: {} for name in self._labels} for _ in range(count)]
        for name, column in self._labels.items():
            there = present(column) & (groups >= 0)
            pairs = Counter(zip(groups[there].tolist(), map(stored_label, column[there].tolist()), strict=True))
            for (group, label), times in pairs.items():
                if label is not None:
                    counts[group][name][label] = times
        return counts


@dataclass(frozen=True, slots=True)
class _Cells:
    """The values of several columns that are there, in one array. columns, rows: where each came from."""

    names: tuple[str, ...]
    values: Column
    columns: Integers
    rows: Integers

    @classmethod
    def of(cls, rows: DescribedRows, names: Sequence[str]) -> _Cells:
        if not names:
            none = np.zeros(0, dtype=np.int64)
            return cls((), np.zeros(0, dtype=np.float32), none, none)
        table = np.stack([rows.columns[name] for name in names]).astype(np.float32, copy=False)
        columns, places = np.nonzero(np.isfinite(table))
        return cls(tuple(names), table[columns, places], columns, places)

    def by_group(self, groups: Integers) -> tuple[Column, Integers]:
        """Which values belong to a group, and the number group × columns + column of each that does."""
        of_value = groups[self.rows]
        chosen = of_value >= 0
        return chosen, of_value[chosen] * len(self.names) + self.columns[chosen]


def summary_of_feedback(scores: Sequence[float], labels: Sequence[str]) -> Summary:
    """Feedback alone: no rows, only `feedback.score` and `feedback.label`, each where there is any."""
    return Summary(
        numbers={"feedback.score": NumberSummary.of(scores)} if scores else {},
        labels={"feedback.label": LabelSummary.of(labels)} if labels else {},
    )


def stored_label(value: Any) -> str | None:
    """As it is stored: no longer than LABEL_CHARACTERS, and none of what a database refuses."""
    if value is None:
        return None
    return storable(str(value)[:LABEL_CHARACTERS], nul="\ufffd")
