"""Generates and scores: takes an engine, rows and scorers, returns reports. Knows no store and no network.

Rows are read from their source on every pass and results go to disk, so that memory does not grow with their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from llmops.engines.protocol import Engine
from llmops.evaluation.generating import Generated, Progress, Task, generate_missing
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import EvalReport, StoredResults
from llmops.evaluation.retrying import RETRIES, Retries
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.scorers.protocol import KeptScorer
from llmops.evaluation.scoring import Answered, Summary, findings, score_key, score_rows

GiveEngine = Callable[[], Awaitable[Engine]]


async def generate_all(
    tasks: Sequence[Task],
    engine: GiveEngine,
    cache: GenerationCache,
    progress: Progress | None = None,
    retries: Retries = RETRIES,
) -> list[Generated]:
    """Makes what the cache lacks for cells of one model, one after the other without a pause between them.

    engine: gives the loaded engine; awaited only when something must be generated.

    Raises:
        BadFile: a row does not fit a prompt; before anything is generated.
        EngineUnavailable: the engine is gone; what was finished is in the cache and is not made again.
    """
    missing = await asyncio.to_thread(_missing, tasks, cache)
    if not missing:
        return [Generated() for _ in tasks]
    return await generate_missing(tasks, await engine(), cache, missing, progress, retries)


def _missing(tasks: Sequence[Task], cache: GenerationCache) -> int:
    """How many answers are to be made. Those that failed before are among them, and are tried again; other tasks'
    failures stay on record."""
    missing = set()
    for key in (job.key for task in tasks for job in task.jobs()):
        if not cache.holds(key):
            missing.add(hash(key))
            cache.forget_failure(key)
    return len(missing)


def scorers_with_work(tasks: Sequence[Task], scorers: Sequence[Scorer], cache: GenerationCache) -> set[str]:
    """Names of the scorers that `score_all` will ask for a score: all but those whose score of every row is kept."""
    kept = {scorer.name: scorer for scorer in scorers if isinstance(scorer, KeptScorer)}
    for job in (job for task in tasks for job in task.jobs()):
        if not kept:
            break
        output = cache.get(job.key)
        kept = {
            name: scorer
            for name, scorer in kept.items()
            if output is not None and cache.get_score(score_key(scorer, job.row, output)) is not None
        }
    return {scorer.name for scorer in scorers} - kept.keys()


async def score_all(
    task: Task,
    made: Generated,
    scorers: Sequence[Scorer],
    cache: GenerationCache,
    cluster_by: str | None = None,
    progress: Progress | None = None,
) -> EvalReport:
    """Scores every answer of a cell whose outputs are all in the cache. made: what `generate_all` said of it."""
    # On a thread, because scorers may run an event loop of their own (ragas' do).
    return await asyncio.to_thread(_score_all, task, made, scorers, cache, cluster_by, progress)


def _score_all(
    task: Task,
    made: Generated,
    scorers: Sequence[Scorer],
    cache: GenerationCache,
    cluster_by: str | None,
    progress: Progress | None,
) -> EvalReport:
    results, summary = StoredResults(cache.folder), Summary(scorers, cluster_by)
    for result in score_rows(answered(task, cache), scorers, cache):
        results.append(result)
        summary.add(result)
        if progress is not None:
            progress(len(results), 0)
    return EvalReport(
        results,
        summary.metrics(),
        generated=made.n,
        from_cache=len(results) - made.n,
        seconds=made.seconds,
        tokens_in=summary.tokens_in,
        tokens_out=summary.tokens_out,
        generated_tokens=made.tokens_out,
        findings=findings(results, scorers),
    )


def answered(task: Task, cache: GenerationCache) -> Iterator[Answered]:
    """Every row of a task with its output, finished or failed, in order; after `generate_all`."""
    for job in task.jobs():
        output = cache.outcome(job.key)
        assert output is not None, f"row {job.row.id} was passed over"  # noqa: S101 - generate_all makes all or raises
        yield job.row, output


async def evaluate(
    task: Task,
    engine: GiveEngine,
    scorers: Sequence[Scorer],
    cache: GenerationCache,
    progress: Progress | None = None,
    retries: Retries = RETRIES,
    cluster_by: str | None = None,
) -> EvalReport:
    """One cell alone: `generate_all`, then `score_all`."""
    made = await generate_all([task], engine, cache, progress, retries)
    return await score_all(task, made[0], scorers, cache, cluster_by)
