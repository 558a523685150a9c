"""Evaluates a cell shard by shard, each in whatever process: generates, scores, and writes one Parquet file. On a Ray
cluster each shard is a task (docs/adr/0025); what is recorded, and how, is as for the local runner.

What a run needs is a value that travels: `CellWork` once for a cell, `ShardWork` for some of its rows. A shard that is
there already is not made again, and one that was begun twice is written twice with equal scores, so that a process may
be killed at any time.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Any

from llmops.engines.opening import engine_identity, open_engine
from llmops.engines.protocol import Engine
from llmops.errors import CannotRun, EngineError, LlmopsError
from llmops.eval_runs.matrix import Cell, Matrix, RowChoice, cell_identity
from llmops.eval_runs.scorer_factory import ScorerFactory
from llmops.evaluation.eval_set import EvalRow, measure
from llmops.evaluation.generating import Generated, Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import EvalReport, Output, RowResult, Score
from llmops.evaluation.runner import RunSummary, answered, count_missing, generate_all, score_key, score_rows
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.scorers.protocol import CachedScorer
from llmops.evaluation.shards import Shard, ShardedResults, ShardFolder
from llmops.evaluation.suite import JudgeTables, ScorerSpec
from llmops.hashing import content_hash
from llmops.ray_cluster import RayCluster, on_this_machine, portable
from llmops.settings import Settings
from llmops.versions import ModelVersion

_OF_ALL_ROWS = ("rows", "cluster_by", "stopped_early")  # what of a run's identity changes no result of a single row
_NAME_LENGTH = 32  # of a sha256 in hex


@dataclass(frozen=True, slots=True)
class CellWork:
    """What all shards of a cell have in common.

    folder: URL of the shards' folder. path: the cell's own below it. task: without its rows. engine: by name; None for
    the model's default. anew: score again what is there.
    """

    folder: str
    path: str
    task: Task
    model: ModelVersion
    settings: Settings
    engine: str | None
    scorer_specs: tuple[ScorerSpec, ...]
    judges: JudgeTables
    anew: bool = False

    def make_scorers(self) -> list[Scorer]:
        """All but those that need a judge and have none."""
        make = ScorerFactory(self.settings).make
        return [made for spec in self.scorer_specs if (made := make(spec, self.judges)) is not None]


@dataclass(frozen=True, slots=True)
class ShardWork:
    """Some rows, and what is known of them already.

    path: the shard's, without the hash of its bytes. there: shards that were written of the same rows. outputs, scores:
    by key.
    """

    path: str
    there: tuple[str, ...]
    rows: tuple[EvalRow, ...]
    outputs: Mapping[str, Output]
    scores: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What became of a shard. shard: None where the engine was gone. error: why; outputs: what was finished before.
    made: the answers made now, its times in seconds since the epoch."""

    rows: int
    shard: Shard | None = None
    error: LlmopsError | None = None
    outputs: Mapping[str, Output] = field(default_factory=dict)
    made: Generated = field(default_factory=Generated)


def cell_path(content: Mapping[str, Any]) -> str:
    """The folder of a cell's shards, below all shards. content: the cell's identity."""
    own = {name: value for name, value in content.items() if name not in _OF_ALL_ROWS}
    return f"{content['suite']}/{content_hash(own)[:_NAME_LENGTH]}"


def shards_of(cell: CellWork, task: Task, cache: GenerationCache, shard_rows: int) -> Iterator[ShardWork]:
    """A cell's rows in shards, in order, each with what the cache holds of it. task: the cell's, with its rows. Raises
    StoreUnavailable."""
    there: dict[str, list[str]] = {}
    for path in sorted(ShardFolder(cell.folder).paths(cell.path)):
        there.setdefault(path.rsplit(".", 2)[0], []).append(path)
    kept = [scorer for scorer in cell.make_scorers() if isinstance(scorer, CachedScorer)]
    jobs = iter(task.jobs())
    while batch := list(islice(jobs, shard_rows)):
        outputs, scores = {}, {}
        for job in batch:
            if (output := cache.get(job.key)) is None:
                continue
            outputs[job.key] = output
            for key in (score_key(scorer, job.row, output) for scorer in kept):
                if (score := cache.get_score(key)) is not None:
                    scores[key] = score
        _, rows_hash = measure(job.row for job in batch)
        path = f"{cell.path}/{rows_hash[:_NAME_LENGTH]}"
        yield ShardWork(path, tuple(there.get(path, ())), tuple(job.row for job in batch), outputs, scores)


class ShardWorker:
    """Evaluates shards in this process, one after the other. Keeps the last cell's engine and scorers until closed."""

    def __init__(self) -> None:
        self._loop = asyncio.Runner()
        self._cell: str | None = None
        self._engine: Engine | None = None
        self._scorers: list[Scorer] = []

    def close(self) -> None:
        if self._engine is not None:
            self._loop.run(self._engine.close())
        self._loop.close()

    def evaluate(self, cell: CellWork, work: ShardWork) -> ShardDone:
        """Writes the shard, unless it is there and no row of it failed. What failed in it is tried again."""
        cell = replace(cell, settings=on_this_machine(cell.settings))
        try:
            folder = ShardFolder(cell.folder)
            written = list(filter(None, map(folder.results, work.there)))
            for shard, results in written:
                if not cell.anew and not any(map(_failed, results)):
                    return ShardDone(len(work.rows), shard)
            self._begin(cell)
            with closing(GenerationCache(None)) as cache:
                for key, output in work.outputs.items():
                    cache.put(key, output)
                for key, score in work.scores.items():
                    cache.put_score(key, score)
                for _, results in written:
                    keep(results, self._scorers, cache)
                return self._make(cell, work, cache, folder)
        except LlmopsError as error:
            return ShardDone(len(work.rows), error=portable(error))

    def _begin(self, cell: CellWork) -> None:
        """Makes the cell's scorers, unless it is the last one. Raises CannotRun: its answers would be others here."""
        if self._cell == cell.path:
            return
        self._cell, self._scorers = None, cell.make_scorers()
        if self._engine is not None:
            self._loop.run(self._engine.close())
            self._engine = None
        here = engine_identity(cell.model, cell.settings, cell.engine)
        if here != cell.task.identity:
            raise CannotRun(f"a node's engine is {here}, and not {cell.task.identity}: install the same versions on it")
        self._cell = cell.path

    def _make(self, cell: CellWork, work: ShardWork, cache: GenerationCache, folder: ShardFolder) -> ShardDone:
        task = replace(cell.task, rows=work.rows)

        async def engine() -> Engine:
            if self._engine is None:
                self._engine = open_engine(cell.model, cell.settings, cell.engine)
            return self._engine

        keys = [job.key for job in task.jobs()]
        try:
            made = self._loop.run(generate_all([task], engine, cache))[0]
        except EngineError as error:
            finished = {key: output for key in keys if (output := cache.get(key)) is not None}
            return ShardDone(len(keys), error=portable(error), outputs=finished)
        results = score_rows(answered(task, cache), self._scorers, cache)
        shard, to_epoch = folder.write(work.path, zip(keys, results, strict=True)), time.time() - time.perf_counter()
        made = replace(made, began=made.began + to_epoch, ended=made.ended + to_epoch)
        return ShardDone(len(keys), shard, made=made)


def collect(cell: CellWork, done: Iterable[ShardDone], cache: GenerationCache) -> Iterator[RowResult]:
    """The results in shards, in order; what is not to be made again goes into the cache. Raises CannotRun."""
    done, scorers = list(done), cell.make_scorers()
    for key, output in (item for each in done for item in each.outputs.items()):
        cache.put(key, output)
    shards = [each.shard for each in done if each.shard is not None]
    for key, result in ShardedResults(cell.folder, shards).with_keys():
        keep([(key, result)], scorers, cache)
        yield result


def report_of(
    cell: CellWork, done: Sequence[ShardDone], cache: GenerationCache, cluster_by: str | None = None
) -> EvalReport:
    """A cell's report from all its shards, in order, as `score_all` makes it. Raises as `collect`."""
    summary, made = RunSummary(cell.make_scorers(), cluster_by), Generated()
    for result in collect(cell, done, cache):
        summary.add(result)
    for each in done:
        made.add(each.made)
    results = ShardedResults(cell.folder, [each.shard for each in done if each.shard is not None])
    return summary.report(results, made)


def keep(results: Sequence[tuple[str, RowResult]], scorers: Sequence[Scorer], cache: GenerationCache) -> None:
    """Puts into the cache what is not to be made again: finished outputs by their keys, and scores that cost."""
    for key, result in results:
        if result.output.error is not None:
            continue
        if not cache.holds(key):
            cache.put(key, result.output)
        for scorer in scorers:
            if isinstance(scorer, CachedScorer) and scorer.name in result.scores:
                cache.put_score(score_key(scorer, result.row, result.output), result.scores[scorer.name])


def _failed(kept: tuple[str, RowResult]) -> bool:
    result = kept[1]
    return any(score.error is not None for score in result.scores.values()) or result.output.error is not None


class RayMatrix(Matrix):
    """A matrix whose rows are generated and scored by the nodes of a cluster, which is connected when it is first
    needed. Close it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._cluster = RayCluster(self.options.on)

    async def aclose(self) -> None:
        self._cluster.close()
        await super().aclose()

    async def reports(self, cells: Sequence[Cell], chosen: RowChoice) -> AsyncIterator[EvalReport]:
        """Of each of some cells of one model, in order. What the cache holds is not made again, and it gets what was
        finished where the run fails. Raises CannotRun: the cluster cannot be used, or a shard's process died again and
        again. EngineError: the engine is gone."""
        tasks = [self.task(cell, chosen) for cell in cells]
        await asyncio.to_thread(self._check_judges, tasks)
        await asyncio.to_thread(count_missing, tasks, self.cache)  # before anything is sent: whether all rows fit
        work = [self.cell_work(cell, chosen) for cell in cells]
        what = f"evaluating {cells[0].name}" if len(cells) == 1 else f"evaluating {len(cells)} cells"
        shards = (
            (position, shard)
            for position, (cell, task) in enumerate(zip(work, tasks, strict=True))
            for shard in shards_of(cell, task, self.cache, self.options.shard_rows)
        )
        done: list[dict[int, ShardDone]] = [{} for _ in cells]
        failures: list[LlmopsError] = []
        rows = 0
        async with aclosing(self._run(work, takewhile(lambda _: not failures, shards))) as results:
            async for number, position, shard in results:
                done[position][number] = shard
                if shard.error is not None:
                    failures.append(shard.error)
                rows += shard.rows
                self._progress(what, rows, len(cells) * self._suite.n_rows)
        for cell, by_number in zip(work, done, strict=True):
            in_order = [by_number[number] for number in sorted(by_number)]
            if not failures:
                yield await asyncio.to_thread(report_of, cell, in_order, self.cache, self._suite.cluster_by)
                continue
            for _ in collect(cell, in_order, self.cache):
                pass
        if failures:
            raise failures[0]

    def cell_work(self, cell: Cell, chosen: RowChoice) -> CellWork:
        """What another process must know of the cell."""
        identity = cell_identity(self._suite, cell, self._settings, self.options, chosen)
        return CellWork(
            folder=self._settings.resolved_shards,
            path=cell_path(identity.content),
            task=replace(self.task(cell, chosen), rows=()),
            model=cell.model,
            settings=self._engine_settings,
            engine=self.options.engine,
            scorer_specs=self._suite.scorer_specs,
            judges=self._suite.judges,
            anew=self.options.force,
        )

    async def _run(
        self, cells: Sequence[CellWork], shards: Iterator[tuple[int, ShardWork]]
    ) -> AsyncGenerator[tuple[int, int, ShardDone], None]:
        """Number, cell's position and result of each shard, as they are done. A shard is taken when there is room."""
        # A local engine uses all cores of its node; asking an upstream is work for one.
        cpus = 1 if cells[0].model.format == "openai" else min(self._cluster.cpus())
        evaluate = self._cluster.task(_evaluate, name="evaluate shard", cpus=cpus)
        with self._cluster.failures_translated():
            sent = [self._cluster.ray.put(cell) for cell in cells]
        running: dict[asyncio.Future[ShardDone], tuple[int, int]] = {}

        async def finished() -> list[tuple[int, int, ShardDone]]:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            with self._cluster.failures_translated():
                return [(*running.pop(each), each.result()) for each in done]

        for number, (position, work) in enumerate(shards):
            while len(running) >= (self.options.workers or max(1, len(self._cluster.cpus()))):
                for each in await finished():
                    yield each
            with self._cluster.failures_translated():
                result = evaluate.remote(sent[position], work).future()
            running[asyncio.wrap_future(result)] = number, position
        while running:
            for each in await finished():
                yield each


@functools.cache
def _worker() -> ShardWorker:
    """This process's own."""
    return ShardWorker()


def _evaluate(cell: CellWork, work: ShardWork) -> ShardDone:
    """The task that Ray runs on a node."""
    return _worker().evaluate(cell, work)
