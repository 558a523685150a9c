"""The statistics of a comparison: intervals for a mean, paired tests, and correction for testing several metrics.

Values of 0 and 1 are compared with the exact McNemar test (`shares`). Of all others two tests ask whether they differ,
and the less sure one counts: a sign-flip permutation test (`sign_flips`) is exact where a and b might as well be
swapped, and ABC, the bootstrap's BCa in closed form, holds where the differences are skewed. Rows that share a source
(one passage, one conversation) come in clusters; whole clusters are then flipped, and are the units of the bootstrap.

Intervals are these tests inverted: p is below 0.05 exactly when the interval leaves out 0. Decision 17 has how often
they err; `tests/evaluation/test_statistics.py` measures it, and `python -m benchmarks.evaluation.statistics` on a
larger scale. Only the permutation test draws at random, with a fixed seed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmops.evaluation.shares import (
    ALPHA,
    CONFIDENCE,
    difference_interval,
    normal_quantile,
    sign_test_p,
    wilson_interval,
)
from llmops.evaluation.sign_flips import ROUNDING, sign_flips

FEWEST_CLUSTERS = 6
"""Of fewer clusters, a sign-flip test never has a p below 0.05 (2 · 2⁻⁵ = 0.0625), and no interval is to be trusted."""

SKEWED = 0.04
"""Acceleration (a sixth of the skewness over √n) from which on the interval's end on the side of the rare large
differences is not as sure as meant: it errs in 4 to 11 % of samples in place of 2.5 (decision 17)."""

UNLIMITED = (-math.inf, math.inf)
_RESAMPLES = 4999


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


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over rows with its standard error and the degrees of freedom of that error."""

    mean: float
    error: float
    degrees: float


def is_binary(values: Sequence[float], limits: tuple[float, float] = UNLIMITED) -> bool:
    """Whether every value is 0 or 1, as truth values are. Where only one of them occurs the limits of a value must let
    the other be: 1 throughout on a scale of 1 to 5 says nothing of shares."""
    seen = {float(value) for value in values}
    return seen <= {0.0, 1.0} and (len(seen) == 2 or (limits[0] <= 0 and limits[1] >= 1))


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    limits: tuple[float, float] = UNLIMITED,
) -> tuple[float, float] | None:
    """95 % interval of a mean: Wilson's for values of 0 and 1, Student's t for others, within the limits of a value.

    clusters: for each value, what it shares with others. The error is then cluster-robust; Wilson's interval takes the
    number of independent values that would have that error. None where there can be none, as `no_interval` says.

    Raises:
        ValueError: there are no values, or not as many cluster names.
    """
    import numpy as np

    if no_interval(values, clusters, limits):
        return None
    sample = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(sample, clusters)
    found = estimate_mean(sums, sizes)
    if is_binary(values, limits):
        if len(sums) == len(sample):
            return wilson_interval(found.mean, len(sample), normal_quantile())
        independent = independent_rows(found, sizes, found.mean * (1 - found.mean))
        return wilson_interval(found.mean, independent, _t_quantile(found.degrees))
    low, high = limits
    if _no_spread(found, values):
        unseen = wilson_interval(0.0, len(sums), normal_quantile())[1]
        return found.mean - unseen * (found.mean - low), found.mean + unseen * (high - found.mean)
    reach = _t_quantile(found.degrees) * found.error
    return min(found.mean, max(low, found.mean - reach)), max(found.mean, min(high, found.mean + reach))


def no_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, limits: tuple[float, float] = UNLIMITED
) -> str:
    """Why there can be no interval of the mean of these values; empty where there is one.

    One value says nothing about another, nor does one cluster. Values that are all the same show no spread, nor do
    clusters whose means are: how large a rare other one would be, only the limits of a value can tell.

    Raises:
        ValueError: there are no values, or not as many cluster names.
    """
    import numpy as np

    if not len(values):
        raise ValueError("an interval of a mean needs at least one value")
    if clusters is not None and len(clusters) != len(values):
        raise ValueError("clusters need a name for each row")
    if len(values) == 1:
        return "one row says nothing about others"
    if clusters is not None and len(set(clusters)) == 1:
        return "one cluster says nothing about others"
    if is_binary(values, limits) or all(map(math.isfinite, limits)):
        return ""
    sums, sizes = cluster_sums(np.asarray(values, dtype=float), clusters)
    if not _no_spread(estimate_mean(sums, sizes), values):
        return ""
    what = (
        "row has the same value" if len(sums) == len(values) or len(set(values)) == 1 else "cluster has the same mean"
    )
    return f"every {what}, of unknown scale"


def _no_spread(found: MeanEstimate, values: Sequence[float]) -> bool:
    """Whether clusters, or values where each is its own, differ by no more than rounding."""
    return found.error <= max(ROUNDING * max(map(abs, values)), 1e-150)


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

    Raises:
        ValueError: the samples or cluster names differ in length, or are empty.
    """
    import numpy as np

    if len(a) != len(b) or not len(a):
        raise ValueError("paired samples need the same number of values, and at least one")
    differences = paired_differences(a, b, limits)
    sums, sizes = cluster_sums(differences, clusters)
    if len(sums) == len(a) and is_binary(a, limits) and is_binary(b, limits):
        return _mcnemar(differences)
    unit = scale(a, b, limits)
    generator = np.random.default_rng(seed)
    flips = sign_flips(sums / (unit or 1.0), sizes, alpha=ALPHA, resamples=resamples, generator=generator)
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


def estimate_mean(sums: Any, sizes: Any) -> MeanEstimate:
    """The mean over rows that come in clusters, from the sum and the size of each.

    The error is CR2, the degrees of freedom are Bell and McCaffrey's ("Bias reduction in standard errors for linear
    regression with multi-stage samples", 2002), here in closed form. Clusters of equal size have G − 1, and clusters of
    one row give the usual s/√n. A single cluster has no error to estimate: 0, with no degrees of freedom.
    """
    rows = float(sizes.sum())
    mean = float(sums.sum()) / rows
    if len(sums) == 1:
        return MeanEstimate(mean, 0.0, 0.0)
    shares = sizes / rows
    residuals = sums - sizes * mean
    error = float((residuals**2 / (1 - shares)).sum()) ** 0.5 / rows
    weights = shares**2 / (1 - shares)
    degrees = 1 / float((shares**2).sum() + weights.sum() ** 2 - (weights**2).sum())
    return MeanEstimate(mean, error, degrees)


def independent_rows(found: MeanEstimate, sizes: Any, variance: float) -> float:
    """How many independent rows of that variance would have the error found: at most all rows, and at least as many as
    there would be if rows of one cluster always agreed. sizes: of the clusters."""
    rows = float(sizes.sum())
    fewest = rows**2 / float((sizes**2).sum())
    return min(rows, max(fewest, variance / found.error**2)) if found.error else fewest


def cluster_sums(values: Any, clusters: Sequence[Hashable] | None) -> tuple[Any, Any]:
    """Sum and size of each cluster of an array's values; each value is its own cluster when None.

    Raises:
        ValueError: there are not as many cluster names as values.
    """
    import numpy as np

    groups = _groups(clusters, len(values))
    if groups is None:
        return values, np.ones(len(values))
    return np.bincount(groups, weights=values), np.bincount(groups)


def paired_differences(a: Sequence[float], b: Sequence[float], limits: tuple[float, float] = UNLIMITED) -> Any:
    """b − a, as an array. Scores that are the same in exact numbers may come out of different sums: a difference below
    1e-12 of the distance of the limits, or without limits of the largest score, is rounding, and 0."""
    import numpy as np

    scores = np.asarray([a, b], dtype=float)
    span = limits[1] - limits[0]
    differences = scores[1] - scores[0]
    differences[np.abs(differences) <= ROUNDING * (span if math.isfinite(span) else np.abs(scores).max())] = 0.0
    return differences


def scale(a: Sequence[float], b: Sequence[float], limits: tuple[float, float] = UNLIMITED) -> float:
    """The largest difference seen. Where there is none, what one could be: the distance of the limits, 1 for scores
    within 0 and 1, else the spread of the scores (0 when every score is the same number)."""
    import numpy as np

    differences = paired_differences(a, b, limits)
    if differences.any():
        return float(np.abs(differences).max())
    if math.isfinite(limits[1] - limits[0]):
        return limits[1] - limits[0]
    scores = np.asarray([a, b], dtype=float)
    return 1.0 if scores.min() >= 0 and scores.max() <= 1 else float(np.ptp(scores))


def _groups(clusters: Sequence[Hashable] | None, rows: int) -> Any:
    """For each row the number of its cluster; None when no two rows share one."""
    import numpy as np

    if clusters is None:
        return None
    if len(clusters) != rows:
        raise ValueError("clusters need a name for each row")
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=int)
    return None if len(numbers) == rows else groups


def _t_quantile(degrees: float) -> float:
    from scipy import special

    return float(special.stdtrit(degrees, 0.5 + CONFIDENCE / 2)) if degrees else 0.0


def _mcnemar(differences: Any) -> PairedTest:
    """Exact McNemar test (a binomial test of the pairs that differ), and the interval that agrees with it."""
    gained, lost, n = int((differences > 0).sum()), int((differences < 0).sum()), len(differences)
    tested = PairedTest((gained - lost) / n, None, sign_test_p(gained, lost), "mcnemar-exact")
    if n == 1:
        return replace(tested, note="one pair says nothing about others")
    return replace(tested, ci95=difference_interval(gained, lost, n))


@dataclass(frozen=True, slots=True)
class _Bootstrap:
    p_value: float
    low: float
    high: float
    acceleration: float = 0.0


def _bootstrap(sums: Any, sizes: Any) -> _Bootstrap:
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
        return _Bootstrap(1.0, -unseen, unseen)

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
    return _Bootstrap(p_value, low, high, acceleration)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: keeps the chance of any false finding among them at the nominal level."""
    # Not statsmodels' multipletests: it collects garbage at every call, which takes 0.15 s.
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted
