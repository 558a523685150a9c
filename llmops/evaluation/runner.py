"""Generates and scores: takes an engine, rows and scorers, returns reports. Knows no store and no network.

Rows are read from their source on every pass and results go to disk, so that memory does not grow with their number.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from llmops.engines.protocol import Engine
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generating import RETRIES, Generated, Progress, Retries, Task, generate_missing
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import (
    EvalReport,
    Metric,
    Output,
    Results,
    RowResult,
    RunFindings,
    Score,
    ScoreTally,
    StoredResults,
    known_sum,
)
from llmops.evaluation.scorers.protocol import BatchScorer, CachedScorer, RunScorer, Scorer, limits_of
from llmops.hashing import content_hash

_BATCH = 64  # rows scored together: enough for an embedding model, few enough to show progress

Answered = tuple[EvalRow, Output]


def score_rows(answered: Iterable[Answered], scorers: Sequence[Scorer], cache: GenerationCache) -> Iterator[RowResult]:
    """Every answered row with its scores, in order; holds a batch of rows at a time."""
    rows = iter(answered)
    while batch := list(islice(rows, _BATCH)):
        by_scorer = {scorer.name: _score_batch(scorer, batch, cache) for scorer in scorers}
        for position, (row, output) in enumerate(batch):
            yield RowResult(row, output, {name: scores[position] for name, scores in by_scorer.items()})


def _score_batch(scorer: Scorer, batch: Sequence[Answered], cache: GenerationCache) -> list[Score]:
    """A failed generation, or a scorer that raises, gives a score with an error."""
    good = [(row, output) for row, output in batch if output.error is None]
    if isinstance(scorer, CachedScorer):
        keys = [score_key(scorer, *pair) for pair in good]
        with ThreadPoolExecutor(scorer.side_by_side) as threads:
            asking = threads.map(lambda key, pair: kept_score(cache, key, lambda: one_score(scorer, *pair)), keys, good)
            made = list(asking)
    elif isinstance(scorer, BatchScorer) and good:
        try:
            many = scorer.score_many([row for row, _ in good], [output for _, output in good])
            made = [_checked(score) for _, score in zip(good, many, strict=True)]
        except Exception as error:  # noqa: BLE001 - as in `one_score`
            made = [Score(error=_told(error))] * len(good)
    else:
        made = [one_score(scorer, row, output) for row, output in good]
    scores = iter(made)
    return [
        Score(error=f"generation failed: {output.error}") if output.error is not None else next(scores)
        for _, output in batch
    ]


def one_score(scorer: Scorer, row: EvalRow, output: Output) -> Score:
    """The scorer's score; its crash becomes a score with an error."""
    try:
        return _checked(scorer.score(row, output))
    except Exception as error:  # noqa: BLE001 - a scorer is plug-in code; its crash becomes a counted record
        return Score(error=_told(error))


def findings(results: Results, scorers: Sequence[Scorer]) -> Mapping[str, RunFindings]:
    """What scorers say of the whole run, by scorer name; those that have nothing to say are left out. A crash is a
    finding, too: the metric `findings_failed`, and a file that says why."""
    by_scorer = {}
    for scorer in scorers:
        if isinstance(scorer, RunScorer):
            try:
                by_scorer[scorer.name] = scorer.findings(results)
            except Exception as error:  # noqa: BLE001 - as in `one_score`
                by_scorer[scorer.name] = RunFindings({"findings_failed": 1.0}, {"error.txt": _told(error).encode()})
    return by_scorer


def kept_score(cache: GenerationCache, key: str, make: Callable[[], Score]) -> Score:
    """A score that is paid for once: from the cache, or made now and kept at once, unless it failed."""
    if (score := cache.get_score(key)) is None:
        score = make()
        if score.error is None:
            cache.put_score(key, score)
    return score


def score_key(scorer: CachedScorer, row: EvalRow, output: Output) -> str:
    """Identity of a kept score: what the scorer saw, and all that makes it judge as it does."""
    seen = {name: value for name, value in row.to_json().items() if name not in ("id", "tags")}
    return content_hash({"scorer": dict(scorer.identity), "row": seen, "output": output.text})


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _checked(score: Score) -> Score:
    """The score itself; one without a finite value and without an error becomes a score with an error."""
    if score.error is None and (score.value is None or not math.isfinite(score.value)):
        return Score(error=f"the scorer gave {score.value}, which is no score")
    return score


class RunSummary:
    """Metrics and tokens of a run, gathered row by row. cluster_by: as `ScoreTally` takes it."""

    def __init__(self, scorers: Sequence[Scorer], cluster_by: str | None = None) -> None:
        self._scorers = scorers
        self._tallies = {scorer.name: ScoreTally(scorer.name, limits_of(scorer), cluster_by) for scorer in scorers}
        self._tokens_in: int | None = 0
        self._tokens_out: int | None = 0

    def add(self, result: RowResult) -> None:
        """One more row."""
        if result.output.error is None:
            self._tokens_in = known_sum(self._tokens_in, result.output.tokens_in)
            self._tokens_out = known_sum(self._tokens_out, result.output.tokens_out)
        for tally in self._tallies.values():
            tally.add(result)

    def metrics(self) -> dict[str, Metric]:
        """By scorer name, of the rows added so far."""
        return {name: tally.metric() for name, tally in self._tallies.items()}

    def report(self, results: Results, made: Generated) -> EvalReport:
        """Of all results, each of which was added. made: what was generated for them now."""
        return EvalReport(
            results,
            self.metrics(),
            generated=made.n,
            from_cache=len(results) - made.n,
            seconds=made.seconds,
            tokens_in=self._tokens_in,
            tokens_out=self._tokens_out,
            generated_tokens=made.tokens_out,
            findings=findings(results, self._scorers),
        )


def metrics_of(
    results: Iterable[RowResult], scorers: Sequence[Scorer], cluster_by: str | None = None
) -> dict[str, Metric]:
    """By scorer name, over rows that are scored already."""
    summary = RunSummary(scorers, cluster_by)
    for result in results:
        summary.add(result)
    return summary.metrics()


GiveEngine = Callable[[], Awaitable[Engine]]


async def generate_all(
    tasks: Sequence[Task],
    engine: GiveEngine,
    cache: GenerationCache,
    progress: Progress | None = None,
    retries: Retries = RETRIES,
) -> list[Generated]:
    """Makes what the cache lacks for cells of one model, one after the other without a pause between them. What failed
    before is tried again; other tasks' failures stay on record.

    engine: gives the loaded engine; awaited only when something must be generated.

    Raises BadFile: a row does not fit a prompt; before anything is generated. EngineUnavailable: the engine is gone;
    what was finished is in the cache and is not made again.
    """
    if not (missing := await asyncio.to_thread(count_missing, tasks, cache)):
        return [Generated() for _ in tasks]
    return await generate_missing(tasks, await engine(), cache, missing, progress, retries)


def count_missing(tasks: Sequence[Task], cache: GenerationCache) -> int:
    """How many outputs must be made. Those that failed are forgotten. Raises BadFile: a row does not fit a prompt."""
    missing = set()
    for key in (job.key for task in tasks for job in task.jobs()):
        if not cache.holds(key):
            missing.add(hash(key))
            cache.forget_failure(key)
    return len(missing)


def scorers_with_work(tasks: Sequence[Task], scorers: Sequence[Scorer], cache: GenerationCache) -> set[str]:
    """Names of the scorers that `score_all` will ask for a score: all but those whose score of every row is kept."""
    kept = {scorer.name: scorer for scorer in scorers if isinstance(scorer, CachedScorer)}
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
    total: int = 0,
) -> EvalReport:
    """Scores every answer of a cell whose outputs are all in the cache. made: what `generate_all` said of it. total:
    rows, for progress."""

    def score() -> EvalReport:
        results, summary = StoredResults(cache.folder), RunSummary(scorers, cluster_by)
        for result in score_rows(answered(task, cache), scorers, cache):
            results.append(result)
            summary.add(result)
            if progress is not None:
                progress(len(results), total)
        return summary.report(results, made)

    # On a thread, because scorers may run an event loop of their own (ragas' do).
    return await asyncio.to_thread(score)


def answered(task: Task, cache: GenerationCache) -> Iterator[Answered]:
    """Every row of a task with its output, finished or failed, in order; after `generate_all`."""
    for job in task.jobs():
        output = cache.outcome(job.key)
        assert output is not None, f"row {job.row.id} was passed over"  # noqa: S101 - generate_all makes all or raises
        yield job.row, output
