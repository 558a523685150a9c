"""What a scorer is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from llmops.errors import LlmopsError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score


class Scorer(Protocol):
    """Judges one output.

    name: the metric's name. higher_is_better: None when neither direction is better (an answer's length). worst: what
    a row without a score counts as in comparisons and gates; where it is None, as the worst value seen in either run
    (without a direction such rows are left out).
    """

    @property
    def name(self) -> str: ...

    @property
    def higher_is_better(self) -> bool | None: ...

    @property
    def worst(self) -> float | None: ...

    def score(self, row: EvalRow, output: Output) -> Score:
        """The score. An exception it raises becomes a score with an error."""
        ...


@runtime_checkable
class BoundedScorer(Scorer, Protocol):
    """A scorer that says between which values its scores lie. limits: the least and the greatest, infinite where there
    is none (a latency has limits 0 and ∞)."""

    @property
    def limits(self) -> tuple[float, float]: ...


def limits_of(scorer: Scorer) -> tuple[float, float]:
    """The least and the greatest value of a scorer; infinite where it is not known."""
    if isinstance(scorer, BoundedScorer):
        return scorer.limits
    worst, low, high = scorer.worst, -math.inf, math.inf
    if worst is not None and scorer.higher_is_better is not None:
        return (worst, high) if scorer.higher_is_better else (low, worst)
    return low, high


def best_of(scorer: Scorer) -> float | None:
    """The best value that a row can have; None where no direction is better, or no value is known to be the best."""
    if scorer.higher_is_better is None:
        return None
    best = limits_of(scorer)[scorer.higher_is_better]
    return best if math.isfinite(best) else None


@runtime_checkable
class IdentifiedScorer(Scorer, Protocol):
    """A scorer whose scores depend on a model. identity: everything besides row and output that can change a score; it
    is part of what makes two runs the same."""

    @property
    def identity(self) -> Mapping[str, Any]: ...


@runtime_checkable
class KeptScorer(Scorer, Protocol):
    """A scorer whose scores cost something to make (a judge's): they are kept by content and never made twice.

    identity: everything besides row and output that can change a score (judge model, rubric, version of the metric).
    side_by_side: how many scores may be asked for at the same time, from as many threads.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def side_by_side(self) -> int: ...


@runtime_checkable
class BatchScorer(Scorer, Protocol):
    """A scorer that is much faster on many rows at a time (an embedding model)."""

    def score_many(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        """A score for each row, in order. An exception becomes an error of every row's score."""
        ...


@runtime_checkable
class RunScorer(Scorer, Protocol):
    """A scorer that also has something to say of all rows together (macro-F1, corpus BLEU)."""

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """Reads every row once, in order; keeps no texts, so that any number of rows fits."""
        ...


class Correctness:
    """Base of scorers that say how right an output is: more is better, and a row without a score counts as wrong."""

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str) -> None:
        self.name = name


class MissingExpectation(LlmopsError):
    """A row lacks what the scorer compares with."""


def expected_answers(row: EvalRow) -> list[str]:
    """Every acceptable answer of a row: `answers`, a list or a single one, else `expected_response`. A number is
    written as people do, and as programs do where that differs: 4.0 is “4” and “4.0”. Raises MissingExpectation."""
    return [form for forms in answer_forms(row) for form in forms]


def answer_forms(row: EvalRow) -> list[tuple[str, ...]]:
    """`expected_answers`, with what writes the same answer together; the way people write it first."""
    answers = row.expectations.get("answers") or row.expectations.get("expected_response")
    listed = answers if isinstance(answers, list | tuple) else [answers]
    found = [answer for answer in listed if answer is not None]
    if not found:
        raise MissingExpectation(f"row {row.id}: expectations hold neither answers nor expected_response")
    if wrong := [answer for answer in found if not isinstance(answer, str | int | float)]:
        raise MissingExpectation(f"row {row.id}: an expected answer must be text or a number, not {wrong[0]!r}")
    return [_forms(answer) for answer in found]


def _forms(answer: str | float) -> tuple[str, ...]:
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer)), str(answer)
    return (str(answer).lower() if isinstance(answer, bool) else str(answer),)
