"""Generates and scores: takes an engine, rows and scorers, returns a report. Knows no store and no network."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from llmops.engines.protocol import Engine, EngineIdentity, GenerationParameters, GenerationRequest, generate
from llmops.errors import BadFile, EngineError, EngineUnavailable, LlmopsError, UsageError
from llmops.evaluation import statistics
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache, generation_key
from llmops.evaluation.results import EvalReport, Metric, Output, RowResult, Score
from llmops.evaluation.scorers import Scorer
from llmops.prompt_file import PromptTemplate

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Task:
    """One cell's work: a template and parameters for a model, over rows.

    identity: the engine's, known without loading it, so that a fully cached task loads nothing.
    """

    template: PromptTemplate
    parameters: GenerationParameters
    model_sha256: str
    identity: EngineIdentity
    rows: Sequence[EvalRow]
    seed: int | None = None


async def evaluate(
    task: Task,
    engine: Callable[[], Awaitable[Engine]],
    scorers: Sequence[Scorer],
    cache: GenerationCache,
    progress: Progress | None = None,
) -> EvalReport:
    """Answers every row, from the cache where it can be, and scores every answer.

    engine: gives the loaded engine; awaited only when something must be generated.

    Raises:
        BadFile: a row does not fit the prompt; before anything is generated.
        EngineUnavailable: the engine is gone; what was finished is in the cache and is not made again.
    """
    requests = _requests(task)
    start = time.perf_counter()
    outputs, generated = await _outputs(task, requests, engine, cache, progress)
    seconds = time.perf_counter() - start
    # On a thread, because scorers may run an event loop of their own (ragas' do).
    results = await asyncio.to_thread(_score_all, task.rows, outputs, scorers)
    return EvalReport(results, summarise(results, scorers), generated, len(outputs) - generated, seconds)


def _score_all(rows: Sequence[EvalRow], outputs: Sequence[Output], scorers: Sequence[Scorer]) -> list[RowResult]:
    return [
        RowResult(row, output, score_output(row, output, scorers)) for row, output in zip(rows, outputs, strict=True)
    ]


def _requests(task: Task) -> list[GenerationRequest]:
    parameters = task.parameters if task.seed is None else replace(task.parameters, seed=task.seed)
    requests = []
    for row in task.rows:
        try:
            messages = task.template.render(row.inputs)
        except UsageError as error:
            raise BadFile("eval set", f"row {row.id!r} does not fit the prompt: {error}", field="inputs") from error
        requests.append(GenerationRequest(messages, parameters))
    return requests


async def _outputs(
    task: Task,
    requests: Sequence[GenerationRequest],
    engine: Callable[[], Awaitable[Engine]],
    cache: GenerationCache,
    progress: Progress | None,
) -> tuple[list[Output], int]:
    """Outputs in the order of the rows, and how many of them were generated now."""
    keys = [generation_key(request, task.model_sha256, task.identity, task.seed) for request in requests]
    found: dict[str, Output] = {}
    missing: dict[str, GenerationRequest] = {}
    for key, request in zip(keys, requests, strict=True):
        if (output := cache.get(key)) is not None:
            found[key] = output
        else:
            missing[key] = request
    if missing:
        found.update(await _generate_all(await engine(), missing, cache, progress))
    return [found[key] for key in keys], len(missing)


async def _generate_all(
    engine: Engine, missing: Mapping[str, GenerationRequest], cache: GenerationCache, progress: Progress | None
) -> dict[str, Output]:
    """Keeps the engine's slots full, and no more, so that a latency is the engine's and not a wait for a slot."""
    gate = asyncio.Semaphore(engine.slots)
    outputs: dict[str, Output] = {}

    async def one(key: str, request: GenerationRequest) -> None:
        async with gate:
            output = await _generate_one(engine, request)
        if output.error is None:
            cache.put(key, output)
        outputs[key] = output
        if progress is not None:
            progress(len(outputs), len(missing))

    try:
        async with asyncio.TaskGroup() as group:
            for key, request in missing.items():
                group.create_task(one(key, request))
    except* LlmopsError as failures:
        raise failures.exceptions[0] from failures
    return outputs


async def _generate_one(engine: Engine, request: GenerationRequest) -> Output:
    """An engine that is gone ends the run; a request that fails by itself becomes a record."""
    try:
        made = await generate(engine, request)
    except EngineUnavailable:
        raise
    except EngineError as error:
        return Output("", finish_reason="error", error=str(error))
    return Output(
        made.text,
        made.finish_reason,
        made.usage.tokens_in,
        made.usage.tokens_out,
        round(1000 * made.latency_s, 3),
        round(1000 * made.first_token_s, 3),
    )


def score_output(row: EvalRow, output: Output, scorers: Sequence[Scorer]) -> dict[str, Score]:
    """Scores by scorer name. A failed generation, or a scorer that raises, gives a score with an error."""
    if output.error is not None:
        return {scorer.name: Score(error=f"generation failed: {output.error}") for scorer in scorers}
    scores = {}
    for scorer in scorers:
        try:
            scores[scorer.name] = _checked(scorer.score(row, output))
        except Exception as error:  # noqa: BLE001 - a scorer is plug-in code; its crash becomes a counted record
            scores[scorer.name] = Score(error=f"{type(error).__name__}: {error}")
    return scores


def _checked(score: Score) -> Score:
    """The score itself; one without a finite value and without an error becomes a score with an error."""
    if score.error is None and (score.value is None or not math.isfinite(score.value)):
        return Score(error=f"the scorer gave {score.value}, which is no score")
    return score


def summarise(results: Sequence[RowResult], scorers: Sequence[Scorer]) -> dict[str, Metric]:
    """Mean with 95 % interval, and counts, of every scorer."""
    metrics = {}
    for scorer in scorers:
        values = [v for result in results if (v := result.scores[scorer.name].value) is not None]
        ci95 = statistics.mean_interval(values) if values else None
        mean = sum(map(float, values)) / len(values) if values else None
        metrics[scorer.name] = Metric(mean, len(values), len(results) - len(values), ci95)
    return metrics
