"""A recorded run row by row: what was asked, what was expected, what was answered, and how it was scored."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.errors import CannotRun
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.results import RowResult, Score
from llmops.evaluation.suite import Suite
from llmops.recording import EvalRun


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

    Raises:
        UnknownVersion: there is no such run. CannotRun: the runs are of different suites. StoreUnavailable.
    """
    run = evaluations.resolve(text, suite_name)
    earlier: dict[str, RowResult] | None = None
    if changed_from is not None:
        other = evaluations.resolve(changed_from, suite_name)
        if other.suite != run.suite:
            raise CannotRun(f"{text} ran on suite {run.suite}, {changed_from} on {other.suite}; give runs of one suite")
        earlier = {result.row.id: result for result in evaluations.rows(other)}
    suite = _suite(evaluations, run)
    primary = None if suite is None else suite.gate.primary
    timed = {spec.name for spec in suite.scorer_specs if spec.type == "latency_ms"} if suite is not None else set()
    shown: Iterable[ShownRow] = _changed(evaluations.rows(run), earlier, timed)
    if failed:
        worst = _worst(suite)
        shown = (row for row in shown if row.error or _is_worst(row.result.scores.get(primary or ""), worst))
    return RunRows(run, primary, tuple(shown))


def _changed(
    results: Iterable[RowResult], earlier: Mapping[str, RowResult] | None, timed: Collection[str]
) -> Iterator[ShownRow]:
    """timed: scorers of times, which differ between any two runs."""
    for result in results:
        if earlier is None:
            yield ShownRow(result)
        elif (before := earlier.get(result.row.id)) is not None and _came_to(before, timed) != _came_to(result, timed):
            yield ShownRow(result, before)


def _came_to(result: RowResult, timed: Collection[str]) -> tuple[str, str | None, dict[str, Any]]:
    values = {name: score.value for name, score in result.scores.items() if name not in timed}
    return result.output.text, result.output.error, values


def _told(result: RowResult) -> dict[str, Any]:
    return {
        "answer": result.output.text,
        "finish_reason": result.output.finish_reason,
        "scores": {
            name: {"value": score.value, "rationale": score.rationale, "error": score.error}
            for name, score in result.scores.items()
        },
    }


def _suite(evaluations: Evaluations, run: EvalRun) -> Suite | None:
    """The run's suite; None where it cannot be read here, such as in another folder."""
    try:
        return evaluations.suite(run.suite)
    except CannotRun:
        return None


def _worst(suite: Suite | None) -> float | None:
    """Of the gate's scorer."""
    made = [] if suite is None else [each for each in suite.make_scorers() if each.name == suite.gate.primary]
    return made[0].worst if made else None


def _is_worst(score: Score | None, worst: float | None) -> bool:
    return score is not None and score.value is not None and worst is not None and float(score.value) == worst


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " | ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
