"""Multiple choice by log-likelihood: is the likeliest of a row's choices the right one?"""

from __future__ import annotations

import math
from collections.abc import Callable

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.protocol import MissingExpectation, Scorer


def row_choices(row: EvalRow) -> tuple[str, ...]:
    """The texts that a multiple-choice row lets one choose from: `expectations.choices`, two or more.

    Raises:
        MissingExpectation: there are none, or one of them is no text or blank.
    """
    choices = row.expectations.get("choices")
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise MissingExpectation(f"row {row.id}: expectations.choices must be a list of two texts or more")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise MissingExpectation(f"row {row.id}: expectations.choices must hold texts, none of them empty")
    return tuple(choices)


def answer_index(row: EvalRow) -> int:
    """Which of `row_choices` is right: `expectations.answer_index`, counted from 0, else the place of
    `expected_response` among them. Raises MissingExpectation."""
    choices, index = row_choices(row), row.expectations.get("answer_index")
    if index is None:
        response = row.expectations.get("expected_response")
        if response not in choices:
            raise MissingExpectation(f"row {row.id}: needs an answer_index, or an expected_response that is a choice")
        return choices.index(response)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise MissingExpectation(f"row {row.id}: answer_index must be from 0 to {len(choices) - 1}, not {index!r}")
    return index


class ChoiceAccuracy:
    """True when the correct choice has the highest log-likelihood; in a tie the first choice counts. The same as `acc`
    in lm-evaluation-harness."""

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, row: EvalRow, output: Output) -> Score:
        choices, right = row_choices(row), answer_index(row)
        if output.choice_logprobs is None:
            return Score(error="the output has no choice_logprobs; choices must be ranked, not generated")
        if len(output.choice_logprobs) != len(choices) or any(map(math.isnan, output.choice_logprobs)):
            return Score(error=f"choice_logprobs are no numbers for {len(choices)} choices: {output.choice_logprobs}")
        values = [value / self._length(text) for value, text in zip(output.choice_logprobs, choices, strict=True)]
        picked = max(range(len(values)), key=values.__getitem__)  # of equal ones the first
        return Score(picked == right, f"ranks {choices[picked]!r} first", label=choices[picked])

    def _length(self, choice: str) -> int:  # noqa: ARG002 - the choice matters to the scorer below
        return 1


class ChoiceAccuracyNorm(ChoiceAccuracy):
    """Like `choice_accuracy`, with log-likelihood per unit of length, so that a long choice is not at a disadvantage.

    length: `bytes` of UTF-8 (`acc_bytes` in lm-evaluation-harness) or `characters` (its `acc_norm`); equal for ASCII.
    """

    def __init__(self, name: str, length: str = "bytes") -> None:
        super().__init__(name)
        self._in_bytes = parameters.one_of("length", length, ("bytes", "characters")) == "bytes"

    def _length(self, choice: str) -> int:
        return len(choice.encode()) if self._in_bytes else len(choice)


TYPES: dict[str, Callable[..., Scorer]] = {
    "choice_accuracy": ChoiceAccuracy,
    "choice_accuracy_norm": ChoiceAccuracyNorm,
}
