"""Paired tests: whether two samples whose values belong together pair by pair differ, and by how much.

Values of 0 and 1 are compared with the exact McNemar test. Of all others two tests ask whether they differ, and the
less sure one counts: a sign-flip permutation test is exact where a and b might as well be swapped, and ABC, the
bootstrap's BCa in closed form, holds where the differences are skewed. Rows that share a source (one passage, one
conversation) come in clusters; whole clusters are then flipped, and are the units of the bootstrap.

Intervals are these tests inverted: p is below 0.05 exactly when the interval leaves out 0. Decision 17 has how often
they err; `tests/evaluation/test_paired_tests.py` measures it, and `python -m benchmarks.evaluation.statistics` on a
larger scale. Only the permutation test draws at random, with a fixed seed.
"""

import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmops.evaluation.statistics import (
    ALPHA,
    ROUNDING,
    UNLIMITED,
    cluster_sums,
    difference_interval,
    is_binary,
    normal_quantile,
    paired_differences,
    scale,
    sign_test_p,
    wilson_interval,
)

FEWEST_CLUSTERS = 6
"""Of fewer clusters, a sign-flip test never has a p below 0.05 (2 · 2⁻⁵ = 0.0625), and no interval is to be trusted."""
SKEWED = 0.04
"""Acceleration (a sixth of the skewness over √n) from which on the interval's end on the side of the rare large
differences is not as sure as meant: it errs in 4 to 11 % of samples in place of 2.5 (decision 17)."""
_RESAMPLES = 4999
_MOST_DRAWN = 4096  # differences whose signs are drawn one by one; the others' sum is as good as normal
_BLOCK = 2**20  # signs held in memory at a time


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Difference b − a of two paired samples with its 95 % interval and two-sided p-value. ci95: None where there can
    be none. note: why, or what else limits the test; else empty. skewed: −1 where few pairs fall by much, +1 where few
    rise by much, so that such samples say too little of that side; else 0."""

    difference: float
    ci95: tuple[float, float] | None
    p_value: float
    test: str
    note: str = ""
    skewed: int = 0


def paired_test(
    a: Sequence[float],
    b: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    limits: tuple[float, float] = UNLIMITED,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> PairedTest:
    """Compares two samples whose values belong together pair by pair.

    clusters: for each pair, what it shares with others (its passage, its conversation). Pairs of one cluster are taken
    as dependent, and values of 0 and 1 tested as other numbers are; clusters of one pair each change nothing.
    limits: of a value. resamples: flips drawn by the permutation test; it counts all of them instead when there are no
    more than that. The outcome's `test` is the one whose p it is: `mcnemar-exact`, `paired-permutation`, or
    `paired-bootstrap` where that is the less sure one.

    Raises ValueError: the samples or cluster names differ in length, or are empty.
    """
    import numpy as np

    if len(a) != len(b) or not len(a):
        raise ValueError("paired samples need the same number of values, and at least one")
    differences = paired_differences(a, b, limits)
    sums, sizes = cluster_sums(differences, clusters)
    if len(sums) == len(a) and is_binary(a, limits) and is_binary(b, limits):
        # The exact McNemar test: a binomial test of the pairs that differ; and the interval that agrees with it.
        gained, lost, n = int((differences > 0).sum()), int((differences < 0).sum()), len(a)
        ci95 = difference_interval(gained, lost, n) if n > 1 else None
        note = "" if n > 1 else "one pair says nothing about others"
        return PairedTest((gained - lost) / n, ci95, sign_test_p(gained, lost), "mcnemar-exact", note)
    unit = scale(a, b, limits)
    generator = np.random.default_rng(seed)
    flips = sign_flips(sums / (unit or 1.0), sizes, resamples=resamples, generator=generator)
    bootstrap = _bootstrap(sums / (unit or 1.0), sizes)
    by_flips = flips.p_value >= bootstrap.p_value
    tested = PairedTest(
        difference=float(differences.mean()),
        ci95=None,
        p_value=flips.p_value if by_flips else bootstrap.p_value,
        test="paired-permutation" if by_flips else "paired-bootstrap",
        skewed=0 if abs(bootstrap.acceleration) < SKEWED else int(math.copysign(1, bootstrap.acceleration)),
    )
    ends = unit * min(flips.low, bootstrap.low), unit * max(flips.high, bootstrap.high)
    return _with_interval(tested, ends, len(sums), limits, "pair" if len(sums) == len(a) else "cluster")


def _with_interval(
    tested: PairedTest, ends: tuple[float, float], units: int, limits: tuple[float, float], unit: str
) -> PairedTest:
    """The test with its interval, within the limits of a difference, or with the reason why there is none."""
    farthest = limits[1] - limits[0]
    low, high = max(-farthest, min(ends[0], tested.difference)), min(farthest, max(ends[1], tested.difference))
    note = ""
    if units == 1:
        note = f"one {unit} says nothing about others"
    elif units < FEWEST_CLUSTERS:
        note = f"{units} {unit}s are too few for any difference to be significant"
    elif low == high:
        note = "every row has the same value, of unknown scale"
    elif tested.skewed:
        what, end = ("fall", "lower") if tested.skewed < 0 else ("rise", "upper")
        note = f"few {unit}s {what} by much: the interval's {end} end is less sure than meant"
    told = low < high and units > 1 and math.isfinite(low) and math.isfinite(high)
    return replace(tested, ci95=(low, high) if told else None, note=note)


@dataclass(frozen=True, slots=True)
class Significance:
    """What one of the tests says. p_value: two-sided, of no difference. low, high: ends of the 95 % interval,
    infinite where so few pairs could never give a p below 0.05. acceleration: the bootstrap's."""

    p_value: float
    low: float
    high: float
    acceleration: float = 0.0


def _bootstrap(sums: Any, sizes: Any) -> Significance:
    """Test and 95 % interval of a mean difference by ABC (DiCiccio and Efron, "More accurate confidence intervals in
    exponential families", 1992): the bootstrap's BCa interval without the bootstrap. sums, sizes: of the differences in
    each pair, or cluster, none of them larger than 1.

    Two pairs are added, one of each sign, as far from 0 as those that differ are (in the quadratic mean): Bonett and
    Price's adjustment ("Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", 2012), carried over from truth values, since few pairs that differ do not show that no others would. With it
    the normal quantile gives what Student's gives without. The acceleration, a sixth of the skewness over √n, is that
    of the pairs alone.

    One thing stays unseen: pairs that all gain a little, but for rare large losses of which none was drawn.
    """
    import numpy as np
    from scipy import special

    z = normal_quantile()
    moved = np.abs(sums) > ROUNDING * np.abs(sums).max(initial=0.0)
    if not moved.any():
        # No pair differs: up to so many would go unseen, and each could differ by 1.
        unseen = wilson_interval(0.0, len(sums), z)[1]
        return Significance(1.0, -unseen, unseen)

    residuals = sums - sizes * (sums.sum() / sizes.sum())
    squares = float((residuals**2).sum())
    acceleration = float((residuals**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

    size = float(sizes.mean())
    added = size * float(((sums[moved] / sizes[moved]) ** 2).mean()) ** 0.5
    rows = float(sizes.sum()) + 2 * size
    mean = float(sums.sum()) / rows
    residuals = np.append(sums - sizes * mean, [added - size * mean, -added - size * mean])
    error = float((residuals**2).sum()) ** 0.5 / rows
    low, high = (mean + error * end / (1 - acceleration * end) ** 2 for end in (acceleration - z, acceleration + z))

    # At how many standard errors an end of the interval would come to lie on 0.
    away = -mean / error
    reached = 1 + 4 * acceleration * away
    end = 2 * away / (1 + 2 * acceleration * away + reached**0.5) if reached > 0 else -1 / acceleration
    p_value = max(sys.float_info.min, 2 * float(special.ndtr(-abs(end - acceleration))))
    return Significance(p_value, low, high, acceleration)


def sign_flips(sums: Any, sizes: Any, *, resamples: int, generator: Any) -> Significance:
    """Flips pairs, or whole clusters of them. sums, sizes: of the differences in each; sizes of pairs are 1.

    All flips are counted when those of the pairs that differ number no more than `resamples` twice over; otherwise as
    many are drawn. Beyond 4,096 pairs only the signs of those that differ most are drawn one by one.
    """
    import numpy as np

    order = np.argsort(-np.abs(sums), kind="stable")
    sums, sizes = sums[order], sizes[order]
    moved = int((np.abs(sums) > ROUNDING * np.abs(sums).max(initial=0.0)).sum())
    counted = 2**moved <= 2 * resamples
    parts = _all_parts if counted else _drawn_parts
    part_sums, part_sizes = parts(sums[:moved], sizes[:moved], sizes[moved:], resamples, generator)
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
    fewest = next(k for k in range(len(means) + 1) if (seen + k) / (seen + flips) >= ALPHA)
    if not fewest:
        return Significance(p_value, -math.inf, math.inf)
    low, high = np.partition(below, fewest - 1)[fewest - 1], np.partition(above, -fewest)[-fewest]
    return Significance(p_value, float(low), float(high))


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
