"""Runs the cells of a suite on a Ray cluster, each shard as a task (docs/adr/0025); what is recorded, and how, is as
for the local runner."""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import takewhile
from typing import Any

from llmops.errors import LlmopsError
from llmops.eval_runs.matrix import Cell, CellProgress, Matrix, RowChoice, RunOptions, cell_identity
from llmops.eval_runs.sharding import (
    CellWork,
    ShardDone,
    ShardWork,
    ShardWorker,
    cell_path,
    collect,
    report_of,
    shards_of,
)
from llmops.evaluation.results import EvalReport
from llmops.evaluation.runner import count_missing
from llmops.evaluation.suite import Suite
from llmops.ray_cluster import LOCAL, RayCluster
from llmops.registry import Registry
from llmops.settings import Settings


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


def matrix_of(
    settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: CellProgress
) -> Matrix:
    """The matrix that runs where the options say."""
    kind = Matrix if options.on == LOCAL else RayMatrix
    return kind(settings, registry, suite, options, progress)
