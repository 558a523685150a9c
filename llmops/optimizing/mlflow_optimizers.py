"""MLflow's prompt optimizers and ours, each through the other's door.

`proposed` runs MLflow's GEPA and metaprompt optimizers on rows of demonstration, for the instructions that they try.
They are called directly, since `mlflow.genai.optimize_prompts` always registers their winner, and their scores are of
the rows that they chose by. `ExamplesOptimizer` is ours for `mlflow.genai.optimize_prompts`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from uuid import uuid4

import mlflow
from mlflow.genai.optimize.optimizers import BasePromptOptimizer, GepaPromptOptimizer, MetaPromptOptimizer
from mlflow.genai.optimize.types import EvaluationResultRecord, PromptOptimizerOutput

from llmops.errors import CannotRun, LlmopsError, UsageError
from llmops.evaluation.eval_set import EvalRow, as_text
from llmops.evaluation.metric_comparison import value_of
from llmops.evaluation.paired_tests import paired_test
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.statistics import ALPHA
from llmops.generation import Message
from llmops.optimizing.candidates import CURRENT, Contamination, draw_candidates
from llmops.optimizing.race import race, ranked, schedule
from llmops.optimizing.split import split_rows
from llmops.processes import run_async
from llmops.prompt_file import PromptTemplate, instruction_of
from llmops.recording.optimizations import SPLIT, OptimizationRecord, held_out_before
from llmops.registry.store import Store
from llmops.settings import Settings

_PROMPT = "instruction"
_MODEL = "openai:/proposer"  # never asked: calls go to `ask`

Ask = Callable[[str], str]
Evaluate = Callable[[str, Sequence[EvalRow]], Sequence[RowResult]]


class _Silent:
    """GEPA's logger, which else prints."""

    def log(self, message: str) -> None:
        """Nothing: what was tried is in the optimisation's own record."""


class _MetaPrompt(MetaPromptOptimizer):  # type: ignore[misc]
    """MLflow's, asking through `ask`."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(reflection_model=_MODEL)
        self._ask = ask

    def _call_reflection_model(self, meta_prompt: str, enable_tracking: bool = True) -> dict[str, str]:  # noqa: ARG002
        return {_PROMPT: self._ask(meta_prompt)}


def _instruction_in(said: str) -> str:
    """What the metaprompt asks for. Raises CannotRun."""
    text = said.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return str(json.loads(text)[_PROMPT])
    except (ValueError, KeyError, TypeError) as error:
        raise CannotRun(f"the model's proposal is no JSON object with {_PROMPT!r}: {said[:80]!r}") from error


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

    Raises CannotRun: GEPA is not installed, or the model's proposal cannot be read. EngineError.
    """
    by_id, tried = {row.id: row for row in rows}, dict[str, None]()
    failures: list[LlmopsError] = []

    def asked(text: str) -> str:  # both optimizers would pass over a failure, and log it at most
        try:
            return _instruction_in(ask(text)) if optimizer == "metaprompt" else ask(text)
        except LlmopsError as error:
            failures.append(error)
            raise

    def eval_fn(prompts: Mapping[str, str], data: Sequence[Mapping[str, Any]]) -> list[EvaluationResultRecord]:
        tried.setdefault(prompts[_PROMPT])
        results = evaluate(prompts[_PROMPT], [by_id[each["id"]] for each in data])
        return [_record(result, scorer) for result in results]

    data = [{"id": row.id, "inputs": dict(row.inputs), "expectations": dict(row.expectations)} for row in rows]
    made: Any
    if optimizer == "metaprompt":
        made = _MetaPrompt(asked)
    else:
        try:
            from gepa.proposer.reflective_mutation.reflection_lm import StatelessReflectionLM
        except ImportError as error:
            raise CannotRun("the gepa optimizer needs GEPA; pip install 'llmops[gepa]'") from error

        def reflect(prompt: str | list[dict[str, Any]]) -> str:
            return asked(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]))

        gepa = {"reflection_strategy": StatelessReflectionLM(reflect), "seed": seed, "logger": _Silent()}
        made = GepaPromptOptimizer(_MODEL, max_metric_calls=budget, gepa_kwargs=gepa)
    found = made.optimize(eval_fn, data, {_PROMPT: instruction}, enable_tracking=False)
    tried.setdefault(found.optimized_prompts[_PROMPT])
    if failures:
        raise failures[0]
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


class ExamplesOptimizer(BasePromptOptimizer):  # type: ignore[misc]
    """For `mlflow.genai.optimize_prompts`: looks for rows to show as examples, as `llmops optimize` does.

    The data are split as a suite's rows are. MLflow registers what an optimizer returns: this one returns a prompt only
    if it is significantly better on held-out rows, and else none. Both scores that it reports are of held-out rows, and
    which were read is recorded in the MLflow store, so that no later call reads them again.
    """

    def __init__(self, *, budget: int = 600, most_examples: int = 6, seed: int = 0) -> None:
        """budget: answers to selection rows. most_examples: of a prompt. seed: of the split and of the candidates."""
        self.budget, self.most_examples, self.seed = budget, most_examples, seed

    def optimize(
        self,
        eval_fn: Callable[[dict[str, str], list[dict[str, Any]]], list[EvaluationResultRecord]],
        train_data: list[dict[str, Any]],
        target_prompts: dict[str, str],
        enable_tracking: bool = True,  # noqa: ARG002 - the record of held-out rows is no matter of choice
    ) -> PromptOptimizerOutput:
        """As MLflow calls it. Raises UsageError: not one prompt, or no scorers; CannotRun: too few rows."""
        if len(target_prompts) != 1:
            raise UsageError(f"prompt_uris: one prompt is optimised at a time, not {len(target_prompts)}")
        [(name, text)] = target_prompts.items()
        rows = [_row(number, each) for number, each in enumerate(train_data)]
        data, current = dict(zip((row.id for row in rows), train_data, strict=True)), _template(text)
        store = Store(replace(Settings.from_environment(), tracking_uri=mlflow.get_tracking_uri()))
        label = f"optimize_prompts {name}"
        split = split_rows(rows, seed=self.seed, read=held_out_before(store, label).keys())
        selection, held_out = (split.part(part, rows) for part in ("selection", "held_out"))
        guard = Contamination(current, [*selection, *held_out])
        candidates = draw_candidates(
            current,
            {CURRENT: instruction_of(current)},
            guard.demonstrations(split.part("demonstrations", rows)),
            most=schedule(self.budget, len(selection), self.budget)[0].candidates,
            most_examples=self.most_examples,
            seed=self.seed,
        )

        def scores(template: PromptTemplate, some: Sequence[EvalRow]) -> list[float]:
            found = [each.score for each in eval_fn({name: _text(template, text)}, [data[row.id] for row in some])]
            if any(score is None for score in found):
                raise UsageError("scorers: an optimisation needs some")
            return [float(score) for score in found]

        async def score(positions: Sequence[int], first: int, last: int) -> list[list[float]]:
            templates = [candidates[position].template for position in positions]
            return [await asyncio.to_thread(scores, each, selection[first:last]) for each in templates]

        rungs = schedule(len(candidates), len(selection), self.budget)
        lengths = [len(_text(candidate.template, text)) for candidate in candidates]
        means = run_async(lambda: race(rungs, score, lengths))
        best = ranked(means, range(len(means)), lengths)[0]
        before = scores(current, selection)
        if means[best][-1] <= sum(before) / len(before):
            return self._without("no candidate is better on the rows that choose; held-out rows were not read")
        record = OptimizationRecord.begun(store, uuid4().hex, label, label, vars(self))
        record.keep(SPLIT, split.to_json())
        record.claim(split.held_out_keys, candidates[best].template.content_hash)
        a, b = (scores(template, held_out) for template in (current, candidates[best].template))
        tested, ends = paired_test(a, b), (sum(a) / len(a), sum(b) / len(b))
        metrics = {"held_out/difference": tested.difference, "held_out/p_value": tested.p_value}
        prompts = [_text(candidate.template, text) for candidate in candidates]
        table: dict[str, list[Any]] = {
            "prompt": prompts,
            "mean": [each[-1] for each in means],
            "rows": [rungs[len(m) - 1].rows for m in means],
        }
        record.finish({"prompt": prompts[best], **metrics}, metrics, table)
        if tested.p_value >= ALPHA or tested.difference <= 0:
            found = f"{tested.difference:+.3f}, p = {tested.p_value:.2g}"
            return self._without(f"the best candidate is not significantly better on held-out rows: {found}", *ends)
        return PromptOptimizerOutput({name: prompts[best]}, *ends)

    def _without(self, why: str, *ends: float) -> PromptOptimizerOutput:
        logging.getLogger(__name__).warning("nothing is registered: %s", why)
        return PromptOptimizerOutput({}, *ends)


def _row(number: int, record: Mapping[str, Any]) -> EvalRow:
    inputs = {name: str(as_text(value)) for name, value in record["inputs"].items()}
    expectations = record.get("expectations") or {"expected_response": record.get("outputs")}
    return EvalRow(f"row {number}", inputs, {name: each for name, each in expectations.items() if each is not None})


def _template(text: str) -> PromptTemplate:
    """A prompt as MLflow hands it to optimizers: text, or the messages of a chat as JSON. Raises UsageError."""
    try:
        messages = json.loads(text)
    except ValueError:
        messages = None
    turns = messages if isinstance(messages, list) else [{"role": "user", "content": text}]
    template = PromptTemplate(tuple(Message(role=each["role"], content=each["content"].strip()) for each in turns), "")
    last = replace(template, turns=template.turns[-1:]).variables
    if not last:
        raise UsageError("prompt_uris: the prompt's last message has no variable, so that no example can be shown")
    return replace(template, input_variable=min(last))


def _text(template: PromptTemplate, like: str) -> str:
    """The template as MLflow wrote the prompt: a chat's messages as JSON, or a text that begins with the examples."""
    if _template(like).turns[0]["content"] != like.strip():
        return json.dumps([dict(turn) for turn in template.turns], ensure_ascii=False)
    pairs = [
        f"{asked['content']}\n{said['content']}" for asked, said in zip(*[iter(template.turns[:-1])] * 2, strict=True)
    ]
    return "\n\n".join([*pairs, template.turns[-1]["content"]])
