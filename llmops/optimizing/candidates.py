"""Candidate prompts: the current one with another instruction, other demonstrations, or both.

An instruction is a template's system turn. A demonstration is a row as a pair of turns: what the last turn asks of it,
and its expected answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from llmops.errors import EngineRejected, UsageError
from llmops.evaluation.contamination import Pieces
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.scorers.classification import answer_index, row_choices
from llmops.evaluation.scorers.protocol import MissingExpectation, right_answer
from llmops.generation import Message
from llmops.json_schema import AnswerSchema, schema_of
from llmops.prompt_file import PromptTemplate, assembled, examples_of, format_prompt, parse_prompt

CURRENT = "current"
"""The name of the instruction that the current prompt has."""
HOLDS_PIECES = "holds pieces of selection or held-out rows"
NO_ANSWER = "has no expected answer to show"
UNFIT = "does not fit the prompt"

Instructions = Mapping[str, str]
"""System turns by name; an empty one is none."""
Demonstrations = Mapping[str, tuple[Message, Message]]
"""Pairs of turns by the id of the row."""

_REPEATS = 100
"""Draws in a row that only gave what was drawn before; then there is little left to draw."""


OptimizerName = Literal["examples", "instructions", "gepa", "metaprompt"]


@dataclass(frozen=True)
class SearchOptions:
    """How candidates are made and chosen: the options of `llmops optimize`, and what a recipe file of the pipeline
    `improve` holds.

    instructions: files of other system turns; for `optimize` also texts by name.
    proposer: a model version that writes instructions.
    proposals: how many it is asked for by `instructions` and `examples`.
    budget: the most answers to selection rows. `gepa` may ask for as many again, to the rows of demonstration.
    most_examples: demonstrations of a candidate.
    seed: of the split and of the candidates.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    optimizer: OptimizerName = "examples"
    instructions: tuple[str, ...] = ()
    proposer: str | None = None
    proposals: Annotated[int, Field(ge=1)] = 8
    budget: Annotated[int, Field(ge=1)] = 600
    most_examples: Annotated[int, Field(ge=1)] = 6
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PromptCandidate:
    """A prompt that may replace the current one.

    instruction: its name.
    demonstrations: ids of the rows shown, in their order, after the current prompt's own examples where it keeps them.
    """

    instruction: str
    demonstrations: tuple[str, ...]
    keeps_examples: bool
    template: PromptTemplate

    def to_json(self) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "demonstrations": list(self.demonstrations),
            "keeps_examples": self.keeps_examples,
            "prompt": format_prompt(self.template),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PromptCandidate:
        """Reads what `to_json` gave."""
        shown = tuple(values["demonstrations"])
        return cls(values["instruction"], shown, values["keeps_examples"], parse_prompt(values["prompt"]))


class Contamination:
    """Keeps candidates free of pieces of the rows that choose and judge; what the current prompt holds of them already
    is no candidate's doing. rejected: how many texts were turned away, by why."""

    def __init__(self, current: PromptTemplate, rows: Iterable[EvalRow]) -> None:
        self._pieces, self._current = Pieces(rows), current
        self.in_current = self._pieces.held_by(current.turns)
        self.rejected: Counter[str] = Counter()

    def allowed(self, instructions: Instructions) -> dict[str, str]:
        """The instructions that may be used, the current one among them."""
        found: dict[str, str] = {}
        for name, text in instructions.items():
            candidate = assembled(self._current, text.strip(), examples_of(self._current))
            why = self._objection(candidate) if candidate.variables == self._current.variables else UNFIT
            if why:
                self.rejected[f"instruction {why}"] += 1
            elif text.strip() not in found.values():
                found[name] = text.strip()
        return found

    def demonstrations(self, rows: Iterable[EvalRow], *, choices: bool = False) -> dict[str, tuple[Message, Message]]:
        """The rows that can be shown, as turns. choices: rows are multiple choice."""
        found = {}
        for row in rows:
            try:
                turns = _demonstration(self._current, row, choices)
                why = self._objection(assembled(self._current, "", turns))
            except MissingExpectation:
                why = NO_ANSWER
            except (UsageError, EngineRejected):
                why = UNFIT
            if why:
                self.rejected[f"demonstration {why}"] += 1
            else:
                found[row.id] = turns
        return found

    def _objection(self, candidate: PromptTemplate) -> str:
        try:
            format_prompt(candidate)
        except UsageError:
            return UNFIT
        held = self._pieces.held_by(candidate.turns).keys() - self.in_current.keys()
        return HOLDS_PIECES if held else ""


def _demonstration(template: PromptTemplate, row: EvalRow, choices: bool) -> tuple[Message, Message]:
    """Raises MissingExpectation; UsageError, EngineRejected: it does not fit the template, or its response format."""
    if row.messages:
        raise UsageError("a conversation is no single question")
    answer = (row_choices(row)[answer_index(row)] if choices else right_answer(row)).strip()
    wanted = template.parameters.response_format
    if wanted is not None and (problem := AnswerSchema(schema_of(wanted)).problem(answer)):
        raise UsageError(problem)
    asked = template.render(row.variables)[-1]["content"].strip()
    if "{{" in asked + answer:
        raise UsageError("what it says would be read as a variable")
    return Message(role="user", content=asked), Message(role="assistant", content=answer)


def draw_candidates(
    current: PromptTemplate,
    instructions: Instructions,
    demonstrations: Demonstrations,
    *,
    most: int,
    most_examples: int,
    seed: int,
) -> list[PromptCandidate]:
    """At most so many different candidates: first every instruction with the current examples and with none, then
    subsets and orders of the demonstrations, drawn at random, with an instruction drawn at random.

    most_examples: demonstrations of a candidate; 0: every candidate keeps the current examples.
    """
    chance, own = random.Random(seed), examples_of(current)  # noqa: S311 - no secret
    found: dict[str, PromptCandidate] = {}

    def add(instruction: str, shown: Sequence[str], keeps: bool) -> bool:
        """Whether it is a new one."""
        turns = [*(own if keeps else ()), *(turn for row_id in shown for turn in demonstrations[row_id])]
        template = assembled(current, instructions[instruction], turns)
        known: Collection[str] = {current.content_hash, *found}
        if template.content_hash in known or template.variables != current.variables:
            return False
        found[template.content_hash] = PromptCandidate(instruction, tuple(shown), keeps, template)
        return True

    for name in instructions:
        add(name, (), True)
        if most_examples:
            add(name, (), False)
    largest, repeats = min(most_examples, len(demonstrations)), 0
    while largest and len(found) < most and repeats < _REPEATS:
        shown = chance.sample(sorted(demonstrations), chance.randint(1, largest))
        keeps = bool(own) and chance.random() < 0.5
        repeats = 0 if add(chance.choice(sorted(instructions)), shown, keeps) else repeats + 1
    return list(found.values())[:most]
