"""Two eval runs joined row by row: differences with intervals, p-values, wins and losses, slices, and what such a
comparison can see. Rows are read once; of each, only numbers are kept.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from llmops.errors import CannotRun
from llmops.evaluation import statistics
from llmops.evaluation.metric_comparison import MetricComparison, NotCompared, PairedScores, change_of, value_of
from llmops.evaluation.results import AnswerCounts, Noise, OfSuite, RowResult
from llmops.evaluation.scorers.protocol import Scorer

RowPair = tuple[RowResult, RowResult]


def paired(a: Iterable[RowResult], b: Iterable[RowResult]) -> Iterator[RowPair]:
    """The rows that both runs have, joined on row id. Runs of one eval set have them in one order, and nothing waits;
    others wait only while the other run has not come to them yet. Raises CannotRun: a row id stands for different
    inputs, expectations or contexts in the two runs, or they share no row."""
    waiting_a: dict[str, RowResult] = {}
    waiting_b: dict[str, RowResult] = {}
    share_rows = False
    for left, right in zip_longest(a, b):
        if left is not None:
            waiting_a[left.row.id] = left
        if right is not None:
            waiting_b[right.row.id] = right
        for row_id in dict.fromkeys(result.row.id for result in (left, right) if result is not None):
            if row_id in waiting_a and row_id in waiting_b:
                share_rows = True
                pair = waiting_a.pop(row_id), waiting_b.pop(row_id)
                for what in ("inputs", "expectations", "contexts"):
                    if getattr(pair[0].row, what) != getattr(pair[1].row, what):
                        problem = f"row {row_id!r} has different {what} in the two runs"
                        raise CannotRun(f"{problem}; run both on the same eval set")
                yield pair
    if not share_rows:
        raise CannotRun("the two runs share no row; compare runs of the same suite")


_SMALLEST_SLICE = 5
_MOST_SLICES = 100  # of one tag: beyond, it names rows rather than slices
_MOST_CHANGED_ROWS = 200


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
    """Two runs, row by row.

    a, b: what was compared (refs or run ids).
    rows: pairs.
    slices: by `tag=value`, by metric.
    changed_rows: those where the primary metric changed most, in the order of the rows.
    power: what the comparison can see, in a sentence for each metric.
    noise: None where it is not known.
    sequential: the runs were stopped early; tests allow for it.
    unmatched_a, unmatched_b: rows of one run that the other does not have.
    not_compared: metrics that the runs cannot be compared on, and why.
    answers_a, answers_b: what became of all rows of each run.
    of_suite: how much of the suite the pairs are, where that is known.
    """

    a: str
    b: str
    rows: int
    metrics: Mapping[str, MetricComparison]
    slices: Mapping[str, Mapping[str, MetricComparison]]
    changed_rows: Sequence[Mapping[str, Any]]
    power: Mapping[str, str] = field(default_factory=dict)
    noise: NoiseFound | None = None
    sequential: bool = False
    unmatched_a: int = 0
    unmatched_b: int = 0
    not_compared: Mapping[str, NotCompared] = field(default_factory=dict)
    answers_a: AnswerCounts = field(default_factory=AnswerCounts)
    answers_b: AnswerCounts = field(default_factory=AnswerCounts)
    of_suite: OfSuite | None = None

    def rows_told(self) -> str:
        """What became of the rows of both runs, in a sentence."""
        told = [f"{self.rows} row{' is' if self.rows == 1 else 's are'} in both runs"]
        for name, answers, unmatched in (
            (self.a, self.answers_a, self.unmatched_a),
            (self.b, self.answers_b, self.unmatched_b),
        ):
            share = 100 * answers.share(unmatched)
            unpaired = f", {unmatched} not in the other run ({share:.3g} %)" if unmatched else ""
            told.append(f"{name}: {answers.sentence()}{unpaired}")
        if self.of_suite is not None and (part := self.of_suite.sentence()):
            told.append(part)
        return "; ".join(told)

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "rows": self.rows,
            "suite_rows": self.of_suite.rows if self.of_suite else None,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "slices": {
                part: {name: metric.to_json() for name, metric in metrics.items()}
                for part, metrics in self.slices.items()
            },
            "changed_rows": list(self.changed_rows),
            "power": dict(self.power),
            "noise": self.noise.to_json() if self.noise else None,
            "sequential": self.sequential,
            "unmatched_a": self.unmatched_a,
            "unmatched_b": self.unmatched_b,
            "answers": {"a": self.answers_a.to_json(), "b": self.answers_b.to_json()},
            "rows_told": self.rows_told(),
            "not_compared": {name: metric.to_json() for name, metric in self.not_compared.items()},
        }


def compare(
    name_a: str,
    a: Iterable[RowResult],
    name_b: str,
    b: Iterable[RowResult],
    scorers: Sequence[Scorer],
    slice_metric: str | None = None,
    *,
    cluster_by: str | None = None,
    noise: Noise | None = None,
    sequential_seed: int | None = None,
    suite_rows: int | None = None,
    drawn_from: int | None = None,
    apart: Mapping[str, str] | None = None,
) -> Comparison:
    """Joins two runs on row id.

    slice_metric: the metric compared within each slice as well (the gate's).
    cluster_by: what rows of one source share, as `cluster_of` reads it.
    noise: of the engine.
    sequential_seed: of two runs that were stopped early; rows are then taken in the order of their draw and tested with
        the anytime-valid test, for scores within 0 and 1; others are left out.
    suite_rows, drawn_from: as `OfSuite` has them.
    apart: metrics that are not to be compared, and why.

    Raises:
        CannotRun: a row id stands for different inputs, expectations or contexts in the two runs, or they share no row.
    """
    scores, reasons = {scorer.name: PairedScores(scorer, cluster_by) for scorer in scorers}, apart or {}
    primary = scores.get(slice_metric or "") if slice_metric not in reasons else None
    slices, changed = _Slices(primary, cluster_by) if primary is not None else None, _Changed()
    rows = changed_texts = 0
    run_a, run_b = _Counted(a), _Counted(b)
    pairs: Iterable[RowPair] = paired(run_a, run_b)
    if sequential_seed is not None:
        pairs = sorted(pairs, key=lambda pair: sampling_position(sequential_seed, pair[0].row.id))
    for left, right in pairs:
        rows += 1
        changed_texts += left.output.text != right.output.text
        for metric in scores.values():
            metric.add(left, right)
        if slices is not None:
            slices.add(left, right)
            changed.add(left, right, slices.primary.scorer)
    sequential = sequential_seed is not None
    compared = {
        name: metric.compared(sequential=sequential, targets=None)
        if name not in reasons
        else metric.apart(reasons[name])
        for name, metric in scores.items()
    }
    metrics, not_compared = _adjusted(compared)
    in_slices, slices_apart = slices.compared(sequential) if slices else ({}, {})
    return Comparison(
        a=name_a,
        b=name_b,
        rows=rows,
        metrics=metrics,
        slices=in_slices,
        changed_rows=changed.rows(),
        power={name: power.sentence for name in metrics if (power := scores[name].power) is not None},
        noise=NoiseFound(noise, changed_texts, noise.share * rows) if noise else None,
        sequential=sequential,
        unmatched_a=run_a.answers.rows - rows,
        unmatched_b=run_b.answers.rows - rows,
        not_compared={**not_compared, **slices_apart},
        answers_a=run_a.answers,
        answers_b=run_b.answers,
        of_suite=None if suite_rows is None else OfSuite(rows, suite_rows, drawn_from),
    )


def sampling_position(seed: int, row_id: str) -> float:
    """Where a row stands in the order of a sequential run, from 0 to 1: by chance, but the same every time."""
    digest = hashlib.sha256(f"{seed}|{row_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class _Counted:
    """A run's rows as they are read, and what became of them."""

    def __init__(self, results: Iterable[RowResult]) -> None:
        self._results, self.answers = results, AnswerCounts()

    def __iter__(self) -> Iterator[RowResult]:
        for result in self._results:
            self.answers = self.answers.plus(result.output)
            yield result


def _adjusted(
    outcomes: Mapping[str, MetricComparison | NotCompared],
) -> tuple[dict[str, MetricComparison], dict[str, NotCompared]]:
    """Those that were compared, their p-values adjusted together, and those that were not."""
    compared = {name: each for name, each in outcomes.items() if isinstance(each, MetricComparison)}
    adjusted = statistics.holm([metric.p_value for metric in compared.values()])
    metrics = {name: replace(compared[name], p_adjusted=p) for name, p in zip(compared, adjusted, strict=True)}
    return metrics, {name: each for name, each in outcomes.items() if isinstance(each, NotCompared)}


class _Slices:
    """The primary metric within each slice. Slices are looked at together, so their p-values are adjusted together."""

    def __init__(self, primary: PairedScores, cluster_by: str | None) -> None:
        self.primary, self._cluster_by = primary, cluster_by
        self._by_tag: dict[str, dict[str, PairedScores]] = {}
        self._no_slices: set[str] = set()

    def add(self, left: RowResult, right: RowResult) -> None:
        for tag, value in left.row.tags.items():
            if tag in self._no_slices:
                continue
            slices = self._by_tag.setdefault(tag, {})
            if value not in slices:
                slices[value] = PairedScores(self.primary.scorer, self._cluster_by)
            slices[value].add(left, right)
            if len(slices) > _MOST_SLICES:
                self._no_slices.add(tag)
                del self._by_tag[tag]

    def compared(self, sequential: bool) -> tuple[dict[str, dict[str, MetricComparison]], dict[str, NotCompared]]:
        """By slice; and those that cannot be compared, by what they are called then."""
        failed_as, name = self.primary.failed_as, self.primary.scorer.name
        metrics, apart = _adjusted(
            {
                f"{tag}={value}": scores.compared(sequential=sequential, failed_as=failed_as)
                for tag, slices in self._by_tag.items()
                for value, scores in slices.items()
                if len(scores) >= _SMALLEST_SLICE
            }
        )
        in_slices = {key: {name: metric} for key, metric in sorted(metrics.items())}
        return in_slices, {f"{name} in {key}": each for key, each in apart.items()}


class _Changed:
    """The rows whose primary metric changed most, with both answers: what a person reads first."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, dict[str, Any]]] = []
        self._seen = 0

    def add(self, left: RowResult, right: RowResult, primary: Scorer) -> None:
        if not (change := change_of(left, right, primary)):
            return
        self._seen += 1
        values = {"a": value_of(left, primary), "b": value_of(right, primary)}
        answers = {"output_a": left.output.text, "output_b": right.output.text}
        push = heapq.heappush if len(self._kept) < _MOST_CHANGED_ROWS else heapq.heappushpop
        row = {"id": left.row.id, "metric": primary.name, **values, **answers}
        push(self._kept, (abs(change), -self._seen, row))

    def rows(self) -> list[dict[str, Any]]:
        """In the order of the rows."""
        return [row for _, _, row in sorted(self._kept, key=lambda item: -item[1])]
