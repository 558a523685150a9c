"""Summaries as arrays: how they are made for many groups of rows at once, merged by the thousand, and stored."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from monitoring.store.number_grid import HALF_WIDTH, WIDTH

Array = np.ndarray[Any, np.dtype[Any]]

_FORMAT = b"\x01"
_HEAD = struct.Struct("<IIIIqdd")
_WHOLE = struct.Struct("<II")
_AT_ONCE = 64  # summaries merged in one step: enough for arrays to pay, and memory is bounded by it
_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Schema:
    """What a summary is of: names of numbers and flags in the order of its arrays, versions as pairs with names."""

    numbers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """One summary. Each array has an entry for each number, or each flag.

    minimum, maximum, first_at, last_at: inf and -inf without values. sums, squares: in the units of `number_grid`.
    bins, counts: the filled bins of all numbers one after another, each number's ascending; bin_lengths says how many.
    """

    schema: Schema
    rows: int
    first_at: float
    last_at: float
    number_rows: Array
    minimum: Array
    maximum: Array
    sums: Sequence[int]
    squares: Sequence[int]
    bin_lengths: Array
    bins: Array
    counts: Array
    flag_rows: Array
    hits: Array
    labels: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Packed:
        none = np.zeros(0, dtype=np.int64)
        return cls(Schema(), 0, np.inf, -np.inf, none, none, none, (), (), none, none, none, none, none)


class PackedMerge:
    """Adds up any number of summaries with bounded memory. The order makes no difference to the result."""

    def __init__(self) -> None:
        self._waiting: dict[Schema, list[Packed]] = {}

    def add(self, part: Packed) -> None:
        waiting = self._waiting.setdefault(part.schema, [])
        waiting.append(part)
        if len(waiting) >= _AT_ONCE:
            self._waiting[part.schema] = [_merged_alike(waiting)]

    def result(self) -> Packed:
        parts = [_merged_alike(waiting) for waiting in self._waiting.values()]
        if not parts:
            return Packed.empty()
        if len(parts) == 1:
            return parts[0]
        schema = _united([part.schema for part in parts])
        return _merged_alike([_aligned(part, schema) for part in parts])


def merged(parts: Iterable[Packed]) -> Packed:
    """All of them as one."""
    merge = PackedMerge()
    for part in parts:
        merge.add(part)
    return merge.result()


def filled_bins(cells: Array, bins: Array, counts: Array | None, number_of_cells: int) -> tuple[Array, Array, Array]:
    """Counts by cell and bin: bins filled in each cell, then the bins and their counts, ordered by cell and bin."""
    places = cells.astype(np.int64) * WIDTH + (bins.astype(np.int64) + HALF_WIDTH)
    if number_of_cells * WIDTH <= 16 * len(places):
        # bincount's floats count to 2^53.
        dense = np.bincount(places, weights=counts)
        filled = np.flatnonzero(dense)
        found = dense[filled].astype(np.int64)
    else:
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        filled = ordered[starts]
        each = np.ones(len(ordered), dtype=np.int64) if counts is None else counts[order]
        found = np.add.reduceat(each, starts) if len(starts) else np.zeros(0, dtype=np.int64)
    lengths = np.bincount(filled // WIDTH, minlength=number_of_cells)
    return lengths, (filled % WIDTH - HALF_WIDTH).astype(np.int32), found


def to_bytes(packed: Packed) -> bytes:
    """As few bytes as make sense: some 2 kB for 30 descriptors of an hour."""
    schema = json.dumps([packed.schema.numbers, packed.schema.flags, packed.schema.versions]).encode()
    labels = json.dumps(packed.labels).encode()
    width = next(each for each in (1, 2, 4, 8) if packed.counts.max(initial=0) < 1 << 8 * each)
    sizes = len(schema), len(packed.bins), width, len(labels)
    parts = [
        _HEAD.pack(*sizes, packed.rows, packed.first_at, packed.last_at),
        schema,
        packed.number_rows.astype("<i8").tobytes(),
        packed.minimum.astype("<f4").tobytes(),
        packed.maximum.astype("<f4").tobytes(),
        packed.bin_lengths.astype("<i4").tobytes(),
        packed.flag_rows.astype("<i8").tobytes(),
        packed.hits.astype("<i8").tobytes(),
        np.diff(packed.bins, prepend=0).astype("<i2").tobytes(),
        packed.counts.astype(f"<u{width}").tobytes(),
        labels,
        _whole_numbers_to_bytes(packed.sums),
        _whole_numbers_to_bytes(packed.squares),
    ]
    return _FORMAT + zlib.compress(b"".join(parts), _LEVEL)


def from_bytes(data: bytes) -> Packed:
    """Reads `to_bytes`. Raises ValueError for anything else."""
    try:
        if data[:1] != _FORMAT:
            raise ValueError(f"format {data[:1]!r}")
        return _read(zlib.decompress(memoryview(data)[1:]))
    except (zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"not a stored summary: {error}") from error


def _read(payload: bytes) -> Packed:
    schema_size, filled, width, labels_size, rows, first_at, last_at = _HEAD.unpack_from(payload)
    at = _HEAD.size + schema_size
    schema = _schema(payload[_HEAD.size : at])
    numbers, flags = len(schema.numbers), len(schema.flags)
    arrays = []
    for kind, length in (
        ("i8", numbers),
        ("f4", numbers),
        ("f4", numbers),
        ("i4", numbers),
        ("i8", flags),
        ("i8", flags),
    ):
        arrays.append(np.frombuffer(payload, f"<{kind}", length, at))
        at += arrays[-1].nbytes
    bins = np.cumsum(np.frombuffer(payload, "<i2", filled, at), dtype=np.int32)
    at += 2 * filled
    counts = np.frombuffer(payload, f"<u{width}", filled, at).astype(np.int64)
    at += width * filled
    labels = json.loads(payload[at : at + labels_size])
    sums, at = _whole_numbers_from_bytes(payload, at + labels_size, numbers)
    squares, at = _whole_numbers_from_bytes(payload, at, numbers)
    number_rows, minimum, maximum, lengths, flag_rows, hits = arrays
    return Packed(
        schema, rows, first_at, last_at, number_rows, minimum, maximum, sums, squares,
        lengths, bins, counts, flag_rows, hits, labels,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _schema(text: bytes) -> Schema:
    numbers, flags, versions = json.loads(text)
    return Schema(tuple(numbers), tuple(flags), tuple((name, version) for name, version in versions))


def _whole_numbers_to_bytes(values: Sequence[int]) -> bytes:
    """Signed numbers of any size, each in as many bytes as the largest needs once zero bits common to all are gone."""
    together = 0
    for value in values:
        together |= value
    zeros = (together & -together).bit_length() - 1 if together else 0
    kept = [value >> zeros for value in values]
    width = max((value.bit_length() for value in kept), default=0) // 8 + 1
    return _WHOLE.pack(zeros, width) + b"".join(value.to_bytes(width, "little", signed=True) for value in kept)


def _whole_numbers_from_bytes(payload: bytes, at: int, count: int) -> tuple[list[int], int]:
    """The numbers, and where they end."""
    zeros, width = _WHOLE.unpack_from(payload, at)
    start, read = at + _WHOLE.size, int.from_bytes
    end = start + width * count
    if end > len(payload):
        raise ValueError("it is cut short")
    return [read(payload[a : a + width], "little", signed=True) << zeros for a in range(start, end, width)], end


def _merged_alike(parts: Sequence[Packed]) -> Packed:
    """Of summaries with one schema."""
    if len(parts) == 1:
        return parts[0]
    schema = parts[0].schema
    places = np.arange(len(schema.numbers))
    cells = np.concatenate([np.repeat(places, part.bin_lengths) for part in parts])
    bins, counts = np.concatenate([part.bins for part in parts]), np.concatenate([part.counts for part in parts])
    lengths, bins, counts = filled_bins(cells, bins, counts, len(places))
    return Packed(
        schema,
        sum(part.rows for part in parts),
        min(part.first_at for part in parts),
        max(part.last_at for part in parts),
        np.sum([part.number_rows for part in parts], axis=0),
        np.min([part.minimum for part in parts], axis=0),
        np.max([part.maximum for part in parts], axis=0),
        [sum(column) for column in zip(*(part.sums for part in parts), strict=True)],
        [sum(column) for column in zip(*(part.squares for part in parts), strict=True)],
        lengths,
        bins,
        counts,
        np.sum([part.flag_rows for part in parts], axis=0),
        np.sum([part.hits for part in parts], axis=0),
        _labels_of(parts),
    )


def _labels_of(parts: Sequence[Packed]) -> dict[str, dict[str, int]]:
    added: dict[str, dict[str, int]] = {}
    for part in parts:
        for name, counts in part.labels.items():
            total = added.setdefault(name, {})
            for label, count in counts.items():
                total[label] = total.get(label, 0) + count
    return added


def _united(schemas: Sequence[Schema]) -> Schema:
    versions: dict[str, set[str]] = {}
    for schema in schemas:
        for name, version in schema.versions:
            versions.setdefault(name, set()).update(version.split("+"))
    return Schema(
        tuple(sorted({name for schema in schemas for name in schema.numbers})),
        tuple(sorted({name for schema in schemas for name in schema.flags})),
        tuple((name, "+".join(sorted(found))) for name, found in sorted(versions.items())),
    )


def _aligned(part: Packed, schema: Schema) -> Packed:
    """The same summary with room for more names."""
    numbers = [schema.numbers.index(name) for name in part.schema.numbers]
    flags = [schema.flags.index(name) for name in part.schema.flags]
    sums, squares = [0] * len(schema.numbers), [0] * len(schema.numbers)
    for place, total, square in zip(numbers, part.sums, part.squares, strict=True):
        sums[place], squares[place] = total, square
    cells = np.repeat(np.asarray(numbers, dtype=np.int64), part.bin_lengths)
    lengths, bins, counts = filled_bins(cells, part.bins, part.counts, len(schema.numbers))
    return Packed(
        schema, part.rows, part.first_at, part.last_at,
        _spread(part.number_rows, numbers, len(sums), 0),
        _spread(part.minimum, numbers, len(sums), np.inf),
        _spread(part.maximum, numbers, len(sums), -np.inf),
        sums, squares, lengths, bins, counts,
        _spread(part.flag_rows, flags, len(schema.flags), 0),
        _spread(part.hits, flags, len(schema.flags), 0),
        part.labels,
    )  # fmt: skip


def _spread(values: Array, places: Sequence[int], length: int, otherwise: float) -> Array:
    spread = np.full(length, otherwise, dtype=values.dtype if len(values) else None)
    spread[list(places)] = values
    return spread
