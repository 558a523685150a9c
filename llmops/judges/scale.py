"""The verdicts a judge may give, and what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.results import Score, ScoreValue


@dataclass(frozen=True, slots=True)
class Scale:
    """The verdicts there are, in the order shown to the judge, with what each is worth. meaning: told to the judge."""

    worth: Mapping[str | int, ScoreValue]
    meaning: str

    def schema(self, field: str = "score") -> dict[str, Any]:
        """Of an answer with the reason first: a verdict that is decoded first is only justified afterwards."""
        verdicts = list(self.worth)
        kind = "string" if isinstance(verdicts[0], str) else "integer"
        return {
            "type": "object",
            "properties": {"rationale": {"type": "string"}, field: {"type": kind, "enum": verdicts}},
            "required": ["rationale", field],
            "additionalProperties": False,
        }

    def score(self, answer: Mapping[str, Any], field: str = "score") -> Score:
        """The score of an answer that follows the schema; the verdict itself opens the rationale."""
        verdict = answer[field] if isinstance(answer[field], str) else int(answer[field])  # JSON may write 4 as 4.0
        return Score(self.worth[verdict], f"{verdict}: {answer['rationale']}", label=str(verdict))

    def to_json(self) -> list[list[Any]]:
        """Plain JSON values, for identities."""
        return [[verdict, value] for verdict, value in self.worth.items()]


def make_scale(scale: Any, good: Any = None) -> Scale:
    """A scale from a suite's parameters.

    `pass_fail` scores true or false. `[1, 5]` are whole points, worst and best, scored as their share of the way from 0
    to 1. A list of labels scores true for those that are `good`.

    Raises:
        UsageError: starting with `scale` or `good`.
    """
    is_list = isinstance(scale, Sequence) and not isinstance(scale, str)
    if is_list and len(scale) > 1 and all(isinstance(label, str) and label.strip() for label in scale):
        return _labels(list(scale), good)
    if good is not None:
        raise UsageError("good: goes with a scale of labels only")
    if scale == "pass_fail":
        return Scale(
            {"pass": True, "fail": False}, "The score is pass when the output fulfils the rubric, and fail when not."
        )
    if is_list and len(scale) == 2 and all(type(end) is int for end in scale) and 0 < scale[1] - scale[0] <= 100:
        lowest, highest = scale
        worth: dict[str | int, ScoreValue] = {
            points: (points - lowest) / (highest - lowest) for points in range(lowest, highest + 1)
        }
        return Scale(worth, f"The score is a whole number from {lowest} (worst) to {highest} (best).")
    raise UsageError("scale: must be pass_fail, two whole numbers (worst, best; 100 apart at most) or a list of labels")


def _labels(labels: Sequence[str], good: Any) -> Scale:
    if len(set(labels)) < len(labels):
        raise UsageError("scale: a label stands twice")
    chosen = {good} if isinstance(good, str) else set(good or ())
    if not chosen or not chosen < set(labels):
        raise UsageError("good: must name some of the scale's labels, and not all of them")
    return Scale({label: label in chosen for label in labels}, f"The score is one of: {', '.join(labels)}.")
