"""Runs the cells of a suite on a Ray cluster; what is recorded, and how, is as for the local runner."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from llmops.eval_runs.matrix import Cell, CellProgress, Matrix, RowChoice, RunOptions, cell_identity
from llmops.eval_runs.on_ray import RayRunner
from llmops.eval_runs.sharding import CellWork, cell_path, report_of
from llmops.evaluation.results import EvalReport
from llmops.evaluation.runner import count_missing
from llmops.evaluation.suite import Suite
from llmops.ray_cluster import LOCAL
from llmops.registry import Registry
from llmops.settings import Settings


class RayMatrix(Matrix):
    """A matrix whose rows are generated and scored by the nodes of a cluster. Close it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._ray = RayRunner(self.options.on, self.options.workers, self.options.shard_rows)

    async def aclose(self) -> None:
        self._ray.close()
        await super().aclose()

    async def reports(self, cells: Sequence[Cell], chosen: RowChoice) -> AsyncIterator[EvalReport]:
        """Of each of some cells of one model, in order. Raises as `RayRunner.evaluate`."""
        tasks = [self.task(cell, chosen) for cell in cells]
        await asyncio.to_thread(self._check_judges, tasks)
        await asyncio.to_thread(count_missing, tasks, self.cache)  # before anything is sent: whether all rows fit
        work = [self.cell_work(cell, chosen) for cell in cells]
        total = len(cells) * self._suite.n_rows
        what = f"evaluating {cells[0].name}" if len(cells) == 1 else f"evaluating {len(cells)} cells"
        done = await self._ray.evaluate(work, tasks, self.cache, lambda rows: self._progress(what, rows, total))
        for each, shards in zip(work, done, strict=True):
            yield await asyncio.to_thread(report_of, each, shards, self.cache, self._suite.cluster_by)

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


def matrix_of(
    settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: CellProgress
) -> Matrix:
    """The matrix that runs where the options say."""
    kind = Matrix if options.on == LOCAL else RayMatrix
    return kind(settings, registry, suite, options, progress)
