"""A comparison that may be looked at after every row and stopped at will: a test by betting.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023: somebody who bets on "b is
better" at odds that are fair when it is not, multiplies the wealth by 20 with a chance of 5 % at most, whenever they
look (Ville's inequality). Here ten bettors on each side stake fixed shares of their wealth, from 5 % to 95 %; the
evidence is their mean wealth, which comes close to that of the best of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.statistics import ALPHA, bisected

_STAKES = tuple(0.05 + 0.1 * number for number in range(10))
_BLOCK = 4096  # rows taken at a time
_EVIDENCE_DIGITS = 12
_PRECISION = 1e-9  # of an end of the interval, as a share of the range; ends are moved outwards by as much


class SequentialTest:
    """Anytime-valid test that a mean of paired differences b − a is 0, with an interval for that mean.

    Under no difference the chance that `p_value` ever falls to 5 % is at most 5 %, at every sample size and for any
    differences within the bounds; `interval` holds the true mean at all times with a chance of 95 %. Both need rows in
    an order that was fixed beforehand or drawn: never sorted by an outcome. Rows of one cluster belong into one
    difference (their mean).

    low, high: bounds of a difference, with 0 between them. The closer they are to what can happen, the sooner the test
    decides.

    Raises UsageError: 0 does not lie between the bounds.
    """

    def __init__(self, *, low: float = -1.0, high: float = 1.0) -> None:
        import numpy as np

        if not (math.isfinite(low) and math.isfinite(high) and low < 0 < high):
            raise UsageError("a sequential test needs low < 0 < high")
        self.low, self.high = low, high
        self._seen = np.empty(0)
        self._log_wealth = np.zeros(2 * len(_STAKES))
        self._most_evidence = 0.0
        self._rows_at_most = 0

    def update(self, differences: Sequence[float]) -> None:
        """Takes more rows; the outcome does not depend on how rows are cut into calls. Raises UsageError: a difference
        lies outside the bounds; none of this call's is then taken."""
        import numpy as np

        added = np.asarray(differences, dtype=float)
        if not ((added >= self.low) & (added <= self.high)).all():
            raise UsageError(f"a difference lies outside {self.low:g} to {self.high:g}")
        null = -self.low / (self.high - self.low)  # no difference, as a share of the range
        for start in range(0, len(added), _BLOCK):
            block = (added[start : start + _BLOCK] - self.low) / (self.high - self.low)
            path = self._log_wealth[:, None] + np.cumsum(_log_gains(block, null), axis=1)
            # Rounded, so that of rows with the same evidence it is the first that counts, whatever the last bits say.
            evidence = np.round(_log_mean(path), _EVIDENCE_DIGITS)
            best = int(evidence.argmax())
            if evidence[best] > self._most_evidence:
                self._most_evidence, self._rows_at_most = float(evidence[best]), self.n + best + 1
            self._log_wealth = path[:, -1]
            self._seen = np.append(self._seen, block)

    @property
    def n(self) -> int:
        """Rows taken."""
        return len(self._seen)

    @property
    def mean(self) -> float:
        """Mean difference of the rows taken; 0 before the first."""
        return self._difference(float(self._seen.mean())) if self.n else 0.0

    @property
    def p_value(self) -> float:
        """Two-sided; the smallest that any row led to, so that it never rises."""
        return math.exp(-self._most_evidence)

    @property
    def decided(self) -> bool:
        """Whether the difference is shown. It stays shown."""
        return self._most_evidence >= -math.log(ALPHA)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval: means that neither now nor when the evidence was strongest would be rejected."""
        if not self.n:
            return self.low, self.high
        now, strongest = self._interval_of(self.n), self._interval_of(self._rows_at_most)
        low, high = max(now[0], strongest[0]), min(now[1], strongest[1])
        # No mean fits both: the rows changed their nature. What is true of all of them is the better answer.
        return (low, high) if low <= high else now

    def _difference(self, share: float) -> float:
        return self.low + share * (self.high - self.low)

    def _interval_of(self, rows: int) -> tuple[float, float]:
        """The means not rejected after so many rows. They are an interval: the wealth is a convex function of the mean,
        and below its start at the mean seen."""
        import numpy as np

        if not rows:
            return self.low, self.high
        shares, counts = np.unique(self._seen[:rows], return_counts=True)
        seen = float(self._seen[:rows].mean())
        ends = (self._end(bound, seen, shares, counts) for bound in (0.0, 1.0))
        low, high = (self._difference(end) for end in ends)
        return low, high

    def _end(self, bound: float, seen: float, shares: Any, counts: Any) -> float:
        """The first mean from `seen` towards `bound` that is rejected; the bound when none is."""

        def excess(mean: float) -> float:
            return float(_log_mean(_log_gains(shares, mean) @ counts)) + math.log(ALPHA)

        outward = -_PRECISION if bound == 0 else _PRECISION
        outermost, inside = bound - outward, min(max(seen, _PRECISION), 1 - _PRECISION)
        if outermost == inside or excess(outermost) < 0:
            return bound
        return bisected(excess, outermost, inside, _PRECISION) + outward


def _log_gains(shares: Any, mean: float) -> Any:
    """By what factor each bettor's wealth changes with each row, as logarithms; bettors are rows.

    shares: rows within 0 and 1, whose mean is `mean` if the odds are fair.
    """
    import numpy as np

    above, below = shares / mean - 1, (1 - shares) / (1 - mean) - 1
    stakes = np.asarray(_STAKES)[:, None]
    return np.log1p(np.concatenate([stakes * above, stakes * below]))


def _log_mean(log_wealth: Any) -> Any:
    """Logarithm of the bettors' mean wealth."""
    import numpy as np

    top = log_wealth.max(axis=0)
    return top + np.log(np.exp(log_wealth - top).mean(axis=0))
