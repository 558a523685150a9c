"""How small a difference a paired comparison can see, and how many rows a smaller one needs.

Planned from what the pairs at hand show of their noise: for values of 0 and 1 the share of pairs that differ, for
others the spread of the differences; where rows come in clusters, the spread of the clusters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from llmops.errors import UsageError
from llmops.evaluation import statistics

ALPHA = 0.05
POWER = 0.8
_EXACT_UP_TO = 4096  # discordant pairs; above, Connor's formula gives the same power to half a percent
_TABLE = 2 * _EXACT_UP_TO
_MOST_ROWS = 10**12
_PRECISION = 1e-4  # of a detectable difference, relative


class Noise(Protocol):
    """What hides a difference."""

    def power(self, rows: float, difference: float, alpha: float = ALPHA) -> float:
        """The chance that the two-sided test at `alpha` finds a true difference. rows: independent ones."""

    def detectable(self, rows: float, alpha: float = ALPHA, power: float = POWER) -> float:
        """The smallest true difference found with the chance `power`; infinite where none is."""


@dataclass(frozen=True, slots=True)
class Discordance:
    """share: of the pairs of truth values that differ. A difference above it makes it as large as itself."""

    share: float

    def power(self, rows: float, difference: float, alpha: float = ALPHA) -> float:
        """Unconditional power of the exact McNemar test: over every number of discordant pairs, its chance times the
        binomial test's power. For very many pairs Connor, "Sample size for testing differences in proportions for the
        paired-sample design", 1987."""
        import numpy as np
        from scipy import special

        pairs, gap = math.floor(rows), abs(difference)
        share = min(1.0, max(self.share, gap))
        if pairs * share > _EXACT_UP_TO:
            return _connor(pairs, share, gap, alpha)
        if not share:
            return 0.0
        centre, spread = pairs * share, (pairs * share * (1 - share)) ** 0.5
        fewest, most = max(0, math.floor(centre - 8 * spread)), min(pairs, math.ceil(centre + 8 * spread))
        discordant = np.arange(fewest, most + 1)
        chance = np.diff(special.bdtr(discordant.astype(float), pairs, share), prepend=0.0)
        critical, gain = _critical(alpha)[discordant], (share + gap) / (2 * share)
        found = special.bdtr(critical, discordant, gain) + special.bdtr(critical, discordant, 1 - gain)
        return float((chance * np.where(critical >= 0, found, 0.0)).sum())

    def detectable(self, rows: float, alpha: float = ALPHA, power: float = POWER) -> float:
        smallest, largest = 0.0, 1.0
        if self.power(rows, largest, alpha) < power:
            return math.inf
        while largest - smallest > _PRECISION * largest:
            middle = (smallest + largest) / 2
            smallest, largest = (smallest, middle) if self.power(rows, middle, alpha) >= power else (middle, largest)
        return largest


@dataclass(frozen=True, slots=True)
class Spread:
    """What the error of a mean difference comes from.

    deviation: standard deviation of the differences, where every row stands for itself; in clusters the error of the
    mean times √rows, which is larger. rows_each: rows of a cluster, on average. balance: the clusters, of equal size,
    that would give as sure an error as the clusters do, as a share of these (degrees of freedom + 1 by clusters).
    """

    deviation: float
    rows_each: float = 1.0
    balance: float = 1.0

    def power(self, rows: float, difference: float, alpha: float = ALPHA) -> float:
        """Power of Student's test (t shifted by the true difference), which `statistics.paired_test` nearly has."""
        from scipy import special

        degrees, critical = self._test(rows, alpha)
        if not math.isfinite(critical):
            return 0.0
        if self.deviation == 0:
            return 1.0 if difference else 0.0
        shift = abs(difference) * rows**0.5 / (self.deviation * self._allowance(rows))
        return float(special.stdtr(degrees, shift - critical))

    def detectable(self, rows: float, alpha: float = ALPHA, power: float = POWER) -> float:
        from scipy import special

        degrees, critical = self._test(rows, alpha)
        if not (math.isfinite(critical) and math.isfinite(self.deviation)):
            return math.inf
        shift = float(critical + special.stdtrit(degrees, power))
        return float(shift * self._allowance(rows) * self.deviation / rows**0.5)

    def _test(self, rows: float, alpha: float) -> tuple[float, float]:
        """Degrees of freedom, and from how many standard errors on a difference is significant. Of few rows or clusters
        the smallest p-values are far apart, and the last below alpha may be well below."""
        from scipy import special

        clusters = rows / self.rows_each
        degrees = self.balance * clusters - 1
        flips = 2.0 ** (min(math.floor(clusters), 60) - 1)
        reachable = (math.ceil(alpha * flips) - 1) / flips
        if reachable <= 0 or degrees < 1:
            return degrees, math.inf
        return degrees, float(special.stdtrit(degrees, 1 - reachable / 2))

    def _allowance(self, rows: float) -> float:
        """By how much a difference must be larger than Student's test asks for: with G clusters by 0.25 / (G − 1) since
        a deviation from few is too small on average (c₄); and, found by simulation, by 0.5 / (G − 1) and a little more
        with very few, since two tests must both be sure, which agree less on clusters of unequal size."""
        few = 1 / (rows / self.rows_each - 1)
        return 1 + 0.75 * few + 1.5 * few**2 + 0.08 * (1 - self.balance)


@dataclass(frozen=True, slots=True)
class Power:
    """What a comparison of so many rows can see.

    detectable: the difference found with the chance `power` at level `alpha`; infinite where no difference is.
    rows_for: rows needed to find smaller differences, in clusters like those at hand. design_effect: rows that are
    worth one independent row.
    in_points: scores lie within 0 and 1, so that a difference is told in points of a hundred. note: what was assumed
    where the rows show no noise, else empty.
    """

    rows: int
    detectable: float
    rows_for: Mapping[float, int]
    alpha: float = ALPHA
    power: float = POWER
    design_effect: float = 1.0
    in_points: bool = True
    note: str = ""

    @property
    def sentence(self) -> str:
        """For a reader: "with 100 rows a difference of 9 points can be seen; for 4 points you need 420 rows,
        for 2 points 1650"."""
        with_rows = f"with {self.rows} row{'s' if self.rows != 1 else ''}"
        note = f" ({self.note})" if self.note else ""
        if not math.isfinite(self.detectable):
            return f"{with_rows} no difference can be seen, however large{note}"
        seen = f"{with_rows} a difference of {self._told(self.detectable)} can be seen"
        needed = ", ".join(
            f"for {self._told(gap)} {'' if number else 'you need '}{rows}{'' if number else ' rows'}"
            for number, (gap, rows) in enumerate(self.rows_for.items())
        )
        return f"{seen}; {needed}{note}" if needed else f"{seen}{note}"

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "detectable": self.detectable if math.isfinite(self.detectable) else None,
            "rows_for": {f"{gap:g}": rows for gap, rows in self.rows_for.items()},
            "alpha": self.alpha,
            "power": self.power,
            "design_effect": self.design_effect,
            "note": self.note,
            "sentence": self.sentence,
        }

    def _told(self, difference: float) -> str:
        number = 100 * difference if self.in_points else difference
        shown = f"{number:.0f}" if number >= 100 else f"{number:.2g}"
        return shown if not self.in_points else f"{shown} point{'' if shown == '1' else 's'}"


def power_of(
    a: Sequence[float],
    b: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
    targets: Sequence[float] | None = None,
) -> Power:
    """What `statistics.paired_test` could have found in these pairs.

    targets: differences to say the rows for; a half and a quarter of what can be seen when None.
    Where no pair differs, the share that could is taken at its upper 95 % bound, about 3 in n (the rule of three).

    Raises:
        UsageError: the samples differ in length, or are empty; a target is not above 0.
    """
    import numpy as np

    if len(a) != len(b) or not len(a) or (clusters is not None and len(clusters) != len(a)):
        raise UsageError("power needs the same number of values in both samples, at least one, and of cluster names")
    scores = np.asarray([a, b], dtype=float)
    binary = statistics.is_binary(a) and statistics.is_binary(b)
    noise, effect, note = _noise(scores, clusters, binary)
    detectable = noise.detectable(len(a), alpha, power)
    in_points = bool(scores.min() >= 0 and scores.max() <= 1)
    if in_points and detectable > 1:
        detectable = math.inf
    if targets is None:
        targets = [float(f"{detectable / part:.1g}") for part in (2, 4)] if 0 < detectable < math.inf else []
    rows_for = {gap: rows_needed(gap, noise, alpha=alpha, power=power) for gap in targets}
    return Power(len(a), detectable, rows_for, alpha, power, effect, in_points, note)


def rows_needed(difference: float, noise: Noise, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Rows with which a true difference is found with the chance `power`.

    Raises:
        UsageError: the difference is not above 0, or needs more rows than anybody has (10¹²).
    """
    if not difference > 0:
        raise UsageError("a difference to be found must be above 0")
    most = 8
    while noise.power(most, difference, alpha) < power:
        most *= 2
        if most > _MOST_ROWS:
            raise UsageError(f"a difference of {difference:g} needs more than {_MOST_ROWS:.0e} rows")
    fewest = most // 2 if most > 8 else 0
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if noise.power(middle, difference, alpha) >= power else (middle, most)
    return most


def _noise(scores: Any, clusters: Sequence[Hashable] | None, binary: bool) -> tuple[Noise, float, str]:
    """The noise of the differences, the design effect, and what had to be assumed."""
    differences = scores[1] - scores[0]
    sums, sizes = statistics.cluster_sums(differences, clusters)
    found, rows, units = statistics.estimate_mean(sums, sizes), len(differences), len(sums)
    clustered = units < rows
    each, balance = (rows / units, (found.degrees + 1) / units) if clustered else (1.0, 1.0)
    if differences.any():
        variance = float(differences.var(ddof=1)) if rows > 1 else 0.0
        effect = rows / statistics.independent_rows(found, sizes, variance) if clustered else 1.0
        if binary and not clustered:
            return Discordance(float((differences != 0).mean())), effect, ""
        return Spread(found.error * rows**0.5, each, balance), effect, ""

    # Rows of a cluster that never differ say as much as one of them.
    share = 1 - 0.05 ** (1 / units)
    note = f"no pair differed; up to {100 * share:.2g} % could, by the rule of three"
    if binary and not clustered:
        return Discordance(share), each, note
    unit = statistics.scale(scores)
    if unit == 0:
        return Spread(math.inf, each, balance), each, "every score is the same number, of unknown scale"
    return Spread(unit * (share * each) ** 0.5, each, balance), each, note


@cache
def _critical(alpha: float) -> Any:
    """For each number of discordant pairs, the most gains (or losses) whose two-sided p is below alpha; −1: none."""
    import numpy as np
    from scipy import special

    # The inverse is not defined where even 0 gains have a p above alpha.
    least_above = np.nan_to_num(np.ceil(special.bdtrik(alpha / 2, np.arange(1.0, _TABLE), 0.5)), nan=0.0)
    return np.append(-1.0, np.maximum(least_above, 0.0) - 1)


def _connor(pairs: float, share: float, gap: float, alpha: float) -> float:
    from scipy import special

    if share <= gap:
        return 1.0
    z = float(special.ndtri(1 - alpha / 2))
    return float(special.ndtr((gap * pairs**0.5 - z * share**0.5) / (share - gap**2) ** 0.5))
