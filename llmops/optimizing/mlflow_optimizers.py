"""MLflow's prompt optimizers and ours, each through the other's door.

`proposed` runs MLflow's GEPA and metaprompt optimizers on rows of demonstration, for the instructions that they try.
They are called directly, since `mlflow.genai.optimize_prompts` always registers their winner, and their scores are of
the rows that they chose by. `ExamplesOptimizer` is ours for `mlflow.genai.optimize_prompts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mlflow.genai.optimize.optimizers import GepaPromptOptimizer, MetaPromptOptimizer
from mlflow.genai.optimize.types import EvaluationResultRecord

from llmops.errors import CannotRun
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.metric_comparison import value_of
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers import Scorer

_PROMPT = "instruction"
_MODEL = "openai:/proposer"  # never asked: calls go to `ask`

Ask = Callable[[str], str]
Evaluate = Callable[[str, Sequence[EvalRow]], Sequence[RowResult]]


class _Silent:
    """GEPA's logger, which else prints."""

    def log(self, message: str) -> None:
        """Nothing: what was tried is in the optimisation's own record."""


class _MetaPrompt(MetaPromptOptimizer):  # type: ignore[misc]
    """MLflow's, asking through `ask`. error: why there is no proposal, which MLflow's only logs."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(reflection_model=_MODEL)
        self._ask, self.error = ask, ""

    def _call_reflection_model(self, meta_prompt: str, enable_tracking: bool = True) -> dict[str, str]:  # noqa: ARG002
        said = self._ask(meta_prompt).strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        try:
            return {_PROMPT: str(json.loads(said)[_PROMPT])}
        except (ValueError, KeyError, TypeError) as error:
            self.error = f"the model's proposal is no JSON object with {_PROMPT!r}: {said[:80]!r}"
            raise CannotRun(self.error) from error


def proposed(
    optimizer: Literal["gepa", "metaprompt"],
    instruction: str,
    rows: Sequence[EvalRow],
    scorer: Scorer,
    *,
    ask: Ask,
    evaluate: Evaluate,
    budget: int,
    seed: int,
) -> list[str]:
    """Every instruction that MLflow's optimizer tried, in the order it did; nothing is registered.

    Args:
        optimizer: which.
        instruction: to begin with.
        rows: what it learns from, and may copy.
        scorer: what it tries to raise.
        ask: gives the proposing model's answer.
        evaluate: answers rows with an instruction, and scores them.
        budget: the most answers that GEPA asks for; the metaprompt optimizer asks for two to each row.
        seed: of GEPA.

    Raises CannotRun: GEPA is not installed, or the model's proposal cannot be read.
    """
    by_id, tried = {row.id: row for row in rows}, dict[str, None]()

    def eval_fn(prompts: Mapping[str, str], data: Sequence[Mapping[str, Any]]) -> list[EvaluationResultRecord]:
        tried.setdefault(prompts[_PROMPT])
        results = evaluate(prompts[_PROMPT], [by_id[each["id"]] for each in data])
        return [_record(result, scorer) for result in results]

    data = [{"id": row.id, "inputs": dict(row.inputs), "expectations": dict(row.expectations)} for row in rows]
    made: Any
    if optimizer == "metaprompt":
        made = _MetaPrompt(ask)
    else:
        try:
            from gepa.proposer.reflective_mutation.reflection_lm import StatelessReflectionLM
        except ImportError as error:
            raise CannotRun("the gepa optimizer needs GEPA; pip install 'llmops[gepa]'") from error

        def reflect(prompt: str | list[dict[str, Any]]) -> str:
            return ask(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]))

        gepa = {"reflection_strategy": StatelessReflectionLM(reflect), "seed": seed, "logger": _Silent()}
        made = GepaPromptOptimizer(_MODEL, max_metric_calls=budget, gepa_kwargs=gepa)
    found = made.optimize(eval_fn, data, {_PROMPT: instruction}, enable_tracking=False)
    tried.setdefault(found.optimized_prompts[_PROMPT])
    if optimizer == "metaprompt" and made.error:
        raise CannotRun(made.error)
    return [text for text in tried if text != instruction]


def _record(result: RowResult, scorer: Scorer) -> EvaluationResultRecord:
    """A row as MLflow's optimizers read it, which take more for better."""
    value = value_of(result, scorer)
    score = (1 if scorer.higher_is_better else -1) * float(value or 0.0)
    why = {name: each.rationale for name, each in result.scores.items() if each.rationale}
    scores = {scorer.name: score}
    return EvaluationResultRecord(
        dict(result.row.inputs), result.output.text, dict(result.row.expectations), score, None, why, scores
    )
