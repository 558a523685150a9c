"""Runs the cells of a suite: generates what is missing model by model, then scores and records each cell.

Two cells can also be run on more and more rows, drawn by chance, until the primary metric tells them apart.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

from llmops.engines.openai_errors import check_reachable
from llmops.engines.opening import check_parameters, engine_identity, engine_name, open_engine
from llmops.engines.protocol import Engine
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
from llmops.recording import CellIdentity, EvalRecorder, register_eval_set
from llmops.recording.cell import SUITE_ROWS_PARAM
from llmops.registry import Registry
from llmops.settings import Settings, named_variables
from llmops.versions import ModelVersion

CellProgress = Callable[[str, int, int], None]

# As `JudgeScorer` names them. EngineRejected and ContextTooLong are left out: they will be the same again.
_PASSING = frozenset({"EngineUnavailable", "EngineBusy", "EngineTimeout", "EngineError"})

# Engines of this machine, whose noise is measured: asking an upstream again costs money, or somebody else's time.
_LOCAL_ENGINES = ("llamacpp", "openvino", "transformers")

_LOOKS = 20  # at most, at equal distances
_FEWEST_ROWS = 10  # a look


class Matrix:
    """One suite's cells, while they run. Close it: engine and cache are its own."""

    def __init__(
        self, settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: CellProgress
    ) -> None:
        self._settings, self._registry, self._suite = settings, registry, suite
        self.options, self._progress = options, progress
        self._recorder, self._scorer_factory = EvalRecorder(registry.store), ScorerFactory(settings)
        self._judged = {spec.name for spec in suite.scorer_specs if self._scorer_factory.needs_judge(spec)}
        self.cache = GenerationCache(settings.generation_cache_dir)
        self._engine = _LazyEngine(options.engine_settings(settings), options.engine)
        self._checked: set[str] = set()

    async def aclose(self) -> None:
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
        failed: dict[int, tuple[CellRun, int]] = {}  # runs in which so many rows failed in a way that may pass
        for position, (cell, identity) in enumerate(zip(cells, identities, strict=True)):
            known = None if self.options.force else self._recorder.find(self._suite.name, identity.hash)
            if known is None:
                continue
            found = CellRun(cell, known, 0, known.rows)
            results = self._recorder.rows(known) if any(metric.n_failed for metric in known.metrics.values()) else ()
            if n_failed := passing_failures(results, self._judged, asks_upstream=cell.asks_upstream):
                failed[position] = (found, n_failed)
            else:
                done[position] = found
        left = [position for position in range(len(cells)) if position not in done]
        for _, group in groupby(left, key=lambda position: cells[position].model.ref):
            positions = list(group)
            made = await self.generate([cells[position] for position in positions], chosen)
            for position, generated in zip(positions, made, strict=True):
                cell = cells[position]
                report = await self._score(cell, chosen, generated)
                if position in failed:
                    found, n_failed = failed[position]
                    if passing_failures(report.results, self._judged, asks_upstream=cell.asks_upstream) >= n_failed:
                        done[position] = replace(found, failed_again=failures_of(report.results))
                        continue
                done[position] = await asyncio.to_thread(self._record, cell, identities[position], report, shown)
        return [done[position] for position in range(len(cells))]

    async def generate(self, cells: Sequence[Cell], chosen: RowChoice) -> list[Generated]:
        """What the cache lacks for cells of one model. Raises EngineUnavailable, CannotRun: a judge, or something else
        that the suite scores with, is not there."""
        tasks, model = [self.task(cell, chosen) for cell in cells], cells[0].model

        def check() -> None:
            """Asks the judges that something will be asked of whether they are there, each once."""
            busy = scorers_with_work(tasks, self._suite.make_scorers(), self.cache) - self._checked
            self._scorer_factory.check(self._suite, busy)
            self._checked |= busy

        await asyncio.to_thread(check)
        name = cells[0].name if len(cells) == 1 else f"{len(cells)} cells on {model.ref}"
        made = await generate_all(tasks, lambda: self._engine.of(model), self.cache, partial(self._progress, name))
        await self._measure_noise(model, tasks)
        return made

    def task(self, cell: Cell, chosen: RowChoice) -> Task:
        """The cell's work for the runner."""
        return Task(
            template=cell.prompt.template,
            parameters=cell.parameters,
            model_sha256=cell.model.sha256,
            identity=self.options.engine_identity(cell.model, self._settings),
            rows=chosen.of(self._suite),
            seed=self.options.seed,
            choices=self._suite.choices,
        )

    async def _measure_noise(self, model: ModelVersion, tasks: Sequence[Task]) -> None:
        """How many answers are others when they are made again as the gateway makes them: once for a suite's rows,
        its model's weights, and the two engines' settings, the same but for `--repeatable` and `--engine`."""
        identity, served = tasks[0].identity, engine_identity(model, self._settings)
        key = noise_key(model.sha256, identity, served, self._suite.rows_hash)
        local = {identity.name, served.name} <= set(_LOCAL_ENGINES)
        if not local or self._engine.loaded is None or self.cache.get_noise(key) is not None:
            return
        engine = self._engine
        if served != identity:
            await engine.close()
            engine = _LazyEngine(self._settings, None)
        self._progress("measuring how many answers are others when they are served", 0, 0)
        try:
            noise = await measure_noise(tasks, await engine.of(model), self.cache)
        except CannotRun as error:  # the answers are there; only what is known of them is less
            self._progress(f"not measured: {error}", 0, 0)
            return
        finally:
            if engine is not self._engine:
                await engine.close()
        if noise is not None:
            self.cache.put_noise(key, noise)

    async def _score(self, cell: Cell, chosen: RowChoice, made: Generated) -> EvalReport:
        return await score_all(
            self.task(cell, chosen),
            made,
            self._suite.make_scorers(),
            self.cache,
            self._suite.cluster_by,
            lambda done, _: self._progress(f"scoring {cell.name}", done, self._suite.n_rows),
        )

    def _record(self, cell: Cell, identity: CellIdentity, report: EvalReport, shown: str | None) -> CellRun:
        """Records what a run shows besides its cell, too: noise, cost, scorers left out."""
        params = {"repeatable": str(self.options.repeatable).lower(), SUITE_ROWS_PARAM: str(self._suite.n_rows)}
        metrics: dict[str, float] = {}
        if left_out := self._suite.left_out():
            params["scorers_without_judge"] = ", ".join(left_out)
        if shown is not None:
            params[STOPPED_PARAM] = shown
        served = engine_identity(cell.model, self._settings)
        evaluated = self.options.engine_identity(cell.model, self._settings)
        noise = self.cache.get_noise(noise_key(cell.model.sha256, evaluated, served, self._suite.rows_hash))
        if noise is not None and served == evaluated:
            params[NOISE_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips})
            metrics["flip_share"] = noise.share
        elif noise is not None:
            params[SERVED_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips, "served": served.to_mapping()})
        if (cost := cost_of(cell.model, report.tokens_in, report.tokens_out)) is not None:
            metrics["cost"] = cost
        store, suite = self._registry.store, self._suite
        for eval_set in suite.eval_sets:
            register_eval_set(store, eval_set.name, eval_set.content_hash, eval_set.rows, suite.name)
        run = self._recorder.record(
            identity,
            report,
            self.options.recorder,
            extra_params=params,
            extra_metrics=metrics,
            progress=partial(self._progress, f"recording {cell.name} in MLflow"),
        )
        self._registry.prompts.show_in_experiment(cell.prompt.name, run.experiment_id)
        return CellRun(cell, run, report.generated, report.from_cache)


class _LazyEngine:
    """Loads an engine when first asked for, and keeps one at a time."""

    def __init__(self, settings: Settings, engine: str | None) -> None:
        self._settings, self._engine_name = settings, engine
        self.loaded: tuple[str, Engine] | None = None

    async def of(self, model: ModelVersion) -> Engine:
        """The engine of that model."""
        if self.loaded is None or self.loaded[0] != model.ref:
            await self.close()
            if engine_name(model, self._settings, self._engine_name) == "openai":
                await asyncio.to_thread(_check_upstream, model)
            opened = await asyncio.to_thread(open_engine, model, self._settings, self._engine_name)
            self.loaded = (model.ref, opened)
        return self.loaded[1]

    async def close(self) -> None:
        if self.loaded is not None:
            await self.loaded[1].close()
            self.loaded = None


def passing_failures(results: Iterable[RowResult], judged: Collection[str], *, asks_upstream: bool) -> int:
    """How many answers and scores failed in a way that may pass: an upstream's or a judge's, unless it said that the
    request can never succeed. judged: scorers that ask a judge."""
    failed = 0
    for result in results:
        if result.output.error is not None:
            failed += asks_upstream
        else:
            errors = (result.scores[name].error for name in judged if name in result.scores)
            failed += sum(error is not None and error.partition(":")[0] in _PASSING for error in errors)
    return failed


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


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Why a run ended.

    rows: how many were taken, `of` so many; failed: of them, those that lack a score on one side.
    p_value, ci95: of the difference b − a in the primary metric, a failed row counted as its worst.
    decided: it is shown, and would be whatever the failed rows had scored.
    """

    rows: int
    of: int
    decided: bool
    p_value: float
    ci95: tuple[float, float]
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95)}


async def run_until_decided(matrix: Matrix, suite: Suite, cells: Sequence[Cell]) -> tuple[list[CellRun], EarlyStop]:
    """Both cells' runs on the rows that it took, and why it took no more.

    Looking after every step would make an ordinary test cry wolf; this one may be looked at as often as one likes.

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
    for left, right in zip(*(score_rows(answered(task, cache), [primary], cache) for task in tasks), strict=True):
        place = draw(seed, left.row.id)
        if place >= after:
            scores = [number_of(result, primary) for result in (left, right)]
            a, b = (worst if math.isnan(score) else score for score in scores)
            best_a, best_b = (1 - worst if math.isnan(score) else score for score in scores)
            found.append((place, (b - a, *sorted((b - best_a, best_b - a)))))
    return [(difference, least, most) for _, (difference, least, most) in sorted(found)]
