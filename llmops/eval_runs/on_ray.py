"""Evaluates shards on the nodes of a Ray cluster, each as a task (docs/adr/0025)."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import takewhile

from llmops.errors import LlmopsError
from llmops.eval_runs.sharding import CellWork, ShardDone, ShardWork, ShardWorker, collect, shards_of
from llmops.evaluation.generating import Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.ray_cluster import RayCluster


class RayRunner:
    """Evaluates cells on a cluster, which is connected when it is first needed. Close it.

    on: as `RayCluster` takes it.
    workers: shards at a time; None: as many as the cluster has nodes with a CPU at that moment.
    shard_rows: rows of a shard, which is what a node that dies may have to make again.
    """

    def __init__(self, on: str, workers: int | None, shard_rows: int) -> None:
        self._cluster, self._workers, self._shard_rows = RayCluster(on), workers, shard_rows

    def close(self) -> None:
        self._cluster.close()

    async def evaluate(
        self,
        cells: Sequence[CellWork],
        tasks: Sequence[Task],
        cache: GenerationCache,
        progress: Callable[[int], None],
    ) -> list[list[ShardDone]]:
        """What became of the shards of each cell, in order.

        tasks: the cells', with their rows.
        cache: what it holds is not made again; it gets what was finished where the run fails.
        progress: is told how many rows are done.

        Raises:
            CannotRun: the cluster cannot be used, or a shard's process died again and again.
            EngineError: the engine is gone.
        """
        shards = (
            (position, work)
            for position, (cell, task) in enumerate(zip(cells, tasks, strict=True))
            for work in shards_of(cell, task, cache, self._shard_rows)
        )
        found: list[dict[int, ShardDone]] = [{} for _ in cells]
        failures: list[LlmopsError] = []
        rows = 0
        async with aclosing(self._run(cells, takewhile(lambda _: not failures, shards))) as results:
            async for number, position, done in results:
                found[position][number] = done
                if done.error is not None:
                    failures.append(done.error)
                rows += done.rows
                progress(rows)
        in_order = [[by_number[number] for number in sorted(by_number)] for by_number in found]
        if failures:
            for cell, all_done in zip(cells, in_order, strict=True):
                for _ in collect(cell, all_done, cache):
                    pass
            raise failures[0]
        return in_order

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
            while len(running) >= (self._workers or max(1, len(self._cluster.cpus()))):
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
