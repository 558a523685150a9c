"""What is shown of recorded runs: the contents of reports and leaderboards, and single runs row by row."""

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, cast

from llmops.errors import CannotRun
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import CellRun
from llmops.evaluation import statistics
from llmops.evaluation.comparison import Comparison, paired
from llmops.evaluation.eval_set import cluster_name
from llmops.evaluation.gate import ALPHA, Verdict
from llmops.evaluation.metric_comparison import MetricComparison, PairedScores, change_of, number_of
from llmops.evaluation.reports.contents import (
    Leaderboard,
    LeaderboardCell,
    LeaderboardPair,
    Report,
    Row,
    RunReport,
    Side,
)
from llmops.evaluation.results import Results, RowResult
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.suite import Suite, primary_scorer
from llmops.recording import EvalRun


def report_contents(
    evaluations: Evaluations,
    suite: Suite,
    runs: Mapping[str, EvalRun],
    name: str,
    comparison: Comparison | None,
    verdict: Verdict | None = None,
) -> RunReport:
    """A run with its verdict: compared with another one it is a `Report`; alone, all there is of an app's first
    release. Rows are read from local copies, each time a report goes through them.

    runs: `b`, and the one it was compared with as `a`. name: of b.

    Raises StoreUnavailable: the rows cannot be fetched.
    """
    judged: dict[str, Any] = {
        "suite": suite.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "primary": suite.gate.primary,
        "b": _side(evaluations, name, runs["b"]),
        "verdict": verdict,
    }
    if comparison is None:
        return RunReport(title=name, **judged)
    decides = comparison.metrics.get(suite.gate.primary)
    failed_as = decides.failed_as if decides is not None else None
    a, b = (evaluations.rows(runs[side]) for side in "ab")
    return Report(
        title=f"{comparison.a} → {comparison.b}",
        **judged,
        a=_side(evaluations, comparison.a, runs["a"]),
        comparison=comparison,
        rows=_Rows(a, b, primary_scorer(suite), failed_as),
    )


def _side(evaluations: Evaluations, name: str, run: EvalRun) -> Side:
    release, prompt = evaluations.release(name), evaluations.registry.prompts.get(run.prompt) if run.prompt else None
    return Side(
        name=name,
        run_id=run.run_id,
        prompt=run.prompt,
        model=run.model,
        release=release.ref if release else None,
        params=run.params,
        prompt_text=prompt.template.turns if prompt else None,
        metrics=run.metrics,
        tokens_in=int(run.usage["tokens_in"]) if "tokens_in" in run.usage else None,
        tokens_out=int(run.usage["tokens_out"]) if "tokens_out" in run.usage else None,
        cost=run.usage.get("cost"),
        seconds=run.seconds,
    )


@dataclass(frozen=True)
class _Rows:
    """The pairs of two runs as report rows; starts anew each time. failed_as: what a row without the primary's score
    counts as."""

    a: Results
    b: Results
    primary: Scorer | None
    failed_as: float | None

    def __iter__(self) -> Iterator[Row]:
        for left, right in paired(self.a, self.b):
            primary = self.primary
            yield Row(left, right, None if primary is None else change_of(left, right, primary, self.failed_as))


def leaderboard(evaluations: Evaluations, suite: Suite, done: Sequence[CellRun]) -> Leaderboard | None:
    """The cells of a suite on its primary metric, best first, and which differences between them are real.

    Every pair is compared, and their p-values are adjusted together (Holm). A cell's ranks are those that the real
    differences allow. None when the primary metric was left out for want of a judge. Raises StoreUnavailable.
    """
    primary = primary_scorer(suite)
    if primary is None:
        return None
    names = [item.cell.release.ref if item.cell.release else item.run.cell for item in done]
    values = [array("d") for _ in done]  # of every row, in the order of the rows; NaN for a row without a score
    latencies = [array("d") for _ in done]  # of the answers whose time is known, with all of the engine's slots busy
    clusters: list[str] = []
    for item, of_cell, taken in zip(done, values, latencies, strict=True):
        for result in evaluations.rows(item.run):
            of_cell.append(number_of(result, primary))
            if suite.cluster_by is not None and of_cell is values[0]:
                clusters.append(cluster_name(result.row, suite.cluster_by))
            if result.output.error is None and result.output.latency_ms is not None:
                taken.append(result.output.latency_ms)
    order = _order(primary, values)
    pairs = _pairs(primary, names, values, clusters, order)
    cells: list[LeaderboardCell] = []
    for i in order:
        name, run, metric = names[i], done[i].run, done[i].run.metrics[primary.name]
        ahead = sum(pair["real"] and pair["worse"] == name for pair in pairs)
        behind = sum(pair["real"] and pair["better"] == name for pair in pairs)
        cells.append(
            {
                "name": name,
                "mean": metric.mean,
                "ci95": metric.ci95,
                "n_scored": metric.n_scored,
                "n_failed": metric.n_failed,
                "answers": cast(Any, run.answers.to_json()),
                "tokens_out": int(run.usage["tokens_out"]) if "tokens_out" in run.usage else None,
                "cost": run.usage.get("cost"),
                "latency_ms_p50": median(latencies[i]) if latencies[i] else None,
                "rank_range": [1 + ahead, len(done) - behind],
            }
        )
    return {"suite": suite.name, "rows": done[0].run.rows, "primary": primary.name, "cells": cells, "pairs": pairs}


def _order(primary: Scorer, values: Sequence[Sequence[float]]) -> list[int]:
    """The cells, best first; a row without a score counts as the worst of all cells', a cell without any comes last."""
    failed_as = PairedScores.of(primary, [value for of_cell in values for value in of_cell], ()).failed_as
    sign = -1 if primary.higher_is_better is False else 1

    def standing(i: int) -> float:
        if all(map(math.isnan, values[i])):
            return math.inf
        counted = [failed_as if math.isnan(value) else value for value in values[i]]
        known = [value for value in counted if value is not None]
        return -sign * sum(known) / len(known)

    return sorted(range(len(values)), key=standing)


def _pairs(
    primary: Scorer,
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    clusters: Sequence[str],
    order: Sequence[int],
) -> list[LeaderboardPair]:
    """Every two cells that can be compared, as `llmops eval compare` would."""
    sign = -1 if primary.higher_is_better is False else 1
    compared = [
        (i, j, metric)
        for rank, i in enumerate(order)
        for j in order[rank + 1 :]
        if isinstance(metric := PairedScores.of(primary, values[j], values[i], clusters).compared(), MetricComparison)
    ]
    adjusted = statistics.holm([metric.p_value for _, _, metric in compared])
    pairs: list[LeaderboardPair] = []
    for (i, j, metric), p in zip(compared, adjusted, strict=True):
        # Where no value is the worst, rows that failed may turn two cells round.
        ahead = sign if sign * metric.difference >= 0 else -sign
        better, worse = (i, j) if ahead == sign else (j, i)
        pairs.append(
            {
                "better": names[better],
                "worse": names[worse],
                "difference": ahead * metric.difference,
                "ci95": sorted(ahead * end for end in metric.ci95) if metric.ci95 else None,
                "p_adjusted": p,
                "real": p < ALPHA and not metric.failures_decide,
            }
        )
    return pairs


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row of a run. before: the same row of an earlier run, where one was asked for."""

    result: RowResult
    before: RowResult | None = None

    @property
    def question(self) -> str:
        """The only input alone; several by name; of a conversation the last message."""
        row = self.result.row
        texts = [row.messages[-1]["content"]] if row.messages else []
        if not texts and len(row.variables) == 1:
            texts = list(row.variables.values())
        return "\n".join(texts or [f"{name}: {value}" for name, value in row.variables.items()])

    @property
    def expected(self) -> str:
        """The only expectation alone, answers that are equally good with a bar between; several by name."""
        values = self.result.row.expectations
        if len(values) == 1:
            return _text(next(iter(values.values())))
        return "\n".join(f"{name}: {_text(value)}" for name, value in values.items())

    @property
    def error(self) -> str:
        """Why there is no answer, none in the format asked for, or why scorers gave no score; empty where nothing
        failed."""
        if self.result.output.error is not None:
            return self.result.output.error
        off = self.result.output.off_format
        errors = [] if off is None else [f"not in the response format: {off}"]
        errors += [f"{name}: {score.error}" for name, score in self.result.scores.items() if score.error is not None]
        return "\n".join(errors)

    def to_json(self) -> dict[str, Any]:
        """The row as it was recorded, and `question` and `expected` as they are shown."""
        row = self.result.row
        shown = {"id": row.id, "question": self.question, "expected": self.expected, **_told(self.result)}
        before = {} if self.before is None else {"before": _told(self.before)}
        recorded = {"inputs": dict(row.inputs), "expectations": dict(row.expectations), "tags": dict(row.tags)}
        return {**shown, "error": self.error or None, **before, **recorded}


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows of a run that were asked for. primary: the scorer that the gate decides by; None where the suite cannot
    be read here."""

    run: EvalRun
    primary: str | None
    rows: tuple[ShownRow, ...]


def run_rows(
    evaluations: Evaluations, text: str, suite_name: str | None = None, *, failed: bool, changed_from: str | None = None
) -> RunRows:
    """The rows of the run that `text` means, as `Evaluations.resolve` reads it.

    failed: only rows without an answer or a score, and those to which the gate's scorer gave its worst. changed_from:
    only rows whose answer or scores are others than in that run, which must be of the same suite.

    Raises UnknownVersion: there is no such run. CannotRun: the runs are of different suites. StoreUnavailable.
    """
    run = evaluations.resolve(text, suite_name)
    earlier: dict[str, RowResult] | None = None
    if changed_from is not None:
        other = evaluations.resolve(changed_from, suite_name)
        if other.suite != run.suite:
            raise CannotRun(f"{text} ran on suite {run.suite}, {changed_from} on {other.suite}; give runs of one suite")
        earlier = {result.row.id: result for result in evaluations.rows(other)}
    try:
        suite = evaluations.suite(run.suite)
    except CannotRun:  # it cannot be read here, such as in another folder
        suite = None
    scorer = primary_scorer(suite) if suite is not None else None
    worst = scorer.worst if scorer is not None else None
    timed = {spec.name for spec in suite.scorer_specs if spec.type == "latency_ms"} if suite is not None else set()

    def came_to(result: RowResult) -> tuple[str, str | None, dict[str, Any]]:
        """All but times, which differ between any two runs."""
        values = {name: score.value for name, score in result.scores.items() if name not in timed}
        return result.output.text, result.output.error, values

    primary = None if suite is None else suite.gate.primary
    shown = []
    for result in evaluations.rows(run):
        before = None if earlier is None else earlier.get(result.row.id)
        if earlier is not None and (before is None or came_to(before) == came_to(result)):
            continue
        row, score = ShownRow(result, before), result.scores.get(primary or "")
        at_worst = worst is not None and score is not None and score.value is not None and float(score.value) == worst
        if not failed or row.error or at_worst:
            shown.append(row)
    return RunRows(run, primary, tuple(shown))


def _told(result: RowResult) -> dict[str, Any]:
    return {
        "answer": result.output.text,
        "finish_reason": result.output.finish_reason,
        "scores": {
            name: {"value": score.value, "rationale": score.rationale, "error": score.error}
            for name, score in result.scores.items()
        },
    }


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " | ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
