"""The sign-flip permutation test of a mean difference, and its interval.

If a and b might as well be swapped in any pair (or cluster of pairs), every sign of a difference is a coin's. Turning
the signs of some pairs leaves a mean as far from 0 as the one seen exactly when the mean of these pairs, or of the
others, lies on the other side of 0; and the same holds of any other value than 0. So the test of every value can be
read off the means of random parts of the pairs, and its interval ends at two of their quantiles (Hartigan, "Using
subsample values as typical values", 1969): test and interval agree to the last flip.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-12
"""Relative to the largest difference: below, a difference comes from rounding."""

_MOST_DRAWN = 4096  # differences whose signs are drawn one by one; the others' sum is as good as normal
_BLOCK = 2**20  # signs held in memory at a time


@dataclass(frozen=True, slots=True)
class SignFlips:
    """What the flips showed. p_value: two-sided, of no difference. low, high: ends of the interval at 1 − alpha,
    infinite where so few pairs could never give a p below alpha."""

    p_value: float
    low: float
    high: float


def sign_flips(sums: Any, sizes: Any, *, alpha: float, resamples: int, generator: Any) -> SignFlips:
    """Flips pairs, or whole clusters of them. sums, sizes: of the differences in each; sizes of pairs are 1.

    All flips are counted when those of the pairs that differ number no more than `resamples` twice over; otherwise as
    many are drawn. Beyond 4,096 pairs only the signs of those that differ most are drawn one by one.
    """
    import numpy as np

    order = np.argsort(-np.abs(sums), kind="stable")
    sums, sizes = sums[order], sizes[order]
    moved = int((np.abs(sums) > ROUNDING * np.abs(sums).max(initial=0.0)).sum())
    counted = 2**moved <= 2 * resamples
    if counted:
        part_sums, part_sizes = _all_parts(sums[:moved], sizes[:moved], sizes[moved:], resamples, generator)
    else:
        part_sums, part_sizes = _drawn_parts(sums[:moved], sizes[:moved], sizes[moved:], resamples, generator)
    part_sums[np.abs(part_sums) <= 10 * ROUNDING * np.abs(sums).sum()] = 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        means = part_sums / part_sizes
    nothing = part_sizes <= 0  # the mean of no pairs lies on the other side of whatever is tested
    below, above = np.where(nothing, -math.inf, means), np.where(nothing, math.inf, means)

    # A drawn test counts the flip that was seen as one of the draws; half of the parts are the others' complements.
    seen, flips = (0, len(means) / 2) if counted else (1, len(means) // 2)
    other_side = (below <= 0) if sums.sum() > 0 else (above >= 0)
    p_value = min(1.0, (seen + int(other_side.sum())) / (seen + flips))
    if not counted and ((sums[:moved] > 0).all() or (sums[:moved] < 0).all()):
        p_value = max(sys.float_info.min, 2.0 ** (1 - moved))
    fewest = next(k for k in range(len(means) + 1) if (seen + k) / (seen + flips) >= alpha)
    if not fewest:
        return SignFlips(p_value, -math.inf, math.inf)
    low, high = np.partition(below, fewest - 1)[fewest - 1], np.partition(above, -fewest)[-fewest]
    return SignFlips(p_value, float(low), float(high))


def _all_parts(sums: Any, sizes: Any, tied: Any, resamples: int, generator: Any) -> tuple[Any, Any]:
    """Sum and size of every part of the pairs that differ, each with random parts of those that do not (`tied`, their
    sizes); several times where there are few parts and many ties."""
    import numpy as np

    parts = 2 ** len(sums)
    chosen = (np.arange(parts)[:, None] >> np.arange(len(sums)) & 1).astype(float)
    times = max(1, 2 * resamples // parts) if len(tied) else 1
    part_sums, part_sizes = np.tile(chosen @ sums, times), np.tile(chosen @ sizes, times)
    return part_sums, part_sizes + _drawn_sizes(tied, len(part_sizes), generator)


def _drawn_parts(sums: Any, sizes: Any, tied: Any, resamples: int, generator: Any) -> tuple[Any, Any]:
    """Sum and size of `resamples` random parts of the pairs, and of all the rest of each."""
    import numpy as np

    drawn = _drawn(np.column_stack([sums, sizes]), resamples, generator)
    part_sums, part_sizes = drawn[:, 0], drawn[:, 1] + _drawn_sizes(tied, resamples, generator)
    whole = float(sizes.sum() + tied.sum())
    return np.append(part_sums, float(sums.sum()) - part_sums), np.append(part_sizes, whole - part_sizes)


def _drawn_sizes(sizes: Any, draws: int, generator: Any) -> Any:
    """Sizes of random parts of pairs, or of clusters."""
    import numpy as np

    if not len(sizes):
        return np.zeros(draws)
    if (sizes == sizes[0]).all():
        return float(sizes[0]) * generator.binomial(len(sizes), 0.5, draws)
    return _drawn(sizes[:, None], draws, generator)[:, 0]


def _drawn(values: Any, draws: int, generator: Any) -> Any:
    """Column sums of random halves of the rows, a block of draws at a time."""
    import numpy as np

    single, rest = values[:_MOST_DRAWN], values[_MOST_DRAWN:]
    n, sums = len(single), np.empty((draws, values.shape[1]))
    block = max(1, _BLOCK // n)
    for start in range(0, draws, block):
        stop = min(start + block, draws)
        bits = generator.integers(0, 256, (stop - start, -(-n // 8)), dtype=np.uint8)
        sums[start:stop] = np.unpackbits(bits, axis=1, count=n).astype(float) @ single
    if len(rest):
        sums += generator.multivariate_normal(rest.sum(axis=0) / 2, rest.T @ rest / 4, draws, method="svd")
    return sums
