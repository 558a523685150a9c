"""Instructions that a model writes: asked directly, or by MLflow's optimizers. It sees rows of demonstration alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Literal

from llmops.eval_runs.answering import Answers
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers import Scorer
from llmops.generation import GenerationParameters, Message
from llmops.hashing import canonical_json
from llmops.prompt_file import PromptTemplate, assembled, examples_of, instruction_of

_SHOWN = 3  # rows of a request


def _request(seed: int) -> PromptTemplate:
    parameters = GenerationParameters(max_tokens=1024, temperature=1.0, seed=seed)
    return PromptTemplate((Message(role="user", content="{{ text }}"),), "text", parameters)


async def proposals(
    writer: Answers, current: PromptTemplate, rows: Sequence[EvalRow], *, n: int, seed: int
) -> dict[str, str]:
    """So many instructions by name, each asked for with other rows as examples of the task. Raises EngineError."""
    chance, requests = random.Random(seed), []  # noqa: S311 - no secret
    for number in range(1, n + 1):
        some = chance.sample(list(rows), min(_SHOWN, len(rows)))
        examples = "\n\n".join(
            f"Input: {canonical_json(row.inputs)}\nExpected: {canonical_json(row.expectations)}" for row in some
        )
        text = (
            "Write a better instruction for an assistant that does this task. Reply with the instruction alone.\n\n"
            f"Present instruction:\n{instruction_of(current) or '(none)'}\n\n{examples}\n\n"
            f"This is request {number} of {n}: word it differently from the present one."
        )
        requests.append(EvalRow(str(number), {"text": text}))
    texts = await writer.texts(_request(seed), requests, f"{writer.model.ref} proposes")
    return {f"proposal {number}": text for number, text in enumerate(texts, 1) if text}


async def proposals_by_mlflow(
    optimizer: Literal["gepa", "metaprompt"],
    writer: Answers,
    answers: Answers,
    current: PromptTemplate,
    rows: Sequence[EvalRow],
    scorer: Scorer,
    *,
    budget: int,
    seed: int,
) -> dict[str, str]:
    """The instructions that MLflow's optimizer tries on the rows, by name.

    writer: the model that writes them. answers: of the model that they are for. scorer: what decides.

    Raises CannotRun, EngineError.
    """
    from llmops.optimizing.mlflow_optimizers import proposed

    loop = asyncio.get_running_loop()  # the optimizers are no coroutines: they run on a thread, and ask back

    def ask(text: str) -> str:
        work = writer.texts(_request(seed), [EvalRow("1", {"text": text})], f"{writer.model.ref} proposes")
        return asyncio.run_coroutine_threadsafe(work, loop).result()[0]

    def evaluate(instruction: str, some: Sequence[EvalRow]) -> Sequence[RowResult]:
        template = assembled(current, instruction.strip(), examples_of(current))
        work = answers.reports([template], some, [scorer], f"{optimizer}, rows of demonstration")
        return list(asyncio.run_coroutine_threadsafe(work, loop).result()[0].results)

    tried = await asyncio.to_thread(
        proposed, optimizer, instruction_of(current), rows, scorer, ask=ask, evaluate=evaluate, budget=budget, seed=seed
    )
    return {f"{optimizer} {number}": text for number, text in enumerate(tried, 1)}
