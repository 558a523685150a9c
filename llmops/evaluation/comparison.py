"""Two eval runs joined row by row: differences with intervals, p-values, wins and losses, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmops.errors import CannotRun
from llmops.evaluation import statistics
from llmops.evaluation.results import RowResult, Score
from llmops.evaluation.scorers.protocol import Scorer

_SMALLEST_SLICE = 5


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of two runs over the rows both have. difference: b − a. wins: rows where b is better (or, when
    neither direction is better, greater). p_adjusted: Holm over the metrics compared together. n: pairs compared."""

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

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """a, b: what was compared (refs or run ids). rows: pairs. slices: by `tag=value`, by metric."""

    a: str
    b: str
    rows: int
    metrics: Mapping[str, MetricComparison]
    slices: Mapping[str, Mapping[str, MetricComparison]]
    changed_rows: Sequence[Mapping[str, Any]]

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
        }


def compare(
    name_a: str,
    a: Sequence[RowResult],
    name_b: str,
    b: Sequence[RowResult],
    scorers: Sequence[Scorer],
    slice_by: str | None = None,
) -> Comparison:
    """Joins two runs on row id. slice_by: the metric compared within each slice as well (the gate's).

    Raises:
        CannotRun: a row id stands for different inputs in the two runs, or they share no row.
    """
    pairs = _join(a, b)
    metrics = _compare_metrics(pairs, scorers)
    sliced = [scorer for scorer in scorers if scorer.name == slice_by]
    slices = _compare_slices(pairs, sliced[0]) if sliced else {}
    return Comparison(name_a, name_b, len(pairs), metrics, slices, _changed(pairs, sliced))


Pair = tuple[RowResult, RowResult]


def _join(a: Sequence[RowResult], b: Sequence[RowResult]) -> list[Pair]:
    by_id = {result.row.id: result for result in b}
    pairs = [(result, by_id[result.row.id]) for result in a if result.row.id in by_id]
    for left, right in pairs:
        if dict(left.row.inputs) != dict(right.row.inputs):
            raise CannotRun(f"row {left.row.id!r} has different inputs in the two runs; run both on the same eval set")
    if not pairs:
        raise CannotRun("the two runs share no row; compare runs of the same suite")
    return pairs


def _compare_metrics(pairs: Sequence[Pair], scorers: Sequence[Scorer]) -> dict[str, MetricComparison]:
    compared = {}
    for scorer in scorers:
        values = [
            (x, y)
            for left, right in pairs
            if (x := _value(left.scores.get(scorer.name), scorer)) is not None
            and (y := _value(right.scores.get(scorer.name), scorer)) is not None
        ]
        if values:
            compared[scorer.name] = _compare_one(values, scorer)
    return _adjusted(compared)


def _value(score: Score | None, scorer: Scorer) -> float | None:
    """The score's value; a row without one counts as the scorer's worst, so that failing never helps."""
    if score is None or score.value is None:
        return scorer.worst
    return score.value


def _compare_one(values: Sequence[tuple[float, float]], scorer: Scorer) -> MetricComparison:
    both = [value for pair in values for value in pair]
    boolean = any(isinstance(value, bool) for value in both) and all(value in (0, 1) for value in both)
    a = [bool(x) if boolean else float(x) for x, _ in values]
    b = [bool(y) if boolean else float(y) for _, y in values]
    tested = statistics.paired_test(a, b)
    sign = -1 if scorer.higher_is_better is False else 1
    wins = sum(1 for x, y in zip(a, b, strict=True) if sign * (y - x) > 0)
    losses = sum(1 for x, y in zip(a, b, strict=True) if sign * (y - x) < 0)
    n = len(values)
    return MetricComparison(
        sum(a) / n, sum(b) / n, tested.difference, tested.ci95, tested.p_value, tested.p_value, tested.test,
        wins, losses, n - wins - losses, n,
    )  # fmt: skip


def _adjusted(compared: Mapping[str, MetricComparison]) -> dict[str, MetricComparison]:
    adjusted = statistics.holm([metric.p_value for metric in compared.values()])
    return {name: replace(metric, p_adjusted=p) for (name, metric), p in zip(compared.items(), adjusted, strict=True)}


def _compare_slices(pairs: Sequence[Pair], scorer: Scorer) -> dict[str, dict[str, MetricComparison]]:
    """The metric within each slice. Slices are looked at together, so their p-values are adjusted together."""
    compared = {name: _compare_metrics(members, [scorer]) for name, members in _slices(pairs).items()}
    together = {name: metrics[scorer.name] for name, metrics in compared.items() if metrics}
    return {name: {scorer.name: metric} for name, metric in _adjusted(together).items()}


def _slices(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        for key, value in pair[0].row.tags.items():
            found.setdefault(f"{key}={value}", []).append(pair)
    return {name: members for name, members in sorted(found.items()) if len(members) >= _SMALLEST_SLICE}


def _changed(pairs: Sequence[Pair], sliced: Sequence[Scorer]) -> list[dict[str, Any]]:
    """Rows whose gate metric differs, with both answers: what a person reads first."""
    changed = []
    for scorer in sliced:
        for left, right in pairs:
            x, y = _value(left.scores.get(scorer.name), scorer), _value(right.scores.get(scorer.name), scorer)
            if x is not None and y is not None and x != y:
                answers = {"output_a": left.output.text, "output_b": right.output.text}
                changed.append({"id": left.row.id, "metric": scorer.name, "a": x, "b": y, **answers})
    return changed
