"""One grid of bins for every number: what makes summaries of numbers mergeable.

A bin holds 0, or the numbers of one sign between two neighbouring powers of 2^(1/32), each 2.2 % above the last, so
that every whole number up to 46 has a bin of its own. The grid never depends on the data. To look only at the bins is
to round both windows alike; that can make two distributions more equal, never less (a Kolmogorov-Smirnov distance over
bins is at most that over values).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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
