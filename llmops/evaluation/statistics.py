"""Intervals for means and shares, exact tests of shares, the error of means of clustered rows, and Holm's correction.

Where a share is tested, its interval is the same test inverted: p is below 0.05 exactly when the interval leaves out
the value that was tested. `paired_tests` compares two samples pair by pair.
"""

import math
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
UNLIMITED = (-math.inf, math.inf)
_PRECISION = 1e-12  # of an interval's end
ROUNDING = 1e-12
"""Relative to the largest difference: below, a difference comes from rounding."""


def normal_quantile() -> float:
    """Standard errors to each side of an estimate that a 95 % interval reaches: 1.96."""
    from scipy import special

    return float(special.ndtri(0.5 + CONFIDENCE / 2))


def wilson_interval(share: float, rows: float, z: float) -> tuple[float, float]:
    """Interval of a share seen in `rows` rows, at z standard errors: Wilson, "Probable inference, the law of
    succession, and statistical inference", 1927. It is wide enough for a mean of numbers within 0 and 1 as well: of all
    such numbers truth values vary most."""
    shrink = 1 + z**2 / rows
    centre = (share + z**2 / (2 * rows)) / shrink
    reach = z / shrink * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    # In exact numbers it holds the share; at 0 and 1 rounding would leave it out by 1e-17.
    return max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach))


def sign_test_p(gained: int, lost: int) -> float:
    """Two-sided p of the exact binomial test that a gain is as likely as a loss."""
    from scipy import special

    return max(sys.float_info.min, min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5))))


def sign_test_interval(gained: int, lost: int) -> tuple[float, float]:
    """95 % interval of the share of gains among gains and losses, of which there is one at least: `sign_test_p`
    inverted, which is the interval of Clopper and Pearson ("The use of confidence or fiducial limits", 1934)."""
    from scipy import special

    tail = ALPHA / 2
    low = float(special.betaincinv(gained, lost + 1, tail)) if gained else 0.0
    high = float(special.betaincinv(gained + 1, lost, 1 - tail)) if lost else 1.0
    return low, high


def difference_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired shares, (gained − lost) / pairs; it leaves out 0 exactly when the
    exact McNemar test has a p below 0.05.

    It is the score test of Tango ("Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", 1998) inverted, with a continuity correction: as large as it takes for the test of no
    difference to be the exact one. Without a pair that differs it ends where Wilson's interval of no success does.
    """
    ends = [_end(gained, lost, pairs), _end(lost, gained, pairs)]
    return -ends[1], ends[0]


def _end(gained: int, lost: int, pairs: int) -> float:
    """The upper end."""
    from scipy import special

    # What has to be taken off |gained − lost| so that it is as many standard errors as the exact p has. Far out in the
    # tail the normal distribution's is the heavier one; nothing near p = 0.05 depends on it.
    z, exact = normal_quantile(), -float(special.ndtri(sign_test_p(gained, lost) / 2))
    correction = float(min(1.0, max(0.0, abs(gained - lost) - exact * (gained + lost) ** 0.5)))

    def excess(difference: float) -> float:
        beyond = pairs * difference - (gained - lost) - correction
        return beyond - z * _error(difference, gained, lost, pairs)

    if excess(1.0) <= 0:
        return 1.0
    # Where all pairs went one way, the difference itself is a root as well, and not the one that is meant.
    return bisected(excess, (gained - lost) / pairs + 2 * _PRECISION, 1.0, _PRECISION)


def bisected(function: Callable[[float], float], low: float, high: float, precision: float) -> float:
    """Where the function, whose signs at `low` and `high` differ, is zero, to within `precision`.

    By halving: scipy's root finders need fewer steps, and a third of a second to be imported.
    """
    rising = function(high) > 0
    while abs(high - low) > precision:
        middle = (low + high) / 2
        low, high = (low, middle) if (function(middle) > 0) == rising else (middle, high)
    return (low + high) / 2


def _error(difference: float, gained: int, lost: int, pairs: int) -> float:
    """Standard error of gained − lost, with the share of losses that is likeliest if the difference is the true one."""
    if difference < 0:
        return _error(-difference, lost, gained, pairs)
    b = difference * (2 * pairs - gained + lost) - (gained + lost)
    losses = ((b**2 + 8 * pairs * lost * difference * (1 - difference)) ** 0.5 - b) / (4 * pairs)
    return float(max(0.0, pairs * (2 * losses + difference - difference**2)) ** 0.5)


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

    Raises ValueError: there are no values, or not as many cluster names.
    """
    import numpy as np

    if no_interval(values, clusters, limits):
        return None
    sample = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(sample, clusters)
    estimate = estimate_mean(sums, sizes)
    if is_binary(values, limits):
        if len(sums) == len(sample):
            return wilson_interval(estimate.mean, len(sample), normal_quantile())
        independent = independent_rows(estimate, sizes, estimate.mean * (1 - estimate.mean))
        return wilson_interval(estimate.mean, independent, t_quantile(estimate.degrees))
    low, high = limits
    if _no_spread(estimate, values):
        unseen = wilson_interval(0.0, len(sums), normal_quantile())[1]
        return estimate.mean - unseen * (estimate.mean - low), estimate.mean + unseen * (high - estimate.mean)
    reach = t_quantile(estimate.degrees) * estimate.error
    return min(estimate.mean, max(low, estimate.mean - reach)), max(estimate.mean, min(high, estimate.mean + reach))


def no_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, limits: tuple[float, float] = UNLIMITED
) -> str:
    """Why there can be no interval of the mean of these values; empty where there is one.

    One value says nothing about another, nor does one cluster. Values that are all the same show no spread, nor do
    clusters whose means are: how large a rare other one would be, only the limits of a value can tell.

    Raises ValueError: there are no values, or not as many cluster names.
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
    by_row = len(sums) == len(values) or len(set(values)) == 1
    return f"every {'row has the same value' if by_row else 'cluster has the same mean'}, of unknown scale"


def _no_spread(estimate: MeanEstimate, values: Sequence[float]) -> bool:
    """Whether clusters, or values where each is its own, differ by no more than rounding."""
    return estimate.error <= max(ROUNDING * max(map(abs, values)), 1e-150)


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


def independent_rows(estimate: MeanEstimate, sizes: Any, variance: float) -> float:
    """How many independent rows of that variance would have the error found: at most all rows, and at least as many as
    there would be if rows of one cluster always agreed. sizes: of the clusters."""
    rows = float(sizes.sum())
    fewest = rows**2 / float((sizes**2).sum())
    return min(rows, max(fewest, variance / estimate.error**2)) if estimate.error else fewest


def cluster_sums(values: Any, clusters: Sequence[Hashable] | None) -> tuple[Any, Any]:
    """Sum and size of each cluster of an array's values; each value is its own cluster when None. Raises ValueError:
    there are not as many cluster names as values."""
    import numpy as np

    if clusters is not None and len(clusters) != len(values):
        raise ValueError("clusters need a name for each row")
    numbers: dict[Hashable, int] = {}
    groups = [numbers.setdefault(name, len(numbers)) for name in clusters or ()]
    if len(numbers) == len(values) or clusters is None:
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


def paired_difference(a: float, b: float, limits: tuple[float, float] = UNLIMITED) -> float:
    """b − a of one pair, with 0 for a difference that is rounding, as in `paired_differences`."""
    span = limits[1] - limits[0]
    least = ROUNDING * (span if math.isfinite(span) else max(abs(a), abs(b)))
    return float(b - a) if abs(b - a) > least else 0.0


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


def t_quantile(degrees: float) -> float:
    """As `normal_quantile`, of an error that is itself an estimate with so many degrees of freedom; 0 for none."""
    from scipy import special

    if math.isinf(degrees):
        return normal_quantile()
    return float(special.stdtrit(degrees, 0.5 + CONFIDENCE / 2)) if degrees else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: keeps the chance of any false finding among them at the nominal level."""
    # Not statsmodels' multipletests: it collects garbage at every call, which takes 0.15 s.
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted
