"""Scores of one prediction, as the gate compares them row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score


@dataclass(frozen=True, slots=True)
class AbsoluteError:
    """How far a number is from the truth, in the truth's unit."""

    name: str = "absolute_error"
    higher_is_better: bool | None = False
    worst: float | None = None
    limits: tuple[float, float] = (0.0, math.inf)

    def score(self, row: EvalRow, output: Output) -> Score:
        return Score(abs(_error(row, output)))


@dataclass(frozen=True, slots=True)
class SquaredError:
    """The square of that: large errors count more. Its mean is the square of the RMSE."""

    name: str = "squared_error"
    higher_is_better: bool | None = False
    worst: float | None = None
    limits: tuple[float, float] = (0.0, math.inf)

    def score(self, row: EvalRow, output: Output) -> Score:
        return Score(_error(row, output) ** 2)


@dataclass(frozen=True, slots=True)
class Correct:
    """Whether the class is the right one."""

    name: str = "correct"
    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def score(self, row: EvalRow, output: Output) -> Score:
        return Score(output.text == row.expectations["expected_response"], label=output.text)


def _error(row: EvalRow, output: Output) -> float:
    return float(output.text) - float(row.expectations["expected_response"])
