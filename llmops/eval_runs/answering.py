"""Answers of one model to prompts that are registered nowhere, from the generation cache where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmops.errors import EngineError
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import Cell, Matrix, RowChoice, RunOptions, cost_of
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import EvalReport, known_sum
from llmops.evaluation.runner import answered, score_all
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.suite import Suite
from llmops.progress import ShowProgress
from llmops.prompt_file import PromptTemplate
from llmops.versions import ModelVersion, PromptVersion


@dataclass(slots=True)
class Spent:
    """Answers that were asked for, from the cache or not, with their tokens and price; None where nobody counted."""

    answers: int = 0
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost: float | None = None

    def count(self, model: ModelVersion, answers: int, tokens_in: int | None, tokens_out: int | None) -> None:
        """So many more."""
        self.answers += answers
        self.tokens_in, self.tokens_out = known_sum(self.tokens_in, tokens_in), known_sum(self.tokens_out, tokens_out)
        if (cost := cost_of(model, tokens_in, tokens_out)) is not None:
            self.cost = (self.cost or 0.0) + cost


class Answers:
    """Answers of a model to rows of a suite, counted in `spent`. Close it: the engine is its own."""

    def __init__(
        self, evaluations: Evaluations, suite: Suite, model: ModelVersion, spent: Spent, progress: ShowProgress
    ) -> None:
        self.model, self.suite, self._spent, self._progress, self._what = model, suite, spent, progress, ""

        def generating(_: str, done: int, total: int) -> None:  # the matrix names cells, and these have no names
            progress(self._what, done, total)

        self._matrix = Matrix(evaluations.settings, evaluations.registry, suite, RunOptions(), generating)

    async def aclose(self) -> None:
        await self._matrix.aclose()

    def cell(self, template: PromptTemplate) -> Cell:
        """The template on the model."""
        return Cell(PromptVersion(self.suite.prompt, 0, template), self.model, template.parameters)

    def engine(self, template: PromptTemplate) -> dict[str, object]:
        """What answers."""
        identity = self._matrix.task(self.cell(template), RowChoice()).identity
        return {"name": identity.name, "build": identity.build, "settings": dict(identity.settings)}

    async def reports(
        self, templates: Sequence[PromptTemplate], rows: Sequence[EvalRow], scorers: Sequence[Scorer], what: str
    ) -> list[EvalReport]:
        """Answers and scores of some prompts on some rows. what: shown with the progress. Raises EngineError."""
        self._what = what
        self._progress(what, 0, len(templates) * len(rows))
        cells, chosen = [self.cell(template) for template in templates], RowChoice(rows=rows)
        made, reports = await self._matrix.generate(cells, chosen), []
        for cell, generated in zip(cells, made, strict=True):
            task = self._matrix.task(cell, chosen)
            report = await score_all(task, generated, scorers, self._matrix.cache, self.suite.cluster_by)
            self._spent.count(self.model, len(rows), report.tokens_in, report.tokens_out)
            reports.append(report)
        return reports

    async def texts(self, template: PromptTemplate, rows: Sequence[EvalRow], what: str) -> list[str]:
        """Answers as they are. Raises EngineError, also where one row fails."""
        self._what = what
        cell, chosen = self.cell(template), RowChoice(rows=rows)
        await self._matrix.generate([cell], chosen)
        outputs = [output for _, output in answered(self._matrix.task(cell, chosen), self._matrix.cache)]
        for output in outputs:
            if output.error is not None:
                raise EngineError(f"{self.model.ref}: {output.error}")
            self._spent.count(self.model, 1, output.tokens_in, output.tokens_out)
        return [output.text.strip() for output in outputs]
