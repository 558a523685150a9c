"""Tests and intervals of shares: of one share, of a majority, and of the difference between two paired shares.

Where a share is tested, its interval is the same test inverted: p is below 0.05 exactly when the interval leaves out
the value that was tested.
"""

from __future__ import annotations

import sys

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
_PRECISION = 1e-12  # of an interval's end


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
    from scipy.optimize import brentq

    z, correction = normal_quantile(), _continuity_correction(gained, lost)

    def excess(difference: float) -> float:
        beyond = pairs * difference - (gained - lost) - correction
        return beyond - z * _error(difference, gained, lost, pairs)

    if excess(1.0) <= 0:
        return 1.0
    # Where all pairs went one way, the difference itself is a root as well, and not the one that is meant.
    return float(brentq(excess, (gained - lost) / pairs + 2 * _PRECISION, 1.0, xtol=_PRECISION))


def _continuity_correction(gained: int, lost: int) -> float:
    """What has to be taken off |gained − lost| so that it is as many standard errors as the exact p has."""
    from scipy import special

    exact = -float(special.ndtri(sign_test_p(gained, lost) / 2))
    # Far out in the tail the normal distribution's is the heavier one; nothing near p = 0.05 depends on it.
    return float(min(1.0, max(0.0, abs(gained - lost) - exact * (gained + lost) ** 0.5)))


def _error(difference: float, gained: int, lost: int, pairs: int) -> float:
    """Standard error of gained − lost, with the share of losses that is likeliest if the difference is the true one."""
    if difference < 0:
        return _error(-difference, lost, gained, pairs)
    b = difference * (2 * pairs - gained + lost) - (gained + lost)
    losses = ((b**2 + 8 * pairs * lost * difference * (1 - difference)) ** 0.5 - b) / (4 * pairs)
    return float(max(0.0, pairs * (2 * losses + difference - difference**2)) ** 0.5)
