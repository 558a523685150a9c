"""Runs the cells of a suite: generates what is missing model by model, then scores and records each cell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby

from llmops.engines.opening import check_parameters, open_engine
from llmops.engines.protocol import Engine
from llmops.errors import EngineError
from llmops.evaluation.generating import Generated, Task, measure_noise
from llmops.evaluation.generation_cache import GenerationCache, noise_key
from llmops.evaluation.results import EvalReport
from llmops.evaluation.runner import generate_all, score_all
from llmops.evaluation.suite import Suite
from llmops.hashing import canonical_json
from llmops.recording import CellIdentity, EvalRecorder, register_eval_set
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.versions import ModelVersion
from llmops.workflow.cells import Cell, CellRun, RowChoice, RunOptions, cell_identity, cost_of, task_of

CellProgress = Callable[[str, int, int], None]
Todo = tuple[Cell, CellIdentity]

NOISE_PARAM, STOPPED_PARAM = "noise", "stopped_early"

# Engines of this machine, whose noise is measured: asking an upstream again costs money, or somebody else's time.
_LOCAL_ENGINES = ("llamacpp", "openvino", "transformers")


class Matrix:
    """One suite's cells, while they run. `running` makes one."""

    def __init__(
        self, settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: CellProgress
    ) -> None:
        self._settings, self._registry, self._suite = settings, registry, suite
        self.options, self._progress = options, progress
        self._recorder = EvalRecorder(registry.store)
        self.cache = GenerationCache(settings.generation_cache_dir)
        self._engine = _LazyEngine(options.engine_settings(settings), options.engine)

    async def close(self) -> None:
        await self._engine.close()
        self.cache.close()

    async def run(self, cells: Sequence[Cell], chosen: RowChoice, shown: str | None = None) -> list[CellRun]:
        """Every cell's run, in the order of the cells; a complete identical run is reused.

        shown: how early the run was stopped, recorded with it.

        Raises:
            UsageError: an engine cannot enforce a cell's response format.
            BadFile, EngineError, StoreUnavailable, RecordingIncomplete: finished generations and runs are kept.
        """
        for cell in cells:
            check_parameters(cell.model, self._settings, cell.parameters, self.options.engine)
        identities = [cell_identity(self._suite, cell, self._settings, self.options, chosen) for cell in cells]
        done: dict[int, CellRun] = {}
        for position, (cell, identity) in enumerate(zip(cells, identities, strict=True)):
            known = None if self.options.force else self._recorder.find(self._suite.name, identity.hash)
            if known is not None:
                done[position] = CellRun(cell, known, 0, known.rows)
        left = [position for position in range(len(cells)) if position not in done]
        for _, group in groupby(left, key=lambda position: cells[position].model.ref):
            positions = list(group)
            made = await self.generate([cells[position] for position in positions], chosen)
            for position, generated in zip(positions, made, strict=True):
                todo = (cells[position], identities[position])
                done[position] = await self._finish(todo, chosen, generated, shown)
        return [done[position] for position in range(len(cells))]

    async def generate(self, cells: Sequence[Cell], chosen: RowChoice) -> list[Generated]:
        """What the cache lacks for cells of one model."""
        tasks = [self.task(cell, chosen) for cell in cells]
        name = cells[0].name if len(cells) == 1 else f"{len(cells)} cells on {cells[0].model.ref}"
        give = self._engine.of(cells[0].model)
        made = await generate_all(tasks, give, self.cache, lambda done, total: self._progress(name, done, total))
        await self._measure_noise(tasks, give)
        return made

    def task(self, cell: Cell, chosen: RowChoice) -> Task:
        return task_of(self._suite, cell, self._settings, self.options, chosen)

    async def _measure_noise(self, tasks: Sequence[Task], give: Callable[[], Awaitable[Engine]]) -> None:
        """Once for each engine, its settings and weights; `--repeatable` needs none."""
        identity, model_sha256 = tasks[0].identity, tasks[0].model_sha256
        key = noise_key(model_sha256, identity)
        wanted = identity.name in _LOCAL_ENGINES and not self.options.repeatable
        if not wanted or not self._engine.loaded or self.cache.get_noise(key) is not None:
            return
        self._progress("measuring how often answers flip by themselves", 0, 0)
        try:
            noise = await measure_noise(tasks, await give(), self.cache)
        except EngineError as error:  # the answers are there; only what is known of them is less
            self._progress(f"noise not measured: {error}", 0, 0)
            return
        if noise is not None:
            self.cache.put_noise(key, noise)

    async def _finish(self, todo: Todo, chosen: RowChoice, made: Generated, shown: str | None) -> CellRun:
        cell = todo[0]
        task = self.task(cell, chosen)
        total = self._suite.n_rows
        report = await score_all(
            task,
            made,
            self._suite.make_scorers(),
            self.cache,
            self._suite.cluster_by,
            lambda done, _: self._progress(f"scoring {cell.name}", done, total),
        )
        return await asyncio.to_thread(self._record, todo, task, report, shown)

    def _record(self, todo: Todo, task: Task, report: EvalReport, shown: str | None) -> CellRun:
        cell, identity = todo
        params, metrics = self._extras(cell, task, report)
        if shown is not None:
            params[STOPPED_PARAM] = shown
        for eval_set in self._suite.eval_sets:
            register_eval_set(
                self._registry.store, eval_set.name, eval_set.content_hash, eval_set.rows, self._suite.name
            )
        run = self._recorder.record(
            identity,
            report,
            self.options.recorder,
            extra_params=params,
            extra_metrics=metrics,
            progress=lambda done, total: self._progress(f"recording {cell.name} in MLflow", done, total),
        )
        self._registry.prompts.show_in_experiment(cell.prompt.name, run.experiment_id)
        return CellRun(cell, run, report.generated, report.from_cache)

    def _extras(self, cell: Cell, task: Task, report: EvalReport) -> tuple[dict[str, str], dict[str, float]]:
        """What a run shows besides its cell: noise, cost, scorers left out."""
        params: dict[str, str] = {"repeatable": str(self.options.repeatable).lower()}
        metrics: dict[str, float] = {}
        if left_out := self._suite.left_out():
            params["scorers_without_judge"] = ", ".join(left_out)
        noise = self.cache.get_noise(noise_key(task.model_sha256, task.identity))
        if noise is not None:
            params[NOISE_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips})
            metrics["flip_share"] = noise.share
        cost = cost_of(cell.model, report.tokens_in, report.tokens_out)
        if cost is not None:
            metrics["cost"] = cost
        return params, metrics


@asynccontextmanager
async def running(
    settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: CellProgress
) -> AsyncIterator[Matrix]:
    """A matrix whose engine and cache are closed at the end."""
    matrix = Matrix(settings, registry, suite, options, progress)
    try:
        yield matrix
    finally:
        await matrix.close()


class _LazyEngine:
    """Loads an engine when first asked for, and keeps one at a time."""

    def __init__(self, settings: Settings, engine: str | None) -> None:
        self._settings, self._engine_name = settings, engine
        self._loaded: tuple[str, Engine] | None = None

    @property
    def loaded(self) -> bool:
        return self._loaded is not None

    def of(self, model: ModelVersion) -> Callable[[], Awaitable[Engine]]:
        async def load() -> Engine:
            if self._loaded is None or self._loaded[0] != model.ref:
                await self.close()
                self._loaded = (
                    model.ref,
                    await asyncio.to_thread(open_engine, model, self._settings, self._engine_name),
                )
            return self._loaded[1]

        return load

    async def close(self) -> None:
        if self._loaded is not None:
            await self._loaded[1].close()
            self._loaded = None
