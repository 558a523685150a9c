"""How small a difference a paired comparison can see, and how many rows a smaller one needs.

Planned from what the pairs at hand show of their noise: for values of 0 and 1 the share of pairs that differ, for
others the spread of the differences; where rows come in clusters, the spread of the clusters. All of it is for the
two-sided test at 5 %, and for a chance of 80 % to find what there is.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation import statistics
from llmops.evaluation.statistics import ALPHA, ROUNDING

POWER = 0.8
_EXACT_UP_TO = 4096  # discordant pairs; above, Connor's formula gives the same power to half a percent
_MOST_ROWS = 10**12
_PRECISION = 1e-4  # of a detectable difference, relative


@dataclass(frozen=True, slots=True)
class Discordance:
    """share: of the pairs of truth values that differ. A difference above it makes it as large as itself."""

    share: float

    def power(self, rows: float, difference: float) -> float:
        """Unconditional power of the exact McNemar test: over every number of discordant pairs, its chance times the
        binomial test's power. For very many pairs Connor, "Sample size for testing differences in proportions for the
        paired-sample design", 1987."""
        import numpy as np
        from scipy import special

        pairs, gap = math.floor(rows), abs(difference)
        share = min(1.0, max(self.share, gap))
        if not share:
            return 0.0
        if pairs * share > _EXACT_UP_TO:
            if share <= gap:
                return 1.0
            beyond = gap * pairs**0.5 - statistics.normal_quantile() * share**0.5
            return float(special.ndtr(beyond / (share - gap**2) ** 0.5))
        discordant, chance = _counts(pairs, share)
        table = _critical(1 << int(discordant[-1]).bit_length())  # of few sizes: a table takes up to 0.1 s
        critical, gain = table[discordant], (share + gap) / (2 * share)
        power = special.bdtr(critical, discordant, gain) + special.bdtr(critical, discordant, 1 - gain)
        return float((chance * np.where(critical >= 0, power, 0.0)).sum())

    def detectable(self, rows: float) -> float:
        """The smallest true difference found with the chance `POWER`; infinite where none is."""
        if self.power(rows, 1.0) < POWER:
            return math.inf
        return _smallest(lambda difference: self.power(rows, difference) >= POWER, 1.0)


@dataclass(frozen=True, slots=True)
class Spread:
    """What the error of a mean difference comes from.

    deviation: standard deviation of the differences, where every row stands for itself; in clusters the error of the
        mean times √rows, which is larger.
    rows_each: rows of a cluster, on average.
    balance: the clusters, of equal size, that would give as sure an error as the clusters do, as a share of these
        (degrees of freedom + 1 by clusters).
    moved: share of the rows (clusters) that differ at all. Only their signs can be turned, and a true difference is
        one of theirs; one that is larger than they are moves more of them.
    """

    deviation: float
    rows_each: float = 1.0
    balance: float = 1.0
    moved: float = 1.0

    def power(self, rows: float, difference: float) -> float:
        """Power of Student's test (t shifted by the true difference), which `paired_tests.paired_test` nearly has: over
        every number of rows that move, its chance times the power of a test of these."""
        import numpy as np
        from scipy import special

        if not difference or not math.isfinite(self.deviation):
            return 0.0
        clusters, variance = rows / self.rows_each, self.deviation**2 / self.moved
        size = (variance / self.rows_each) ** 0.5  # of the difference in a row (cluster) that moves
        share = min(1.0, max(self.moved, abs(difference) / size)) if size else self.moved
        effect = abs(difference) / share * self.rows_each**0.5
        moved, chance = _counts(clusters, share)

        # From how many standard errors on a difference is significant: of few rows or clusters the smallest p-values
        # are far apart, and the last below alpha may be well below.
        flips = 2.0 ** (np.floor(np.minimum(moved, 60)) - 1)
        reachable = (np.ceil(ALPHA * flips) - 1) / flips
        degrees = self.balance * moved - 1
        possible = (reachable > 0) & (degrees >= 1)
        degrees = np.where(possible, degrees, 1.0)
        critical = np.where(possible, special.stdtrit(degrees, 1 - np.maximum(reachable, 1e-300) / 2), math.inf)
        if not size:
            return float(chance[np.isfinite(critical)].sum())

        # By how much a difference must be larger than Student's test asks for: with G clusters by 0.25 / (G − 1) since
        # a deviation from few is too small on average (c₄); and, found by simulation, by 0.5 / (G − 1) and a little
        # more with very few, since two tests must both be sure, which agree less on clusters of unequal size.
        few = 1 / np.maximum(moved - 1, 1.0)
        allowance = 1 + 0.75 * few + 1.5 * few**2 + 0.08 * (1 - self.balance)
        # Do those that move all shift, and deviate as before, or do more of them turn, and the size stays? Half way.
        error = (variance - (1 - share) * effect**2 / 2) ** 0.5 * allowance
        return float(chance @ np.nan_to_num(special.stdtr(degrees, effect * moved**0.5 / error - critical)))

    def detectable(self, rows: float) -> float:
        """As for `Discordance`."""
        if self.power(rows, 1e9 * self.deviation or 1.0) < POWER:
            return math.inf
        if not self.deviation:
            return 0.0
        return _smallest(lambda difference: self.power(rows, difference) >= POWER, self.deviation)


PairVariation = Discordance | Spread
"""What hides a difference."""


def _counts(clusters: float, share: float) -> tuple[Any, Any]:
    """How many of the clusters may be those that move, and the chance of each number."""
    import numpy as np
    from scipy import special

    if share == 1 or clusters * share > _EXACT_UP_TO:
        return np.array([clusters if share == 1 else clusters * share]), np.array([1.0])
    count = math.floor(clusters)
    centre, spread = count * share, (count * share * (1 - share)) ** 0.5
    fewest, most = max(0, math.floor(centre - 8 * spread)), min(count, math.ceil(centre + 8 * spread))
    numbers = np.arange(fewest, most + 1)
    return numbers, np.diff(special.bdtr(numbers.astype(float), count, share), prepend=0.0)


@cache
def _critical(size: int) -> Any:
    """For each number of discordant pairs below `size`, the most gains (or losses) whose two-sided p is below alpha;
    −1: none."""
    import numpy as np
    from scipy import special

    # The inverse is not defined where even 0 gains have a p above alpha.
    least_above = np.nan_to_num(np.ceil(special.bdtrik(ALPHA / 2, np.arange(1.0, size), 0.5)), nan=0.0)
    return np.append(-1.0, np.maximum(least_above, 0.0) - 1)


def _smallest(enough: Callable[[float], bool], unit: float) -> float:
    """The smallest difference that is enough, where the largest one is; sought from one `unit` on."""
    smallest, largest = 0.0, unit or 1.0
    while not enough(largest):
        smallest, largest = largest, 2 * largest
    while largest - smallest > _PRECISION * largest:
        middle = (smallest + largest) / 2
        smallest, largest = (smallest, middle) if enough(middle) else (middle, largest)
    return largest


@dataclass(frozen=True, slots=True)
class Power:
    """What a comparison of so many rows can see.

    detectable: the difference found with the chance `POWER`; infinite where no difference is.
    rows_for: rows needed to find smaller differences, in clusters like those at hand.
    design_effect: rows that are worth one independent row.
    in_points: scores lie within 0 and 1, so that a difference is told in points of a hundred.
    note: what was assumed where the rows show no noise, else empty.
    """

    rows: int
    detectable: float
    rows_for: Mapping[float, int]
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
        seen = f"{with_rows} a difference of {self.told(self.detectable)} can be seen"
        needed = ", ".join(
            f"for {self.told(gap)} {'' if number else 'you need '}{rows}{'' if number else ' rows'}"
            for number, (gap, rows) in enumerate(self.rows_for.items())
        )
        return f"{seen}; {needed}{note}" if needed else f"{seen}{note}"

    def told(self, difference: float) -> str:
        """A difference in points of a hundred, where scores lie within 0 and 1."""
        number = 100 * difference if self.in_points else difference
        shown = f"{number:.0f}" if number >= 100 else f"{number:.2g}"
        return shown if not self.in_points else f"{shown} point{'' if shown == '1' else 's'}"


def power_of(
    a: Sequence[float],
    b: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    limits: tuple[float, float] = statistics.UNLIMITED,
    targets: Sequence[float] | None = None,
) -> Power:
    """What `paired_tests.paired_test` could have found in these pairs.

    Where no pair differs, the share that could is taken at its upper 95 % bound, about 3 in n (the rule of three).

    limits: of a value. No difference can be seen where one would have to be larger than they let the mean of `a` rise
        or fall; where they let it do only one of the two, the note says so.
    targets: differences to say the rows for; a half and a quarter of what can be seen when None.

    Raises UsageError: the samples differ in length, or are empty; a target is not above 0.
    """
    if len(a) != len(b) or not len(a) or (clusters is not None and len(clusters) != len(a)):
        raise UsageError("power needs the same number of values in both samples, at least one, and of cluster names")
    noise, effect, note = _noise(a, b, clusters, limits)
    detectable = noise.detectable(len(a))
    if math.isfinite(limits[1] - limits[0]):
        in_points = limits[0] >= 0 and limits[1] <= 1
    else:
        in_points = min(*a, *b) >= 0 and max(*a, *b) <= 1
    low, high = (0.0, 1.0) if in_points else limits
    mean = float(sum(a) / len(a))
    if detectable > max(high - mean, mean - low):
        detectable = math.inf
    if targets is None:
        targets = [float(f"{detectable / part:.1g}") for part in (2, 4)] if 0 < detectable < math.inf else []
    rows_for = {gap: rows_needed(gap, noise) for gap in targets}
    power = Power(len(a), detectable, rows_for, effect, in_points, note)
    way, room = min(("rise", high - mean), ("fall", mean - low), key=lambda end: end[1])
    if not room < detectable < math.inf:
        return power
    no_room = f"the baseline's mean (a) can{f' {way} by {power.told(room)} at most' if room else f'not {way}'}"
    return replace(power, note=f"{note}; {no_room}" if note else no_room)


def rows_needed(difference: float, noise: PairVariation) -> int:
    """Rows with which a true difference is found with the chance `POWER`. Raises UsageError: the difference is not
    above 0, or needs more rows than anybody has (10¹²)."""
    if not difference > 0:
        raise UsageError("a difference to be found must be above 0")
    most = 8
    while noise.power(most, difference) < POWER:
        most *= 2
        if most > _MOST_ROWS:
            raise UsageError(f"a difference of {difference:g} needs more than {_MOST_ROWS:.0e} rows")
    fewest = most // 2 if most > 8 else 0
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if noise.power(middle, difference) >= POWER else (middle, most)
    return most


def _noise(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable] | None, limits: tuple[float, float]
) -> tuple[PairVariation, float, str]:
    """The noise of the differences, the design effect, and what had to be assumed."""
    differences = statistics.paired_differences(a, b, limits)
    binary = statistics.is_binary(a, limits) and statistics.is_binary(b, limits)
    sums, sizes = statistics.cluster_sums(differences, clusters)
    estimate, rows, units = statistics.estimate_mean(sums, sizes), len(differences), len(sums)
    clustered = units < rows
    each, balance = (rows / units, (estimate.degrees + 1) / units) if clustered else (1.0, 1.0)
    if differences.any():
        variance = float(differences.var(ddof=1)) if rows > 1 else 0.0
        effect = rows / statistics.independent_rows(estimate, sizes, variance) if clustered else 1.0
        if binary and not clustered:
            return Discordance(float((differences != 0).mean())), effect, ""
        sizeable = abs(sums) > ROUNDING * abs(sums).max()  # as `sign_flips` has it
        return Spread(estimate.error * rows**0.5, each, balance, float(sizeable.mean())), effect, ""

    # Rows of a cluster that never differ say as much as one of them.
    share = 1 - 0.05 ** (1 / units)
    note = f"no pair differed; up to {100 * share:.2g} % could, by the rule of three"
    if binary and not clustered:
        return Discordance(share), each, note
    unit = statistics.scale(a, b, limits)
    if unit == 0:
        return Spread(math.inf, each, balance), each, "every score is the same number, of unknown scale"
    return Spread(unit * (share * each) ** 0.5, each, balance), each, note
