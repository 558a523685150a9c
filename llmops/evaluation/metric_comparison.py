"""One metric of two runs: its scores pair by pair, and what a test makes of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmops.evaluation import statistics
from llmops.evaluation.eval_set import cluster_name
from llmops.evaluation.paired_tests import PairedTest, paired_test
from llmops.evaluation.power import Power, power_of
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers.protocol import Scorer, limits_of
from llmops.evaluation.sequential import SequentialTest
from llmops.evaluation.statistics import ALPHA
from llmops.hashing import JsonData


@dataclass(frozen=True, slots=True)
class Extreme:
    """The difference b − a once more, with every row that failed at one end of the values that it could have had."""

    difference: float
    ci95: tuple[float, float] | None
    p_value: float


@dataclass(frozen=True, slots=True)
class MetricComparison(JsonData):
    """One metric of two runs over the rows both have.

    difference: b − a.
    ci95: None where there can be no interval.
    p_adjusted: Holm over the metrics compared together.
    wins: rows where b is better (or, when neither direction is better, greater).
    n: pairs compared.
    failed_a, failed_b: rows without a score.
    clusters: independent groups of rows; None when every row stands for itself.
    detectable: the difference that n pairs show with a chance of 80 %.
    failed_as: what rows without a score count as; None where such pairs are left out.
    note: why there is no interval, or what else limits the test.
    skewed: as `PairedTest` has it.
    at_worst, at_best: with every failed row such that b is worst off, or best; None without failed rows, or where no
        such value is known.
    """

    a: float
    b: float
    difference: float
    ci95: tuple[float, float] | None
    p_value: float
    p_adjusted: float
    test: str
    wins: int
    losses: int
    ties: int
    n: int
    failed_a: int = 0
    failed_b: int = 0
    clusters: int | None = None
    detectable: float | None = None
    higher_is_better: bool | None = True
    failed_as: float | None = None
    note: str = ""
    skewed: int = 0
    at_worst: Extreme | None = None
    at_best: Extreme | None = None

    @property
    def failures_decide(self) -> bool:
        """Whether the failed rows could have had such values that the difference were not significant, or another."""
        if not (self.failed_a or self.failed_b):
            return False
        return any(
            end is None or end.p_value >= ALPHA or end.difference * self.difference <= 0
            for end in (self.at_worst, self.at_best)
        )


@dataclass(frozen=True, slots=True)
class NotCompared(JsonData):
    """A metric that two runs cannot be compared on. n: rows that both runs have. failed_a, failed_b: of these, rows
    without a score."""

    reason: str
    n: int
    failed_a: int
    failed_b: int


def value_of(result: RowResult, scorer: Scorer, failed_as: float | None = None) -> float | None:
    """The score's value; a row without one counts as `failed_as`, or else as the scorer's worst."""
    score = result.scores.get(scorer.name)
    if score is not None and score.value is not None:
        return score.value
    return scorer.worst if failed_as is None else failed_as


def change_of(left: RowResult, right: RowResult, scorer: Scorer, failed_as: float | None = None) -> float | None:
    """right − left of one row, 0 for a difference that is rounding; None where one has no value. failed_as: as
    `value_of` takes it."""
    a, b = value_of(left, scorer, failed_as), value_of(right, scorer, failed_as)
    return None if a is None or b is None else statistics.paired_difference(a, b, limits_of(scorer))


def number_of(result: RowResult, scorer: Scorer) -> float:
    """The score's value, NaN where the row has none."""
    score = result.scores.get(scorer.name)
    return math.nan if score is None or score.value is None else float(score.value)


class PairedScores:
    """One metric's scores in two runs, row by row; NaN where a row has none. power: what the rows can show, once they
    were compared."""

    def __init__(self, scorer: Scorer, cluster_by: str | None = None) -> None:
        self.scorer, self._cluster_by = scorer, cluster_by
        self._a, self._b = array("d"), array("d")
        self._clusters: list[str] = []
        self.power: Power | None = None

    @classmethod
    def of(
        cls, scorer: Scorer, a: Sequence[float], b: Sequence[float], clusters: Sequence[str] | None = None
    ) -> PairedScores:
        """Of scores that are at hand already, in one order of rows."""
        paired = cls(scorer)
        paired._a, paired._b, paired._clusters = array("d", a), array("d", b), list(clusters or ())
        return paired

    def add(self, left: RowResult, right: RowResult) -> None:
        self._a.append(number_of(left, self.scorer))
        self._b.append(number_of(right, self.scorer))
        if self._cluster_by is not None:
            self._clusters.append(cluster_name(left.row, self._cluster_by))

    def __len__(self) -> int:
        return len(self._a)

    @property
    def failed_as(self) -> float | None:
        """What a row without a score counts as: the worst of the scorer's worst value and those that either run has, so
        that failing never helps. None where no direction is the worse one, or no row has a score and no value is."""
        if self.scorer.higher_is_better is None:
            return self.scorer.worst
        seen = [value for values in (self._a, self._b) for value in values if not math.isnan(value)]
        if self.scorer.worst is not None:
            seen.append(self.scorer.worst)
        return (min if self.scorer.higher_is_better else max)(seen, default=None)

    def compared(
        self, *, sequential: bool = False, failed_as: float | None = None, targets: Sequence[float] | None = ()
    ) -> MetricComparison | NotCompared:
        """The test's outcome, or why there is none.

        failed_as: of the whole run, where these are some of its rows.
        targets: differences that `power` says the rows for, as `power_of` takes them.
        """
        failed_as = self.failed_as if failed_as is None else failed_as
        pairs = enumerate(zip(self._a, self._b, strict=True))
        kept = [i for i, pair in pairs if failed_as is not None or not any(map(math.isnan, pair))]
        worst = math.nan if failed_as is None else failed_as
        a, b = (_filled([values[i] for i in kept], worst) for values in (self._a, self._b))
        clusters = [self._clusters[i] for i in kept] if self._clusters else None
        failed_a, failed_b = (sum(map(math.isnan, values)) for values in (self._a, self._b))
        if unscored := [side for side, failed in (("a", failed_a), ("b", failed_b)) if failed == len(self)]:
            return self.apart(f"no row of {' and '.join(unscored)} has a score")
        if not a:
            return self.apart("no row has a score in both runs")
        if sequential and not (min(*a, *b) >= 0 and max(*a, *b) <= 1):
            return self.apart("runs that were stopped early are compared on scores within 0 and 1 only")
        limits, higher_is_better = limits_of(self.scorer), self.scorer.higher_is_better
        tested = _tested(a, b, clusters, limits, sequential)
        if not sequential:
            self.power = power_of(a, b, clusters=clusters, limits=limits, targets=targets)
        visible = self.power is not None and math.isfinite(self.power.detectable)
        differences = statistics.paired_differences(a, b, limits)
        more, less = int((differences > 0).sum()), int((differences < 0).sum())
        at_worst = at_best = None
        if (failed_a or failed_b) and higher_is_better is not None:
            at_worst, at_best = (self._extreme(*ends, sequential) for ends in (limits[::-1], limits))
            if not higher_is_better:
                at_worst, at_best = at_best, at_worst
        return MetricComparison(
            a=sum(a) / len(a),
            b=sum(b) / len(b),
            **asdict(tested),
            p_adjusted=tested.p_value,
            wins=less if higher_is_better is False else more,
            losses=more if higher_is_better is False else less,
            ties=len(a) - more - less,
            n=len(a),
            failed_a=failed_a,
            failed_b=failed_b,
            clusters=len(set(clusters)) if clusters else None,
            detectable=self.power.detectable if self.power is not None and visible else None,
            higher_is_better=higher_is_better,
            failed_as=failed_as,
            at_worst=at_worst,
            at_best=at_best,
        )

    def apart(self, reason: str) -> NotCompared:
        """Where they are not to be compared at all."""
        failed_a, failed_b = (sum(map(math.isnan, values)) for values in (self._a, self._b))
        return NotCompared(reason, len(self), failed_a, failed_b)

    def _extreme(self, failed_a: float, failed_b: float, sequential: bool) -> Extreme | None:
        """The test with these values for the failed rows; None where they are infinite."""
        a, b = _filled(self._a, failed_a), _filled(self._b, failed_b)
        if not all(map(math.isfinite, (*a, *b))):
            return None
        tested = _tested(a, b, self._clusters or None, limits_of(self.scorer), sequential)
        return Extreme(tested.difference, tested.ci95, tested.p_value)


def _filled(values: Sequence[float], failed_as: float) -> array[float]:
    return array("d", (failed_as if math.isnan(value) else value for value in values))


def _tested(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None,
    limits: tuple[float, float],
    sequential: bool,
) -> PairedTest:
    """sequential: by the anytime-valid test of rows in the order of their draw; rows of one cluster are one difference,
    their mean."""
    if not sequential:
        return paired_test(a, b, clusters=clusters, limits=limits)
    groups: dict[str, list[float]] = {}
    for position, difference in enumerate(statistics.paired_differences(a, b, limits).tolist()):
        groups.setdefault(clusters[position] if clusters else str(position), []).append(difference)
    test = SequentialTest()
    test.update([sum(group) / len(group) for group in groups.values()])
    return PairedTest(test.mean, test.interval, test.p_value, "sequential-betting")
