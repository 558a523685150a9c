"""Summaries as arrays: the form in which they are merged by the thousand, and stored."""

import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

# One grid of bins for every number: what makes summaries of numbers mergeable.
#
# A bin holds 0, or the numbers of one sign between two neighbouring powers of 2^(1/32), each 2.2 % above the last, so
# that every whole number up to 46 has a bin of its own. The grid never depends on the data. To look only at the bins is
# to round both windows alike; that can make two distributions more equal, never less (a Kolmogorov-Smirnov distance
# over bins is at most that over values).

_STEPS = 32  # bins for each doubling
_LOWEST = -149 * _STEPS  # the smallest float32 is 2^-149, the largest is below 2^128
HALF_WIDTH = 128 * _STEPS - _LOWEST
WIDTH = 2 * HALF_WIDTH + 1
"""Number of bins: from -HALF_WIDTH to HALF_WIDTH, 0 is the number 0, and their order is that of the numbers."""
_EDGES = np.power(2.0, np.arange(_STEPS) / _STEPS)

Floats = np.ndarray[Any, np.dtype[np.float32]]


def bins_of(values: Floats) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The bin of each finite number."""
    mantissa, exponent = np.frexp(np.abs(values).astype(np.float64))
    step = np.searchsorted(_EDGES, 2 * mantissa, side="right") - 1
    place = (exponent - 1) * _STEPS + step - _LOWEST + 1
    return np.where(values == 0, 0, np.where(values < 0, -place, place)).astype(np.int32)


def edges_of(bin_: int) -> tuple[float, float]:
    """The numbers that a bin lies between; of a positive one, from the first and below the second."""
    if bin_ == 0:
        return 0.0, 0.0
    place = abs(bin_) - 1 + _LOWEST
    low, high = 2.0 ** (place / _STEPS), 2.0 ** ((place + 1) / _STEPS)
    return (low, high) if bin_ > 0 else (-high, -low)


def middle_of(bin_: int) -> float:
    """A number that stands for the bin: a whole one where it holds one, at most 2.2 % away from any of the others."""
    if bin_ == 0:
        return 0.0
    low, high = edges_of(abs(bin_))
    middle = math.sqrt(low * high)
    whole = round(middle) if low <= round(middle) < high else math.ceil(low)
    return math.copysign(whole if low <= whole < high else middle, bin_)


Array = np.ndarray[Any, np.dtype[Any]]
Bins = np.ndarray[Any, np.dtype[np.int32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]

NUMBERS = np.dtype([("n", "<i8"), ("total", "<f8"), ("minimum", "<f4"), ("maximum", "<f4"), ("bins", "<i4")])
"""One number's part of a summary. minimum, maximum: inf and -inf without values. bins: how many of the grid's are
filled."""
NO_NUMBER = np.array((0, 0.0, np.inf, -np.inf, 0), NUMBERS)
FLAGS = np.dtype([("n", "<i8"), ("hits", "<i8")])
"""One flag's part of a summary."""

_EXACT_FORMAT, _FORMAT_WITH_SQUARES, _FORMAT = b"\x01", b"\x02", b"\x03"
_NUMBERS_WITH_SQUARES = np.dtype([*NUMBERS.descr[:2], ("squares", "<f8"), *NUMBERS.descr[2:]])
_EXACT_UNIT = 2.0**-176
_HEAD = struct.Struct("<IIIIqdd")
_EXACT_HEAD = struct.Struct("<II")
_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Schema:
    """What a summary is of: names of numbers and flags in the order of its arrays, versions as pairs with names."""

    numbers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One summary.

    first_at, last_at: seconds since the epoch; inf and -inf without rows.
    numbers: of the type NUMBERS, one for each of the schema's. flags: of the type FLAGS, likewise.
    bins, counts: the filled bins of all numbers one after another, each number's ascending.
    """

    schema: Schema = field(default_factory=Schema)
    rows: int = 0
    first_at: float = np.inf
    last_at: float = -np.inf
    numbers: Array = field(default_factory=lambda: np.zeros(0, NUMBERS))
    bins: Bins = field(default_factory=lambda: np.zeros(0, np.int32))
    counts: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    flags: Array = field(default_factory=lambda: np.zeros(0, FLAGS))
    labels: dict[str, dict[str, int]] = field(default_factory=dict)


def merged(parts: Sequence[Packed]) -> Packed:
    """All of them as one. Of their order depend only the last bits of sums."""
    if len(parts) < 2:
        return parts[0] if parts else Packed()
    schema = _united({part.schema: None for part in parts})
    numbers = np.full((len(parts), len(schema.numbers)), NO_NUMBER)
    flags = np.zeros((len(parts), len(schema.flags)), FLAGS)
    cells = []
    for row, part in enumerate(parts):
        if part.schema == schema:
            numbers[row], flags[row] = part.numbers, part.flags
            places = np.arange(len(schema.numbers))
        else:
            places = np.array([schema.numbers.index(name) for name in part.schema.numbers], dtype=np.int64)
            numbers[row, places] = part.numbers
            flags[row, [schema.flags.index(name) for name in part.schema.flags]] = part.flags
        cells.append(np.repeat(places, part.numbers["bins"]))
    filled, bins, counts = filled_bins(
        np.concatenate(cells),
        np.concatenate([part.bins for part in parts]),
        np.concatenate([part.counts for part in parts]),
        len(schema.numbers),
    )
    labels: dict[str, Counter[str]] = {}
    for part in parts:
        for name, given in part.labels.items():
            labels.setdefault(name, Counter()).update(given)
    return Packed(
        schema=schema,
        rows=sum(part.rows for part in parts),
        first_at=min(part.first_at for part in parts),
        last_at=max(part.last_at for part in parts),
        numbers=_structured(
            NUMBERS,
            n=numbers["n"].sum(axis=0),
            total=numbers["total"].sum(axis=0),
            minimum=numbers["minimum"].min(axis=0),
            maximum=numbers["maximum"].max(axis=0),
            bins=filled,
        ),
        bins=bins,
        counts=counts,
        flags=_structured(FLAGS, n=flags["n"].sum(axis=0), hits=flags["hits"].sum(axis=0)),
        labels={name: dict(counted) for name, counted in labels.items()},
    )


def _structured(kind: np.dtype[Any], **values: Array) -> Array:
    array = np.empty(next(iter(values.values())).shape, kind)
    for name, column in values.items():
        array[name] = column
    return array


def _united(schemas: Iterable[Schema]) -> Schema:
    given = list(schemas)
    if len(given) == 1:
        return given[0]
    versions: dict[str, set[str]] = {}
    for schema in given:
        for name, version in schema.versions:
            versions.setdefault(name, set()).update(version.split("+"))
    return Schema(
        tuple(sorted({name for schema in given for name in schema.numbers})),
        tuple(sorted({name for schema in given for name in schema.flags})),
        tuple((name, "+".join(sorted(found))) for name, found in sorted(versions.items())),
    )


def summed_numbers(values: Array, bins: Bins, cells: Integers, number_of_cells: int) -> tuple[Array, Bins, Integers]:
    """NUMBERS of each cell, then the bins and counts of all. values: finite float32, each with its bin and its cell;
    they are added in the order in which they are given."""
    low, high = np.full(number_of_cells, np.inf, np.float32), np.full(number_of_cells, -np.inf, np.float32)
    np.minimum.at(low, cells, values)
    np.maximum.at(high, cells, values)
    n = np.bincount(cells, minlength=number_of_cells)
    total = np.bincount(cells, weights=values, minlength=number_of_cells)
    filled, bins, counts = filled_bins(cells, bins, None, number_of_cells)
    numbers = _structured(NUMBERS, n=n, total=total, minimum=low, maximum=high, bins=filled)
    return numbers, bins, counts


def filled_bins(
    cells: Integers, bins: Bins, counts: Integers | None, number_of_cells: int
) -> tuple[Integers, Bins, Integers]:
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
    parts = (
        _HEAD.pack(len(schema), len(packed.bins), width, len(labels), packed.rows, packed.first_at, packed.last_at),
        schema,
        packed.numbers.tobytes(),
        packed.flags.tobytes(),
        np.diff(packed.bins, prepend=0).astype("<i2").tobytes(),
        packed.counts.astype(f"<u{width}").tobytes(),
        labels,
    )
    return _FORMAT + zlib.compress(b"".join(parts), _LEVEL)


def from_bytes(data: bytes) -> Packed:
    """Reads `to_bytes`, and the two older forms. Raises ValueError for anything else."""
    try:
        if data[:1] not in (_FORMAT, _FORMAT_WITH_SQUARES, _EXACT_FORMAT):
            raise ValueError(f"format {data[:1]!r}")
        payload = zlib.decompress(memoryview(data)[1:])
        if data[:1] == _EXACT_FORMAT:
            return _read_exact(payload)
        return _read(payload, NUMBERS if data[:1] == _FORMAT else _NUMBERS_WITH_SQUARES)
    except (zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"not a stored summary: {error}") from error


def _read(payload: bytes, kind: np.dtype[Any] = NUMBERS) -> Packed:
    """kind: of the numbers; what it has beyond NUMBERS is passed over."""
    schema_size, filled, width, labels_size, rows, first_at, last_at = _HEAD.unpack_from(payload)
    at = _HEAD.size + schema_size
    schema = _schema(payload[_HEAD.size : at])
    numbers = np.frombuffer(payload, kind, len(schema.numbers), at)
    at += numbers.nbytes
    flags = np.frombuffer(payload, FLAGS, len(schema.flags), at)
    at += flags.nbytes
    bins = np.frombuffer(payload, "<i2", filled, at)
    at += bins.nbytes
    counts = np.frombuffer(payload, f"<u{width}", filled, at)
    at += counts.nbytes
    return Packed(
        schema=schema,
        rows=rows,
        first_at=first_at,
        last_at=last_at,
        numbers=numbers
        if kind == NUMBERS
        else _structured(NUMBERS, **{name: numbers[name] for name in NUMBERS.fields or ()}),
        bins=np.cumsum(bins, dtype=np.int32),
        counts=counts.astype(np.int64),
        flags=flags,
        labels=json.loads(payload[at : at + labels_size]),
    )


def _read_exact(payload: bytes) -> Packed:
    """The oldest form: columns one after another, then sums as whole numbers in units of 2^-176 without the zero bits
    common to all, and sums of squares likewise."""
    schema_size, filled, width, labels_size, *_ = _HEAD.unpack_from(payload)
    at = _HEAD.size + schema_size
    schema = _schema(payload[_HEAD.size : at])
    numbers, flags = np.empty(len(schema.numbers), NUMBERS), np.empty(len(schema.flags), FLAGS)
    for array, name, kind in (
        (numbers, "n", "<i8"),
        (numbers, "minimum", "<f4"),
        (numbers, "maximum", "<f4"),
        (numbers, "bins", "<i4"),
        (flags, "n", "<i8"),
        (flags, "hits", "<i8"),
    ):
        column = np.frombuffer(payload, kind, len(array), at)
        array[name] = column
        at += column.nbytes
    end = at + (2 + width) * filled + labels_size  # bins, counts and labels stand as in `_read`
    zeros, size = _EXACT_HEAD.unpack_from(payload, end)
    places = range(end + _EXACT_HEAD.size, end + _EXACT_HEAD.size + size * len(numbers), size)
    if places.stop > len(payload):
        raise ValueError("it is cut short")
    sums = [int.from_bytes(payload[place : place + size], "little", signed=True) << zeros for place in places]
    numbers["total"] = [float(total) * _EXACT_UNIT for total in sums]
    head = payload[: _HEAD.size + schema_size]
    return _read(head + numbers.tobytes() + flags.tobytes() + payload[at:end])


@lru_cache(maxsize=256)
def _schema(text: bytes) -> Schema:
    numbers, flags, versions = json.loads(text)
    return Schema(tuple(numbers), tuple(flags), tuple((name, version) for name, version in versions))
