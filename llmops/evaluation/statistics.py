"""The statistics of a comparison: intervals for a mean, paired tests, and correction for testing several metrics.

Booleans are compared with the exact McNemar test and the Bonett–Price interval; numbers with a sign-flip permutation
test and the ABC interval (the bootstrap's BCa in closed form) with Bonett and Price's adjustment. Rows that share a
source (one passage, one conversation) come in clusters: whole clusters are then flipped, and the interval is
Student's with the cluster-robust error CR2. The tests are valid at every size; the intervals keep close to 95 %
coverage from about 30 pairs, or 20 clusters, on. `tests/evaluation/test_statistics.py` measures it, and
`python -m benchmarks.evaluation.statistics` on a larger scale. Only the permutation test draws at random.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
_RESAMPLES = 4999
_MOST_DRAWN = 4096  # differences whose signs are drawn one by one; the others' sum is as good as normal
_BLOCK = 2**20  # signs held in memory at a time
_ROUNDING = 1e-12  # relative to the largest difference: below, a difference comes from rounding


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Difference b − a of two paired samples with its 95 % interval and two-sided p-value. ci95: None where there can
    be none. note: why, or what else limits the test; else empty."""

    difference: float
    ci95: tuple[float, float] | None
    p_value: float
    test: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over rows with its standard error and the degrees of freedom of that error."""

    mean: float
    error: float
    degrees: float


def is_binary(values: Sequence[float]) -> bool:
    """Whether every value is 0 or 1; truth values are."""
    return all(value in (0, 1) for value in values)


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """95 % interval of a mean: Wilson's for truth values, Student's t for numbers. Needs one value or more.

    clusters: for each value, what it shares with others. The error is then cluster-robust; Wilson's interval takes the
    number of independent values that would have that error. A single cluster of numbers says nothing about another:
    its interval is the range of its values.

    Raises:
        ValueError: there are not as many cluster names as values.
    """
    import numpy as np
    from scipy import special

    sample = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(sample, clusters)
    found = estimate_mean(sums, sizes)
    if is_binary(values):
        if len(sums) == len(sample):
            return wilson_interval(found.mean, len(sample), float(special.ndtri(0.5 + CONFIDENCE / 2)))
        independent = independent_rows(found, sizes, found.mean * (1 - found.mean))
        return wilson_interval(found.mean, independent, _t_quantile(found.degrees))
    if len(sums) == 1:
        return float(sample.min()), float(sample.max())
    reach = _t_quantile(found.degrees) * found.error
    return found.mean - reach, found.mean + reach


def paired_test(
    a: Sequence[float],
    b: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> PairedTest:
    """Compares two samples whose values belong together pair by pair.

    clusters: for each pair, what it shares with others (its passage, its conversation). Pairs of one cluster are taken
    as dependent, and truth values tested by permutation too; clusters of one pair each change nothing.
    resamples: flips drawn by the permutation test; it counts all of them instead when there are no more than that.

    Raises:
        ValueError: the samples or cluster names differ in length, or are empty.
    """
    import numpy as np

    if len(a) != len(b) or not len(a):
        raise ValueError("paired samples need the same number of values, and at least one")
    groups = _groups(clusters, len(a))
    binary = is_binary(a) and is_binary(b)
    if groups is None and binary:
        return _mcnemar(a, b)

    scores = np.asarray([a, b], dtype=float)
    differences = scores[1] - scores[0]
    unit = 1.0 if binary else scale(scores)
    generator = np.random.default_rng(seed)
    if groups is None:
        return _compare_rows(differences, unit, resamples, generator)
    return _compare_clusters(differences, groups, unit, resamples, generator)


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


def scale(scores: Any) -> float:
    """The largest difference seen. Where there is none, what one could be: 1 for scores within 0 and 1, else the spread
    of the scores (0 when every score is the same number). scores: array of two rows."""
    import numpy as np

    differences = scores[1] - scores[0]
    if differences.any():
        return float(np.abs(differences).max())
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


def wilson_interval(share: float, rows: float, z: float) -> tuple[float, float]:
    """Interval of a share seen in `rows` rows, at z standard errors: Wilson, "Probable inference, the law of
    succession, and statistical inference", 1927. It is wide enough for a mean of numbers within 0 and 1 as well: of all
    such numbers truth values vary most."""
    shrink = 1 + z**2 / rows
    centre = (share + z**2 / (2 * rows)) / shrink
    reach = z / shrink * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    # In exact numbers it holds the share; at 0 and 1 rounding would leave it out by 1e-17.
    return max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach))


def _mcnemar(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Exact McNemar test (a binomial test of the discordant pairs); interval of Bonett and Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", 2012."""
    from scipy import special

    n = len(a)
    gained = sum(1 for x, y in zip(a, b, strict=True) if y and not x)
    lost = sum(1 for x, y in zip(a, b, strict=True) if x and not y)
    p_value = sign_test_p(gained, lost)
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = float(special.ndtri(0.5 + CONFIDENCE / 2)) * ((up + down - (up - down) ** 2) / (n + 2)) ** 0.5
    low, high = max(-1.0, up - down - reach), min(1.0, up - down + reach)
    return PairedTest((gained - lost) / n, (low, high), p_value, "mcnemar-exact")


def sign_test_p(gained: int, lost: int) -> float:
    """Two-sided p of the exact binomial test that a gain is as likely as a loss."""
    from scipy import special

    return max(sys.float_info.min, min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5))))


def _compare_rows(differences: Any, unit: float, resamples: int, generator: Any) -> PairedTest:
    mean = float(differences.mean())
    if unit == 0:  # every score is the same number, of unknown scale
        return PairedTest(mean, (mean, mean), 1.0, "paired-permutation")
    shares = differences / unit
    low, high = _abc_interval(shares)
    interval = min(unit * low, mean), max(unit * high, mean)
    return PairedTest(mean, interval, _sign_flip_p(shares, resamples, generator), "paired-permutation")


def _compare_clusters(differences: Any, groups: Any, unit: float, resamples: int, generator: Any) -> PairedTest:
    """Flips whole clusters. The interval is Student's with the error CR2, over the clusters and two more of mean size:
    one for each sign, as far from 0 as the farthest cluster is (Bonett and Price's adjustment, see `_abc_interval`)."""
    import numpy as np

    sums, sizes = np.bincount(groups, weights=differences), np.bincount(groups)
    mean = float(differences.mean())
    farthest = float(np.abs(sums / sizes).max()) or unit
    size = float(sizes.mean())
    found = estimate_mean(np.append(sums, [size * farthest, -size * farthest]), np.append(sizes, [size, size]))
    reach = _t_quantile(found.degrees) * found.error
    interval = min(found.mean - reach, mean), max(found.mean + reach, mean)
    p_value = _sign_flip_p(sums / (unit or 1.0), resamples, generator)
    return PairedTest(mean, interval, p_value, "paired-permutation")


def _abc_interval(shares: Any) -> tuple[float, float]:
    """ABC interval of the mean of numbers within ±1, one of each sign added at the ends.

    ABC (DiCiccio and Efron, "More accurate confidence intervals in exponential families", 1992) is the bootstrap's BCa
    interval without the bootstrap; for a mean, bias correction and acceleration are the same number. The two additions
    are Bonett and Price's adjustment, carried over from truth values: few pairs that differ, or none, do not show that
    no pair would. Without it the interval of 30 skewed or mostly equal pairs covers 89 % or less.

    The ends are the largest difference seen, so one thing stays unseen: 30 pairs that all gain the same small amount,
    but for rare large losses none of which was drawn, give an interval that is far too narrow.
    """
    import numpy as np
    from scipy import special

    sample = np.append(shares, [1.0, -1.0])
    mean = float(sample.mean())
    residuals = sample - mean
    squares = float((residuals**2).sum())
    acceleration = float((residuals**3).sum()) / (6 * squares**1.5)
    error = squares**0.5 / len(sample)
    reach = float(special.ndtri(0.5 + CONFIDENCE / 2))
    ends = (acceleration - reach, acceleration + reach)
    low, high = (mean + error * end / (1 - acceleration * end) ** 2 for end in ends)
    return max(-1.0, low), min(1.0, high)


def _sign_flip_p(sums: Any, resamples: int, generator: Any) -> float:
    """Two-sided p of the sign-flip permutation test: the chance of a sum as far from 0, were every sign a coin's (so it
    would be if a and b might as well be swapped in any pair, or cluster).

    Exact when all flips number no more than `resamples`, or all signs agree. Otherwise flips are drawn; beyond 4,096
    differences only the signs of the largest, and the sum of the small ones from its normal approximation.
    """
    import numpy as np

    moved = sums[np.abs(sums) > _ROUNDING * np.abs(sums).max()]
    if not len(moved):
        return 1.0
    if (moved > 0).all() or (moved < 0).all():
        return float(max(sys.float_info.min, 2.0 ** (1 - len(moved))))

    magnitudes = np.sort(np.abs(moved))[::-1]
    reach = abs(float(moved.sum())) - 10 * _ROUNDING * float(magnitudes.sum())
    if 2 ** (len(moved) - 1) <= resamples:
        return float((np.abs(_all_flips(magnitudes)) >= reach).mean())
    drawn, rest = magnitudes[:_MOST_DRAWN], magnitudes[_MOST_DRAWN:]
    spread = float((rest**2).sum()) ** 0.5
    found = np.abs(_drawn_flips(drawn, resamples, generator) + spread * generator.standard_normal(resamples)) >= reach
    return (1 + int(found.sum())) / (1 + resamples)


def _all_flips(magnitudes: Any) -> Any:
    """The sum under every flip, once for each pair of opposites: the last sign stays."""
    import numpy as np

    flips = np.arange(2 ** (len(magnitudes) - 1))[:, None] >> np.arange(len(magnitudes)) & 1
    return (1 - 2 * flips) @ magnitudes


def _drawn_flips(magnitudes: Any, resamples: int, generator: Any) -> Any:
    """The sum under `resamples` random flips, a block at a time."""
    import numpy as np

    n, sums = len(magnitudes), np.empty(resamples)
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        bits = generator.integers(0, 256, (stop - start, -(-n // 8)), dtype=np.uint8)
        kept = np.unpackbits(bits, axis=1, count=n).astype(float)
        sums[start:stop] = 2 * (kept @ magnitudes)
    return sums - float(magnitudes.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: keeps the chance of any false finding among them at the nominal level."""
    # Not statsmodels' multipletests: it collects garbage at every call, which takes 0.15 s.
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted
