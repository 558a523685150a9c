"""What a scorer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmops.errors import LlmopsError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score


class Scorer(Protocol):
    """Judges one output.

    name: the metric's name. higher_is_better: None when neither direction is better (an answer's length). worst: what
    a row without a score counts as in comparisons and gates; None leaves such rows out.
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


@dataclass(frozen=True)
class Correctness:
    """Base of scorers that say how right an output is: more is better, and a row without a score counts as wrong."""

    name: str
    higher_is_better: bool | None = True
    worst: float | None = 0.0


class MissingExpectation(LlmopsError):
    """A row lacks what the scorer compares with."""


def expected_answers(row: EvalRow) -> list[str]:
    """Every acceptable answer of a row: `answers`, else `expected_response`. Raises MissingExpectation."""
    answers = row.expectations.get("answers") or [row.expectations.get("expected_response")]
    found = [str(answer) for answer in answers if answer is not None]
    if not found:
        raise MissingExpectation(f"row {row.id}: expectations hold neither answers nor expected_response")
    return found
