"""Two eval runs joined row by row: differences with intervals, p-values, wins and losses, slices, and what such a
comparison can see. Rows are read once; of each, only numbers are kept."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmops.evaluation import statistics
from llmops.evaluation.eval_set import EvalRow, cluster_of
from llmops.evaluation.noise import Noise
from llmops.evaluation.pairing import Pair, paired
from llmops.evaluation.power import power_of
from llmops.evaluation.results import RowResult, Score
from llmops.evaluation.scorers.protocol import Scorer
from llmops.evaluation.sequential import SequentialTest

_SMALLEST_SLICE = 5
_MOST_SLICES = 100  # of one tag: beyond, it names rows rather than slices
_MOST_CHANGED_ROWS = 200


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of two runs over the rows both have. difference: b − a. wins: rows where b is better (or, when
    neither direction is better, greater). p_adjusted: Holm over the metrics compared together. n: pairs compared.
    failed_a, failed_b: of these, rows without a score, counted as the scorer's worst. clusters: independent groups of
    rows; None when every row stands for itself. detectable: the difference that n pairs show with a chance of 80 %."""

    a: float
    b: float
    difference: float
    ci95: tuple[float, float]
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

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95)}


@dataclass(frozen=True, slots=True)
class NoiseFound:
    """The engine's own noise beside what changed. changed: rows whose answers differ. expected: how many the noise
    alone would change."""

    noise: Noise
    changed: int
    expected: float

    def to_json(self) -> dict[str, Any]:
        return {**self.noise.to_json(), "changed": self.changed, "expected_changed": self.expected}


@dataclass(frozen=True, slots=True)
class Comparison:
    """a, b: what was compared (refs or run ids). rows: pairs. slices: by `tag=value`, by metric. changed_rows: those
    where the primary metric changed most, in the order of the rows. power: what the comparison can see, in a sentence
    for each metric. noise: None where it is not known. sequential: the runs were stopped early; tests allow for it."""

    a: str
    b: str
    rows: int
    metrics: Mapping[str, MetricComparison]
    slices: Mapping[str, Mapping[str, MetricComparison]]
    changed_rows: Sequence[Mapping[str, Any]]
    power: Mapping[str, str] = field(default_factory=dict)
    noise: NoiseFound | None = None
    sequential: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "rows": self.rows,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "slices": {
                name: {metric_name: metric.to_json() for metric_name, metric in metrics.items()}
                for name, metrics in self.slices.items()
            },
            "changed_rows": list(self.changed_rows),
            "power": dict(self.power),
            "noise": self.noise.to_json() if self.noise else None,
            "sequential": self.sequential,
        }


def compare(
    name_a: str,
    a: Iterable[RowResult],
    name_b: str,
    b: Iterable[RowResult],
    scorers: Sequence[Scorer],
    slice_by: str | None = None,
    *,
    cluster_by: str | None = None,
    noise: Noise | None = None,
    sequential_seed: int | None = None,
) -> Comparison:
    """Joins two runs on row id.

    slice_by: the metric compared within each slice as well (the gate's). cluster_by: what rows of one source share, as
    `cluster_of` reads it. noise: of the engine. sequential_seed: of two runs that were stopped early; rows are then
    taken in the order of their draw and tested with the anytime-valid test, for scores within 0 and 1; others are left
    out.

    Raises:
        CannotRun: a row id stands for different inputs in the two runs, or they share no row.
    """
    gathered = {scorer.name: _Gathered(scorer, cluster_by) for scorer in scorers}
    primary = gathered.get(slice_by or "")
    slices, changed = _Slices(primary, cluster_by), _Changed()
    rows = changed_texts = 0
    for left, right in _in_order(paired(a, b), sequential_seed):
        rows += 1
        changed_texts += left.output.text != right.output.text
        for metric in gathered.values():
            metric.add(left, right)
        if primary is not None:
            slices.add(left, right)
            changed.add(left, right, primary)
    sequential = sequential_seed is not None
    compared = {name: found for name, metric in gathered.items() if (found := metric.compared(sequential)) is not None}
    found_noise = NoiseFound(noise, changed_texts, noise.share * rows) if noise else None
    power = {} if sequential else {name: gathered[name].sentence() for name in compared}
    return Comparison(
        name_a, name_b, rows, _adjusted(compared), slices.compared(sequential), changed.rows(), power, found_noise,
        sequential,
    )  # fmt: skip


def value_of(result: RowResult, scorer: Scorer) -> float | None:
    """The score's value; a row without one counts as the scorer's worst, so that failing never helps."""
    score = result.scores.get(scorer.name)
    return scorer.worst if score is None or score.value is None else score.value


def draw(seed: int, row_id: str) -> float:
    """Where a row stands in the order of a sequential run, from 0 to 1: by chance, but the same every time."""
    digest = hashlib.sha256(f"{seed}|{row_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _in_order(pairs: Iterable[Pair], sequential_seed: int | None) -> Iterable[Pair]:
    if sequential_seed is None:
        return pairs
    return sorted(pairs, key=lambda pair: draw(sequential_seed, pair[0].row.id))


class _Gathered:
    """One metric's paired numbers."""

    def __init__(self, scorer: Scorer, cluster_by: str | None) -> None:
        self.scorer, self._cluster_by = scorer, cluster_by
        self._a, self._b = array("d"), array("d")
        self._clusters: list[str] = []
        self._failed_a = self._failed_b = 0
        self._any_boolean, self._all_binary = False, True

    def add(self, left: RowResult, right: RowResult) -> None:
        x, y = self.value(left), self.value(right)
        if x is None or y is None:
            return
        self._a.append(float(x))
        self._b.append(float(y))
        self._any_boolean = self._any_boolean or isinstance(x, bool) or isinstance(y, bool)
        self._all_binary = self._all_binary and x in (0, 1) and y in (0, 1)
        self._failed_a += _unscored(left.scores.get(self.scorer.name))
        self._failed_b += _unscored(right.scores.get(self.scorer.name))
        if self._cluster_by is not None:
            self._clusters.append(_cluster(left.row, self._cluster_by))

    def value(self, result: RowResult) -> float | None:
        """As `value_of`, for this metric."""
        return value_of(result, self.scorer)

    def samples(self) -> tuple[Sequence[float], Sequence[float]]:
        """Truth values again, where the scorer gave them."""
        if self._any_boolean and self._all_binary:
            return [bool(x) for x in self._a], [bool(y) for y in self._b]
        return self._a, self._b

    def __len__(self) -> int:
        return len(self._a)

    def compared(self, sequential: bool) -> MetricComparison | None:
        """The metric compared; None where there is nothing to compare."""
        if not self._a or (sequential and not self._within_one()):
            return None
        a, b = self.samples()
        clusters = self._clusters or None
        tested = _sequentially(a, b, clusters) if sequential else statistics.paired_test(a, b, clusters=clusters)
        better_up = self.scorer.higher_is_better is not False
        n = len(self._a)
        more = sum(1 for x, y in zip(self._a, self._b, strict=True) if y > x)
        less = sum(1 for x, y in zip(self._a, self._b, strict=True) if y < x)
        wins, losses = (more, less) if better_up else (less, more)
        detectable = None if sequential else power_of(a, b, clusters=clusters, targets=()).to_json()["detectable"]
        return MetricComparison(
            a=sum(self._a) / n,
            b=sum(self._b) / n,
            difference=tested.difference,
            ci95=tested.ci95,
            p_value=tested.p_value,
            p_adjusted=tested.p_value,
            test=tested.test,
            wins=wins,
            losses=losses,
            ties=n - wins - losses,
            n=n,
            failed_a=self._failed_a,
            failed_b=self._failed_b,
            clusters=len(set(self._clusters)) if self._clusters else None,
            detectable=detectable,
            higher_is_better=self.scorer.higher_is_better,
        )

    def sentence(self) -> str:
        a, b = self.samples()
        return power_of(a, b, clusters=self._clusters or None).sentence

    def _within_one(self) -> bool:
        return min(*self._a, *self._b) >= 0 and max(*self._a, *self._b) <= 1


def _sequentially(a: Sequence[float], b: Sequence[float], clusters: Sequence[str] | None) -> statistics.PairedTest:
    """The anytime-valid test of rows in the order of their draw; rows of one cluster are one difference, their mean."""
    groups: dict[str, list[float]] = {}
    for position, (x, y) in enumerate(zip(a, b, strict=True)):
        groups.setdefault(clusters[position] if clusters else str(position), []).append(float(y) - float(x))
    test = SequentialTest()
    test.update([sum(group) / len(group) for group in groups.values()])
    return statistics.PairedTest(test.mean, test.interval, test.p_value, "sequential-betting")


def _unscored(score: Score | None) -> bool:
    return score is None or score.value is None


def _cluster(row: EvalRow, cluster_by: str) -> str:
    return cluster_of(row, cluster_by) or f"row {row.id}"


def _adjusted(compared: Mapping[str, MetricComparison]) -> dict[str, MetricComparison]:
    adjusted = statistics.holm([metric.p_value for metric in compared.values()])
    return {name: replace(metric, p_adjusted=p) for (name, metric), p in zip(compared.items(), adjusted, strict=True)}


class _Slices:
    """The primary metric within each slice. Slices are looked at together, so their p-values are adjusted together."""

    def __init__(self, primary: _Gathered | None, cluster_by: str | None) -> None:
        self._primary, self._cluster_by = primary, cluster_by
        self._by_tag: dict[str, dict[str, _Gathered]] = {}
        self._no_slices: set[str] = set()

    def add(self, left: RowResult, right: RowResult) -> None:
        assert self._primary is not None  # noqa: S101 - asked for only with a primary
        for tag, value in left.row.tags.items():
            if tag in self._no_slices:
                continue
            slices = self._by_tag.setdefault(tag, {})
            if value not in slices:
                slices[value] = _Gathered(self._primary.scorer, self._cluster_by)
            slices[value].add(left, right)
            if len(slices) > _MOST_SLICES:
                self._no_slices.add(tag)
                del self._by_tag[tag]

    def compared(self, sequential: bool) -> dict[str, dict[str, MetricComparison]]:
        if self._primary is None:
            return {}
        found = {
            f"{tag}={value}": metric
            for tag, slices in self._by_tag.items()
            for value, gathered in slices.items()
            if len(gathered) >= _SMALLEST_SLICE and (metric := gathered.compared(sequential)) is not None
        }
        name = self._primary.scorer.name
        return {key: {name: metric} for key, metric in sorted(_adjusted(found).items())}


class _Changed:
    """The rows whose primary metric changed most, with both answers: what a person reads first."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, dict[str, Any]]] = []
        self._seen = 0

    def add(self, left: RowResult, right: RowResult, primary: _Gathered) -> None:
        x, y = primary.value(left), primary.value(right)
        if x is None or y is None or x == y:
            return
        self._seen += 1
        answers = {"output_a": left.output.text, "output_b": right.output.text}
        row = {"id": left.row.id, "metric": primary.scorer.name, "a": x, "b": y, **answers}
        push = heapq.heappush if len(self._kept) < _MOST_CHANGED_ROWS else heapq.heappushpop
        push(self._kept, (abs(y - x), -self._seen, row))

    def rows(self) -> list[dict[str, Any]]:
        """In the order of the rows."""
        return [row for _, _, row in sorted(self._kept, key=lambda item: -item[1])]
