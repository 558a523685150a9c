"""Runs the cells of a suite: generates what is missing model by model, then scores and records each cell."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from llmops.engines.opening import check_parameters, engine_identity, engine_name, open_engine
from llmops.engines.protocol import Engine, EngineIdentity
from llmops.errors import CannotRun, EngineUnavailable, UsageError
from llmops.eval_runs.cells import (
    NOISE_PARAM,
    SERVED_PARAM,
    STOPPED_PARAM,
    Cell,
    CellRun,
    RowChoice,
    RunOptions,
    cell_identity,
    cost_of,
    failures_of,
    task_of,
)
from llmops.eval_runs.scorer_factory import ScorerFactory
from llmops.evaluation.comparison import draw
from llmops.evaluation.generating import Generated, Task, measure_noise
from llmops.evaluation.generation_cache import GenerationCache, noise_key
from llmops.evaluation.metric_comparison import number_of
from llmops.evaluation.results import EvalReport, RowResult
from llmops.evaluation.runner import answered, generate_all, score_all, score_rows, scorers_with_work
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.sequential import SequentialTest
from llmops.evaluation.suite import Suite, primary_scorer
from llmops.hashing import canonical_json
from llmops.models.sources import UpstreamSource
from llmops.reachable import check_reachable
from llmops.recording import CellIdentity, EvalRecorder, EvalRun, register_eval_set
from llmops.recording.cell import SUITE_ROWS_PARAM
from llmops.registry import Registry
from llmops.settings import Settings, named_variables
from llmops.versions import ModelVersion

CellProgress = Callable[[str, int, int], None]
Todo = tuple[Cell, CellIdentity]


# As `JudgeScorer` names them. EngineRejected and ContextTooLong are left out: they will be the same again.
_PASSING = frozenset({"EngineUnavailable", "EngineBusy", "EngineTimeout", "EngineError"})

# Engines of this machine, whose noise is measured: asking an upstream again costs money, or somebody else's time.
_LOCAL_ENGINES = ("llamacpp", "openvino", "transformers")


class Matrix:
    """One suite's cells, while they run. `running` makes one."""

    def __init__(
        self, settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: CellProgress
    ) -> None:
        self._settings, self._registry, self._suite = settings, registry, suite
        self.options, self._progress = options, progress
        self._recorder, self._scorer_factory = EvalRecorder(registry.store), ScorerFactory(settings)
        self.cache = GenerationCache(settings.generation_cache_dir)
        self._engine = _LazyEngine(options.engine_settings(settings), options.engine)
        self._checked: set[str] = set()

    async def close(self) -> None:
        await self._engine.close()
        self.cache.close()

    async def run(self, cells: Sequence[Cell], chosen: RowChoice, shown: str | None = None) -> list[CellRun]:
        """Every cell's run, in the order of the cells; a complete identical run is reused, unless rows failed in it
        that may not fail again: then what failed is asked for once more, and where fewer rows fail that is a new run.

        shown: how early the run was stopped, recorded with it.

        Raises:
            UsageError: an engine cannot enforce a cell's response format.
            BadFile, EngineError, StoreUnavailable, RecordingIncomplete: finished generations and runs are kept. Where
                a judge or an upstream cannot be reached, before the first row is answered.
        """
        for cell in cells:
            check_parameters(cell.model, self._settings, cell.parameters, self.options.engine)
        identities = [cell_identity(self._suite, cell, self._settings, self.options, chosen) for cell in cells]
        done: dict[int, CellRun] = {}
        failed: dict[int, tuple[CellRun, int]] = {}
        for position, (cell, identity) in enumerate(zip(cells, identities, strict=True)):
            known = None if self.options.force else self._recorder.find(self._suite.name, identity.hash)
            if known is None:
                continue
            found = CellRun(cell, known, 0, known.rows)
            if n_failed := self._passing_failures(cell, known):
                failed[position] = (found, n_failed)
            else:
                done[position] = found
        left = [position for position in range(len(cells)) if position not in done]
        for _, group in groupby(left, key=lambda position: cells[position].model.ref):
            positions = list(group)
            made = await self.generate([cells[position] for position in positions], chosen)
            for position, generated in zip(positions, made, strict=True):
                todo = (cells[position], identities[position])
                done[position] = await self._finish(todo, chosen, generated, shown, failed.get(position))
        return [done[position] for position in range(len(cells))]

    async def generate(self, cells: Sequence[Cell], chosen: RowChoice) -> list[Generated]:
        """What the cache lacks for cells of one model. Raises EngineUnavailable, CannotRun: a judge, or something else
        that the suite scores with, is not there."""
        tasks = [self.task(cell, chosen) for cell in cells]
        await asyncio.to_thread(self._check, tasks)
        name = cells[0].name if len(cells) == 1 else f"{len(cells)} cells on {cells[0].model.ref}"
        give = self._engine.of(cells[0].model)
        made = await generate_all(tasks, give, self.cache, lambda done, total: self._progress(name, done, total))
        await self._measure_noise(cells[0].model, tasks)
        return made

    def _check(self, tasks: Sequence[Task]) -> None:
        """Asks the judges that something will be asked of whether they are there, each once."""
        busy = scorers_with_work(tasks, self._suite.make_scorers(), self.cache) - self._checked
        self._scorer_factory.check(self._suite, busy)
        self._checked |= busy

    def task(self, cell: Cell, chosen: RowChoice) -> Task:
        return task_of(self._suite, cell, self._settings, self.options, chosen)

    async def _measure_noise(self, model: ModelVersion, tasks: Sequence[Task]) -> None:
        """How many answers are others when they are made again as the gateway makes them: once for a suite's rows,
        its model's weights, and the two engines' settings, the same but for `--repeatable` and `--engine`."""
        identity, served = tasks[0].identity, self._served_by(model)
        key = noise_key(model.sha256, identity, served, self._suite.rows_hash)
        local = {identity.name, served.name} <= set(_LOCAL_ENGINES)
        if not local or not self._engine.loaded or self.cache.get_noise(key) is not None:
            return
        engine = self._engine
        if served != identity:
            await engine.close()
            engine = _LazyEngine(self._settings, None)
        self._progress("measuring how many answers are others when they are served", 0, 0)
        try:
            noise = await measure_noise(tasks, await engine.of(model)(), self.cache)
        except CannotRun as error:  # the answers are there; only what is known of them is less
            self._progress(f"not measured: {error}", 0, 0)
            return
        finally:
            if engine is not self._engine:
                await engine.close()
        if noise is not None:
            self.cache.put_noise(key, noise)

    def _served_by(self, model: ModelVersion) -> EngineIdentity:
        """What would answer for the model behind the gateway."""
        return engine_identity(model, self._settings)

    def _passing_failures(self, cell: Cell, run: EvalRun) -> int:
        """How many rows and scores of a run failed in a way that may pass."""
        if not any(metric.n_failed for metric in run.metrics.values()):
            return 0
        return passing_failures(self._recorder.rows(run), self._judged, asks_upstream=_is_upstream(cell.model))

    @property
    def _judged(self) -> frozenset[str]:
        """Names of the scorers that ask a judge."""
        return frozenset(spec.name for spec in self._suite.scorer_specs if self._scorer_factory.needs_judge(spec))

    async def _finish(
        self, todo: Todo, chosen: RowChoice, made: Generated, shown: str | None, before: tuple[CellRun, int] | None
    ) -> CellRun:
        """before: the same cell's run in which so many rows failed, which stands unless fewer do now."""
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
        if before is not None:
            found, n_failed = before
            if passing_failures(report.results, self._judged, asks_upstream=_is_upstream(cell.model)) >= n_failed:
                return replace(found, failed_again=failures_of(report.results))
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
        params = {"repeatable": str(self.options.repeatable).lower(), SUITE_ROWS_PARAM: str(self._suite.n_rows)}
        metrics: dict[str, float] = {}
        if left_out := self._suite.left_out():
            params["scorers_without_judge"] = ", ".join(left_out)
        served = self._served_by(cell.model)
        noise = self.cache.get_noise(noise_key(task.model_sha256, task.identity, served, self._suite.rows_hash))
        if noise is not None and served == task.identity:
            params[NOISE_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips})
            metrics["flip_share"] = noise.share
        elif noise is not None:
            params[SERVED_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips, "served": served.to_mapping()})
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
                if engine_name(model, self._settings, self._engine_name) == "openai":
                    await asyncio.to_thread(_check_upstream, model)
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


def passing_failures(results: Iterable[RowResult], judged: Collection[str], *, asks_upstream: bool) -> int:
    """How many answers and scores failed in a way that may pass: an upstream's or a judge's, unless it said that the
    request can never succeed. judged: scorers that ask a judge."""
    failed = 0
    for result in results:
        if result.output.error is not None:
            failed += asks_upstream
        else:
            failed += sum(_may_pass(result.scores[name].error) for name in judged if name in result.scores)
    return failed


def _may_pass(error: str | None) -> bool:
    return error is not None and error.partition(":")[0] in _PASSING


def _is_upstream(model: ModelVersion) -> bool:
    return model.source.startswith("openai:")


def _check_upstream(model: ModelVersion) -> None:
    """Raises EngineUnavailable when none of the model's servers can be reached, naming why."""
    source = UpstreamSource.parse(model.source, model.provenance.get("key_variable"))
    failures = []
    for server in source.servers:
        key = named_variables([server.key_variable]).get(server.key_variable) if server.key_variable else None
        try:
            return check_reachable(f"the upstream of {model.ref}", server.url, key)
        except EngineUnavailable as error:
            failures.append(error)
    raise failures[0] if len(failures) == 1 else EngineUnavailable("; ".join(map(str, failures)))


# Runs two cells on more and more rows, drawn by chance, until the primary metric tells them apart.
#
# Looking after every step would make an ordinary test cry wolf; the test here may be looked at as often as one likes.

_LOOKS = 20  # at most, at equal distances
_FEWEST_ROWS = 10  # a look


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Why a run ended. rows of total were taken, failed of them lack a score on one side. p_value, ci95: of the
    difference b − a in the primary metric, a failed row counted as its worst. decided: it is shown, and would be
    whatever the failed rows had scored."""

    rows: int
    total: int
    decided: bool
    p_value: float
    ci95: tuple[float, float]
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "of": self.total,
            "decided": self.decided,
            "p_value": self.p_value,
            "ci95": list(self.ci95),
            "failed": self.failed,
        }


async def run_until_decided(matrix: Matrix, suite: Suite, cells: Sequence[Cell]) -> tuple[list[CellRun], EarlyStop]:
    """Both cells' runs on the rows that it took, and why it took no more.

    Raises:
        UsageError: not two cells, or a primary metric that is not within 0 and 1; else as `Matrix.run`.
    """
    if len(cells) != 2:
        raise UsageError(f"stopping early compares two cells; {len(cells)} were given")
    if suite.cluster_by is not None:
        raise UsageError("stopping early needs rows that are independent; this suite has cluster_by")
    limit, seed = matrix.options.limit, matrix.options.seed or 0
    total = min(suite.n_rows, limit or suite.n_rows)
    looks = max(1, min(_LOOKS, total // _FEWEST_ROWS))
    primary = primary_scorer(suite)
    if primary is None or primary.worst not in (0.0, 1.0):
        raise UsageError(f"stopping early needs a primary metric from 0 to 1; {suite.gate.primary} is none")
    # With failed rows at their worst; with those of b at their worst and of a at their best; the other way round.
    tests = test, least, most = SequentialTest(), SequentialTest(), SequentialTest()
    share, failed, decided = 0.0, 0, False
    for look in range(1, looks + 1):
        before, share = share, look / looks
        chosen = RowChoice(limit, share, seed)
        for cell in cells:
            await matrix.generate([cell], chosen)
        tasks = [matrix.task(cell, chosen) for cell in cells]
        found = await asyncio.to_thread(_differences, tasks, primary, matrix.cache, seed, before)
        for each, differences in zip(tests, zip(*found, strict=True), strict=False):
            each.update(differences)
        failed += sum(low != high for _, low, high in found)
        decided = all(each.decided for each in tests) and least.mean * most.mean > 0
        if decided:
            break
    stop = EarlyStop(test.n, total, decided, test.p_value, test.interval, failed)
    shown = f"{seed}: after {stop.rows} of {total} rows"
    return await matrix.run(cells, RowChoice(limit, share, seed), shown), stop


def _differences(
    tasks: Sequence[Task], primary: Scorer, cache: GenerationCache, seed: int, after: float
) -> list[tuple[float, float, float]]:
    """b − a of the rows drawn since the look before, in the order of the draw: where one has no score, with that at
    its worst; and the least and the greatest that it could be."""
    worst = primary.worst or 0.0
    found = []
    scored = (score_rows(answered(task, cache), [primary], cache) for task in tasks)
    for left, right in zip(*scored, strict=True):
        place = draw(seed, left.row.id)
        if place >= after:
            (a, a_other), (b, b_other) = (_ends(number_of(result, primary), worst) for result in (left, right))
            ends = b - a_other, b_other - a
            found.append((place, (b - a, min(ends), max(ends))))
    return [differences for _, differences in sorted(found)]


def _ends(value: float, worst: float) -> tuple[float, float]:
    """The value twice; of a row without a score its worst and its best."""
    return (worst, 1 - worst) if math.isnan(value) else (value, value)
