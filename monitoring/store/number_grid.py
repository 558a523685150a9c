"""One grid of bins for every number, and sums that are exact: what makes summaries of numbers mergeable.

A bin holds 0, or the numbers of one sign between two neighbouring powers of 2^(1/32), each 2.2 % above the last, so
that every whole number up to 46 has a bin of its own. The grid never depends on the data. To look only at the bins is
to round both windows alike; that can make two distributions more equal, never less (a Kolmogorov-Smirnov distance over
bins is at most that over values).

Sums are whole numbers of a unit in which every float32 and every square of one is whole. Adding them up in any order
gives the same sum to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

STEPS = 32
"""Bins for each doubling."""

# The smallest float32 is 2^-149, the largest is below 2^128.
_LOWEST = -149 * STEPS
HALF_WIDTH = 128 * STEPS - _LOWEST
WIDTH = 2 * HALF_WIDTH + 1
"""Number of bins: from -HALF_WIDTH to HALF_WIDTH, 0 is the number 0, and their order is that of the numbers."""

_EDGES = np.power(2.0, np.arange(STEPS) / STEPS)
_MANTISSA_BITS = 24
_UNIT_BITS = 176  # the unit of sums is 2^-176, of sums of squares 2^-352
_LOW_BITS = np.int64((1 << _MANTISSA_BITS) - 1)

Floats = np.ndarray[Any, np.dtype[np.float32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]


def bins_of(values: Floats) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The bin of each finite number."""
    mantissa, exponent = np.frexp(np.abs(values).astype(np.float64))
    step = np.searchsorted(_EDGES, 2 * mantissa, side="right") - 1
    place = (exponent - 1) * STEPS + step - _LOWEST + 1
    return np.where(values == 0, 0, np.where(values < 0, -place, place)).astype(np.int32)


def middle_of(bin_: int) -> float:
    """A number that stands for the bin: a whole one where it holds one, at most 2.2 % away from any of the others."""
    if bin_ == 0:
        return 0.0
    place = abs(bin_) - 1 + _LOWEST
    low, high = 2.0 ** (place / STEPS), 2.0 ** ((place + 1) / STEPS)
    middle = math.sqrt(low * high)
    whole = round(middle) if low <= round(middle) < high else math.ceil(low)
    return math.copysign(whole if low <= whole < high else middle, bin_)


def exact_sums(values: Floats, groups: Integers, number_of_groups: int) -> tuple[list[int], list[int]]:
    """The sums, and the sums of squares, of the finite numbers of each group, in their units."""
    sums, squares = [0] * number_of_groups, [0] * number_of_groups
    mantissa, exponent = np.frexp(values.astype(np.float64))
    whole = (mantissa * (1 << _MANTISSA_BITS)).astype(np.int64)
    alike, inverse = np.unique(groups * 1024 + (exponent.astype(np.int64) + 512), return_inverse=True)
    square = whole * whole
    # Each part has at most 24 bits: bincount's floats hold the sums of half a thousand million of them.
    parts = [np.bincount(inverse, weights=part) for part in (whole, square >> _MANTISSA_BITS, square & _LOW_BITS)]
    for code, total, high, low in zip(alike.tolist(), *(part.tolist() for part in parts), strict=True):
        group, shift = code >> 10, (code & 1023) - 512 - _MANTISSA_BITS + _UNIT_BITS
        sums[group] += int(total) << shift
        squares[group] += ((int(high) << _MANTISSA_BITS) + int(low)) << 2 * shift
    return sums, squares


def as_float(total: int) -> float:
    """A sum as a number."""
    return float(total) * 2.0**-_UNIT_BITS


def square_as_float(total: int) -> float:
    """A sum of squares as a number."""
    return float(total) * 2.0 ** (-2 * _UNIT_BITS)


def variance(rows: int, total: int, total_of_squares: int) -> float:
    """Of `rows` numbers with these sums, divided by rows - 1; without the cancellation that floats would suffer."""
    if rows < 2:
        return 0.0
    return square_as_float(rows * total_of_squares - total * total) / (rows * (rows - 1))
