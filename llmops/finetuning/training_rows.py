"""The rows of a fine-tune: from eval sets and from the production log, without any that the suite holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import UsageError
from llmops.eval_runs.eval_set_from_log import feedback_of, feedback_sign, inputs_of
from llmops.evaluation.eval_set import EvalRow, cluster_of
from llmops.evaluation.eval_set_check import asked_again
from llmops.evaluation.eval_set_source import named_eval_set
from llmops.evaluation.generating import filled
from llmops.evaluation.scorers.protocol import MissingExpectation, right_answer
from llmops.evaluation.suite import Suite
from llmops.finetuning.recipe import Recipe
from llmops.generation import Message
from llmops.hashing import JsonData
from llmops.production_log import ProductionLog
from llmops.prompt_file import PromptTemplate
from llmops.settings import Settings


@dataclass(frozen=True, slots=True)
class TrainingRow(JsonData):
    """messages: the filled prompt. completion: what the model shall answer."""

    id: str
    messages: tuple[Message, ...]
    completion: str


@dataclass(slots=True)
class RowCounts(JsonData):
    """What became of the rows that were read.

    of_suite: ask what a row of the suite asks. near_suite: ask nearly that. suite_cluster: stand in a cluster of the
    suite. repeated: ask what an earlier row asks. too_long: have more tokens than the recipe allows. unusable: records
    of the log that hold no text that a row could ask, or no answer.
    """

    trained: int = 0
    validated: int = 0
    of_suite: int = 0
    near_suite: int = 0
    suite_cluster: int = 0
    repeated: int = 0
    too_long: int = 0
    unusable: int = 0

    @property
    def left_out(self) -> str:
        """How many rows were left out, and why, in words."""
        reasons = {
            "of the suite": self.of_suite,
            "nearly of the suite": self.near_suite,
            "in a cluster of the suite": self.suite_cluster,
            "repeated": self.repeated,
            "too long": self.too_long,
            "unusable": self.unusable,
        }
        return ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n) or "no row"


def training_rows(
    settings: Settings, recipe: Recipe, suite: Suite, template: PromptTemplate
) -> tuple[list[TrainingRow], RowCounts]:
    """The rows to train on, in order, and what was left out. Raises UnknownVersion: there is no such eval set. BadFile.
    UsageError: a row has no answer to train on, or does not fill the prompt."""
    counts, answered = RowCounts(), list[tuple[EvalRow, str]]()  # each row with its right answer
    for row in (row for name in recipe.train for row in named_eval_set(name, settings).rows):
        try:
            answered.append((row, right_answer(row)))
        except MissingExpectation as error:
            raise UsageError(f"train: {error}, and no expected_json; there is nothing to train on") from error
    if recipe.from_log is not None:
        log = ProductionLog(settings.resolved_log_url)
        answered += _of_log(log.iterate(app=recipe.from_log, feedback=True), template.input_variable, counts)
    kept = _without_suite([row for row, _ in answered], suite, recipe.near, counts)
    chosen = (answered[position] for position in sorted(kept))
    return [rendered(row, template, completion) for row, completion in chosen], counts


def rendered(row: EvalRow, template: PromptTemplate, completion: str) -> TrainingRow:
    """The row put into the prompt. Raises UsageError: it does not fill it."""
    try:
        return TrainingRow(row.id, filled(template, row), completion)
    except UsageError as error:
        raise UsageError(f"row {row.id}: {error}") from error


def _of_log(records: Iterable[Any], input_variable: str, counts: RowCounts) -> Iterator[tuple[EvalRow, str]]:
    """Answers that users rated positively."""
    for record in records:
        said = feedback_of(record)
        if record.outcome != "ok" or said is None or feedback_sign(said) != "positive":
            continue
        inputs = inputs_of(record, input_variable)
        if inputs is None or not record.output:
            counts.unusable += 1
            continue
        yield EvalRow(f"log-{record.key}", inputs), record.output


def _without_suite(rows: Sequence[EvalRow], suite: Suite, near: float, counts: RowCounts) -> set[int]:
    """Positions of the rows that the suite does not hold, and that no earlier row asks."""
    held_out = list(suite.rows)
    clusters = {cluster_of(row, suite.cluster_by) for row in held_out} - {None} if suite.cluster_by else set()
    asked = asked_again(rows, held_out, near)
    kept = set()
    for position, row in enumerate(rows):
        match asked.get(position):
            case "same":
                counts.of_suite += 1
            case "near":
                counts.near_suite += 1
            case _ if clusters and cluster_of(row, suite.cluster_by or "") in clusters:
                counts.suite_cluster += 1
            case "repeated":
                counts.repeated += 1
            case _:
                kept.add(position)
    return kept
