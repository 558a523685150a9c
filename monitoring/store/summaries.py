"""What a set of rows is like, in a form that can be added up: the summary of a month is the sum of its hours'.

Adding is exact, associative and commutative: a summary of all rows equals the merged summaries of its parts, to the
last bit, in whatever order. Only what is stored is limited (`Summary.limited`): of a label descriptor the 200 most
frequent labels of an hour, the others counted together under OTHER.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.store.number_grid import as_float, bins_of, exact_sums, middle_of, square_as_float, variance
from monitoring.store.packed_summaries import Packed, PackedMerge, Schema, filled_bins, from_bytes, merged, to_bytes
from monitoring.store.rows import Column, DescribedRows, present

if TYPE_CHECKING:
    from monitoring.descriptors import DescriptorSet
    from monitoring.descriptors.model import Descriptor

OTHER = "(other)"
MOST_LABELS = 200
LABEL_CHARACTERS = 200

Integers = np.ndarray[Any, np.dtype[np.int64]]
_Numbers = tuple[Column, Column, Column, list[int], list[int], Column, Column, Column]


@dataclass(eq=False)
class NumberSummary:
    """n numbers, as float32. bins: the filled bins of `number_grid`, ascending; counts: the numbers in each.

    minimum, maximum: inf and -inf without numbers. exact_total, exact_squares: sums in the grid's units.
    """

    n: int = 0
    exact_total: int = 0
    exact_squares: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    bins: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    counts: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, values: Column | Sequence[float]) -> NumberSummary:
        """Of the finite ones among the values."""
        given = np.asarray(values, dtype=np.float32)
        given = given[np.isfinite(given)]
        if not len(given):
            return cls()
        cells = np.zeros(len(given), dtype=np.int64)
        sums, squares = exact_sums(given, cells, 1)
        _, bins, counts = filled_bins(cells, bins_of(given), None, 1)
        return cls(len(given), sums[0], squares[0], float(given.min()), float(given.max()), bins, counts)

    @property
    def total(self) -> float:
        return as_float(self.exact_total)

    @property
    def total_of_squares(self) -> float:
        return square_as_float(self.exact_squares)

    @property
    def mean(self) -> float:
        """NaN without numbers."""
        return self.total / self.n if self.n else math.nan

    @property
    def sd(self) -> float:
        """The sample's standard deviation (n - 1); NaN without numbers, 0 of one."""
        return math.sqrt(variance(self.n, self.exact_total, self.exact_squares)) if self.n else math.nan

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
        names = ("n", "exact_total", "exact_squares", "minimum", "maximum")
        same = all(getattr(self, name) == getattr(other, name) for name in names)
        return same and np.array_equal(self.bins, other.bins) and np.array_equal(self.counts, other.counts)


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

    def limited(self, most: int = MOST_LABELS) -> LabelSummary:
        """The most frequent labels, of equals the first by name; the others together under OTHER."""
        named = [(label, count) for label, count in self.counts.items() if label != OTHER]
        if len(named) <= most:
            return self
        kept = dict(sorted(named, key=lambda item: (-item[1], item[0]))[:most])
        return LabelSummary({**kept, OTHER: self.n - sum(kept.values())})


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
        return cls.from_packed(merged(part.to_packed() for part in parts))

    def limited(self) -> Summary:
        """As it is stored; see the module."""
        labels = {name: summary.limited() for name, summary in self.labels.items()}
        return Summary(self.rows, self.first_at, self.last_at, self.numbers, self.flags, labels, self.versions)

    def to_bytes(self) -> bytes:
        """Some 2 kB for 30 descriptors of an hour."""
        return to_bytes(self.to_packed())

    @classmethod
    def from_bytes(cls, data: bytes) -> Summary:
        """Reads `to_bytes`. Raises ValueError for anything else."""
        return cls.from_packed(from_bytes(data))

    def to_packed(self) -> Packed:
        numbers, flags = list(self.numbers.values()), list(self.flags.values())
        return Packed(
            Schema(tuple(self.numbers), tuple(self.flags), tuple(sorted(self.versions.items()))),
            self.rows,
            math.inf if self.first_at is None else self.first_at,
            -math.inf if self.last_at is None else self.last_at,
            np.array([number.n for number in numbers], dtype=np.int64),
            np.array([number.minimum for number in numbers], dtype=np.float64),
            np.array([number.maximum for number in numbers], dtype=np.float64),
            [number.exact_total for number in numbers],
            [number.exact_squares for number in numbers],
            np.array([len(number.bins) for number in numbers], dtype=np.int64),
            np.concatenate([np.zeros(0, dtype=np.int32), *(number.bins for number in numbers)]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(number.counts for number in numbers)]),
            np.array([flag.n for flag in flags], dtype=np.int64),
            np.array([flag.hits for flag in flags], dtype=np.int64),
            {name: label.counts for name, label in self.labels.items()},
        )

    @classmethod
    def from_packed(cls, packed: Packed) -> Summary:
        ends = np.cumsum(packed.bin_lengths)
        ranges = [
            slice(end - length, end) for end, length in zip(ends.tolist(), packed.bin_lengths.tolist(), strict=True)
        ]
        arrays = (packed.number_rows, packed.minimum, packed.maximum)
        lists: list[Sequence[Any]] = [array.tolist() for array in arrays]
        numbers = {
            name: NumberSummary(n, total, squares, low, high, packed.bins[filled], packed.counts[filled])
            for name, n, low, high, total, squares, filled in zip(
                packed.schema.numbers, *lists, packed.sums, packed.squares, ranges, strict=True
            )
        }
        flags = zip(packed.schema.flags, packed.flag_rows.tolist(), packed.hits.tolist(), strict=True)
        return cls(
            packed.rows,
            None if packed.first_at == math.inf else packed.first_at,
            None if packed.last_at == -math.inf else packed.last_at,
            numbers,
            {name: FlagSummary(n, hits) for name, n, hits in flags},
            {name: LabelSummary(dict(counts)) for name, counts in packed.labels.items()},
            dict(packed.schema.versions),
        )


class SummaryMerge:
    """Adds up summaries one by one, in bounded memory and without unpacking the stored ones."""

    def __init__(self) -> None:
        self._merge = PackedMerge()

    def add(self, summary: Summary) -> None:
        self._merge.add(summary.to_packed())

    def add_bytes(self, data: bytes) -> None:
        """Raises ValueError when it is no stored summary."""
        self._merge.add(from_bytes(data))

    def result(self) -> Summary:
        return Summary.from_packed(self._merge.result())


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
        numbers, flags = self._count_numbers(groups, count), self._count_flags(groups, count)
        labels = self._count_labels(groups, count)
        summaries = []
        for group in range(count):
            span = int(rows[group]), float(first[group]), float(last[group])
            n, low, high, sums, squares, lengths, bins, counts = numbers[group]
            flag_rows, hits = flags[group]
            packed = Packed(
                self._schema, *span, n, low, high, sums, squares, lengths, bins, counts, flag_rows, hits, labels[group]
            )
            summaries.append(Summary.from_packed(packed))
        return summaries

    def _count_numbers(self, groups: Integers, count: int) -> list[_Numbers]:
        columns = len(self._numbers.names)
        chosen, cells = self._numbers.by_group(groups)
        values, size = self._numbers.values[chosen], count * columns
        lengths, bins, counts = filled_bins(cells, self._bins[chosen], None, size)
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, cells, values)
        np.maximum.at(high, cells, values)
        sums, squares = exact_sums(values, cells, size)
        rows = np.bincount(cells, minlength=size)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        found: list[_Numbers] = []
        for group in range(count):
            own = slice(group * columns, (group + 1) * columns)
            filled = slice(int(ends[own.start]), int(ends[own.stop]))
            parts = (
                rows[own],
                low[own],
                high[own],
                sums[own],
                squares[own],
                lengths[own],
                bins[filled],
                counts[filled],
            )
            found.append(parts)
        return found

    def _count_flags(self, groups: Integers, count: int) -> list[tuple[Column, Column]]:
        columns = len(self._flags.names)
        chosen, cells = self._flags.by_group(groups)
        rows = np.bincount(cells, minlength=count * columns).reshape(count, columns)
        hits = np.bincount(cells[self._flags.values[chosen] > 0], minlength=count * columns).reshape(count, columns)
        return list(zip(rows, hits, strict=True))

    def _count_labels(self, groups: Integers, count: int) -> list[dict[str, dict[str, int]]]:
        found: list[dict[str, dict[str, int]]] = [{name: {} for name in self._labels} for _ in range(count)]
        for name, column in self._labels.items():
            there = present(column) & (groups >= 0)
            pairs = Counter(zip(groups[there].tolist(), map(stored_label, column[there].tolist()), strict=True))
            for (group, label), times in pairs.items():
                if label is not None:
                    found[group][name][label] = times
        return found


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


def summary_of_feedback(scores: Sequence[float], labels: Mapping[str, int] | Sequence[str]) -> Summary:
    """Feedback alone: no rows, only `feedback.score` and `feedback.label`, each where there is any."""
    counts = dict(labels) if isinstance(labels, Mapping) else LabelSummary.of(labels).counts
    return Summary(
        numbers={"feedback.score": NumberSummary.of(scores)} if len(scores) else {},
        labels={"feedback.label": LabelSummary(counts)} if counts else {},
    )


def stored_label(value: Any) -> str | None:
    """As it is stored: no longer than LABEL_CHARACTERS, and none of what a database refuses."""
    if value is None:
        return None
    return str(value)[:LABEL_CHARACTERS].encode(errors="replace").decode().replace("\0", "\ufffd")
