"""Runs the cells of a suite: generates what is missing model by model, then scores and records each cell.

A cell is what is run, with what; by its identity a run of it is known again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby, islice
from typing import Any, get_args

import psutil

from llmops.engines.openai_errors import check_reachable
from llmops.engines.opening import check_parameters, engine_identity, engine_name, open_engine
from llmops.engines.protocol import Engine
from llmops.engines.python import CallableModel
from llmops.errors import CannotRun, EngineUnavailable, UsageError
from llmops.eval_runs.scorer_factory import JUDGED_TYPES, ScorerFactory
from llmops.evaluation.comparison import sampling_position
from llmops.evaluation.eval_set import EvalRow, Rows, measure
from llmops.evaluation.generating import Generated, Task, measure_noise
from llmops.evaluation.generation_cache import GenerationCache, noise_key
from llmops.evaluation.results import EvalReport, Failure, RowResult, failures_of
from llmops.evaluation.runner import generate_all, score_all, scorers_with_work
from llmops.evaluation.scorers.protocol import FingerprintedScorer
from llmops.evaluation.suite import Suite
from llmops.generation import GenerationParameters
from llmops.hashing import canonical_json, content_hash
from llmops.models.sources import UpstreamSource
from llmops.progress import ShowProgress
from llmops.ray_cluster import LOCAL
from llmops.recording import CellIdentity, EvalRecorder, EvalRun, register_eval_set
from llmops.recording.runs import RecorderName
from llmops.registry import Registry
from llmops.settings import Settings, named_variables
from llmops.versions import ModelVersion, PromptVersion, Release

NOISE_PARAM, SERVED_PARAM, STOPPED_PARAM = "noise", "served", "stopped_early"  # of a recorded run
# Raised when a change to scorers or to recording makes older runs incomparable: they are then run again.
_RUN_FORMAT = 3

# As `JudgeScorer` names them. EngineRejected and ContextTooLong are left out: they will be the same again.
_PASSING = frozenset({"EngineUnavailable", "EngineBusy", "EngineTimeout", "EngineError"})

# Engines of this machine, whose noise is measured: asking an upstream again costs money, or somebody else's time.
_LOCAL_ENGINES = ("llamacpp", "openvino", "transformers")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is evaluated: a prompt version on a model version, perhaps as a release; or a callable, without a prompt."""

    prompt: PromptVersion | None
    model: ModelVersion
    parameters: GenerationParameters
    release: Release | None = None

    @property
    def name(self) -> str:
        return f"{self.prompt.ref} on {self.model.ref}" if self.prompt else self.model.ref

    @property
    def failures_may_pass(self) -> bool:
        """Whether it is worth asking again: another server, or a callable of a named version, which may ask one."""
        return self.model.format == "openai" or (isinstance(self.model, CallableModel) and self.model.asked is None)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a suite is run.

    limit: rows.
    engine: by name.
    seed: makes an independent run.
    repeatable: requests that cannot influence each other, so that answers repeat exactly.
    force: run again although a complete run exists (finished generations are still not made twice).
    recorder: how runs get into MLflow.
    on: `local`: this process; else where `RayMatrix` evaluates, `workers` shards at a time (None: one on each node), of
        `shard_rows` rows.
    """

    limit: int | None = None
    engine: str | None = None
    seed: int | None = None
    repeatable: bool = False
    force: bool = False
    recorder: RecorderName = "auto"
    on: str = LOCAL
    workers: int | None = None
    shard_rows: int = 500

    def __post_init__(self) -> None:
        """Raises UsageError."""
        for name in ("limit", "workers", "shard_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name}: must be 1 or more")
        if self.recorder not in get_args(RecorderName):
            raise UsageError(f"recorder: must be one of {', '.join(get_args(RecorderName))}")

    def engine_settings(self, settings: Settings) -> Settings:
        """As the gateway opens the model, so that what is served is what was evaluated. Repeatable: each request alone
        on an engine of its own, as many of them as there are cores, from the state that the template left."""
        if not self.repeatable:
            return settings
        replicas = max(1, settings.engine_threads or psutil.cpu_count() or 1)
        return replace(settings, engine_slots=1, engine_prompt_cache="template", engine_replicas=replicas)


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Which rows of a suite a run takes: the first `limit`; and, for a run that was stopped early, of these the share
    `drawn`, in the order that `seed` draws. Or just `rows`, for answers that are no run."""

    limit: int | None = None
    drawn: float | None = None
    seed: int = 0
    rows: Sequence[EvalRow] | None = None

    def of(self, suite: Suite) -> Rows:
        """The rows of that suite."""
        share, seed, given = self.drawn, self.seed, self.rows
        if given is not None:
            return Rows(lambda: iter(given))
        rows = Rows(lambda: islice(suite.rows, self.limit))
        return rows if share is None else Rows(lambda: (row for row in rows if sampling_position(seed, row.id) < share))


@dataclass(frozen=True, slots=True)
class CellRun:
    """A cell's recorded run, and what this call did for it.

    failed_again: why rows failed in this call, where the run is an earlier one that stands because no fewer failed now.
    """

    cell: Cell
    run: EvalRun
    generated: int
    from_cache: int
    failed_again: tuple[Failure, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "prompt": self.cell.prompt.ref if self.cell.prompt else None,
            "model": self.cell.model.ref,
            "release": self.cell.release.ref if self.cell.release else None,
            "rows": self.run.rows,
            "suite_rows": self.run.suite_rows,
            "answers": self.run.answers.to_json(),
            "metrics": {name: metric.to_json() for name, metric in self.run.metrics.items()},
            "generated": self.generated,
            "from_cache": self.from_cache,
            "seconds": self.run.seconds,
            "tokens_per_second": self.run.tokens_per_second,
            **{name: self.run.usage.get(name) for name in ("tokens_in", "tokens_out", "cost")},
        }


def cell_identity(suite: Suite, cell: Cell, settings: Settings, options: RunOptions, chosen: RowChoice) -> CellIdentity:
    """Everything that makes two eval runs the same run."""
    eval_sets = {eval_set.name: eval_set.content_hash for eval_set in suite.eval_sets}
    whole = chosen.limit is None and chosen.drawn is None
    content: dict[str, Any] = {
        **scored_by(suite),
        "suite": suite.name,
        "rows": suite.rows_hash if whole else measure(chosen.of(suite))[1],
        "cluster_by": suite.cluster_by,
        "choices": suite.choices,
        "prompt": [cell.prompt.ref, cell.prompt.template.content_hash] if cell.prompt else None,
        "model": [cell.model.ref, cell.model.sha256],
        "parameters": cell.parameters.to_mapping() if cell.prompt else {},
        "engine": asdict(engine_identity(cell.model, options.engine_settings(settings), options.engine)),
        "seed": options.seed,
        "stopped_early": None if chosen.drawn is None else chosen.seed,
    }
    return CellIdentity(suite.name, cell.prompt, cell.model, content, content_hash(content), eval_sets)


def scored_by(suite: Suite) -> dict[str, Any]:
    """The suite's scorers, and the models that score: another judge or embedding model gives other scores."""
    identified = (scorer for scorer in suite.make_scorers() if isinstance(scorer, FingerprintedScorer))
    return {
        "format": _RUN_FORMAT,
        "scorers": [spec.to_json() for spec in suite.scorer_specs],
        "judges": {scorer.name: dict(scorer.identity) for scorer in identified},
    }


def cost_of(model: ModelVersion, tokens_in: int | None, tokens_out: int | None) -> float | None:
    """Price of so many tokens, in the currency that the model was registered with; None where it has no price, or
    where nobody counted the tokens."""
    prices = model.provenance.get("prices")
    if not prices or tokens_in is None or tokens_out is None:
        return None
    return float(tokens_in * prices["per_million_in"] + tokens_out * prices["per_million_out"]) / 1e6


class Matrix:
    """One suite's cells, while they run. Close it: engine and cache are its own."""

    def __init__(
        self, settings: Settings, registry: Registry, suite: Suite, options: RunOptions, progress: ShowProgress
    ) -> None:
        self._settings, self._registry, self._suite = settings, registry, suite
        self.options, self._progress = options, progress
        self._recorder, self._scorer_factory = EvalRecorder(registry.store), ScorerFactory(settings)
        self.cache = GenerationCache(settings.generation_cache_dir)
        self._engine_settings = options.engine_settings(settings)
        self._engine: tuple[tuple[str, bool], Engine] | None = None  # of which model, and whether as it is served
        self._checked: set[str] = set()

    async def aclose(self) -> None:
        await self._close_engine()
        self.cache.close()

    async def _close_engine(self) -> None:
        if self._engine is not None:
            await self._engine[1].close()
            self._engine = None

    async def run(self, cells: Sequence[Cell], chosen: RowChoice, shown: str | None = None) -> list[CellRun]:
        """Every cell's run, in the order of the cells; a complete identical run is reused, unless rows failed in it
        that may not fail again: then what failed is asked for once more, and where fewer rows fail that is a new run.
        shown: how early the run was stopped, recorded with it.

        Raises UsageError: an engine cannot enforce a cell's response format. BadFile, EngineError, StoreUnavailable,
        RecordingIncomplete: finished generations and runs are kept. Where a judge or an upstream cannot be reached,
        before the first row is answered.
        """
        for cell in cells:
            try:
                check_parameters(cell.model, self._settings, cell.parameters, self.options.engine)
            except UsageError as error:
                raise UsageError(f"{cell.name}: {error}") from error
        identities = [cell_identity(self._suite, cell, self._settings, self.options, chosen) for cell in cells]
        done, failed = ({}, {}) if self.options.force else self._recorded(cells, identities)
        left = [position for position in range(len(cells)) if position not in done]
        if left:
            await asyncio.to_thread(self._suite.try_scorers)  # loads their libraries, which takes seconds
        for _, group in groupby(left, key=lambda position: cells[position].model.ref):
            positions = list(group)
            async for report in self.reports([cells[position] for position in positions], chosen):
                position = positions.pop(0)
                cell = cells[position]
                if position in failed:
                    found, n_failed = failed[position]
                    if self._passing_failures(cell, report.results) >= n_failed:
                        done[position] = replace(found, failed_again=failures_of(report.results))
                        continue
                done[position] = await asyncio.to_thread(self._record, cell, identities[position], report, shown)
        return [done[position] for position in range(len(cells))]

    def _recorded(
        self, cells: Sequence[Cell], identities: Sequence[CellIdentity]
    ) -> tuple[dict[int, CellRun], dict[int, tuple[CellRun, int]]]:
        """Runs on record, by the cell's position: those to reuse, and those in which so many rows failed in a way that
        may pass."""
        done: dict[int, CellRun] = {}
        failed: dict[int, tuple[CellRun, int]] = {}
        for position, (cell, identity) in enumerate(zip(cells, identities, strict=True)):
            if (known := self._recorder.find(self._suite.name, identity.hash)) is None:
                continue
            run = CellRun(cell, known, 0, known.rows)
            has_failed = any(metric.n_failed for metric in known.metrics.values())
            if has_failed and (n_failed := self._passing_failures(cell, self._recorder.rows(known))):
                failed[position] = (run, n_failed)
            else:
                done[position] = run
        return done, failed

    async def reports(self, cells: Sequence[Cell], chosen: RowChoice) -> AsyncIterator[EvalReport]:
        """Of each of some cells of one model, in order."""
        made = await self.generate(cells, chosen)
        for cell, generated in zip(cells, made, strict=True):
            yield await score_all(
                self.task(cell, chosen),
                generated,
                self._suite.make_scorers(),
                self.cache,
                self._suite.cluster_by,
                partial(self._progress, f"scoring {cell.name}"),
                self._suite.n_rows,
            )

    async def generate(self, cells: Sequence[Cell], chosen: RowChoice) -> list[Generated]:
        """What the cache lacks for cells of one model. Raises EngineUnavailable, CannotRun: a judge, or something else
        that the suite scores with, is not there."""
        tasks, model = [self.task(cell, chosen) for cell in cells], cells[0].model
        await asyncio.to_thread(self._check_judges, tasks)
        name = cells[0].name if len(cells) == 1 else f"{len(cells)} cells on {model.ref}"
        made = await generate_all(tasks, lambda: self._loaded(model), self.cache, partial(self._progress, name))
        if self._engine is not None:
            await self._measure_noise(model, tasks)
        return made

    def _check_judges(self, tasks: Sequence[Task]) -> None:
        """Asks the judges that something will be asked of whether they are there, each once."""
        busy = scorers_with_work(tasks, self._suite.make_scorers(), self.cache) - self._checked
        self._scorer_factory.check(self._suite, busy)
        self._checked |= busy

    async def _loaded(self, model: ModelVersion, *, as_served: bool = False) -> Engine:
        """The engine of that model, as this run asks it or as the gateway opens it; one at a time is kept."""
        if self._engine is None or self._engine[0] != (model.ref, as_served):
            await self._close_engine()
            settings, name = (self._settings, None) if as_served else (self._engine_settings, self.options.engine)
            if engine_name(model, settings, name) == "openai":
                await asyncio.to_thread(_check_upstream, model)
            self._engine = (model.ref, as_served), await asyncio.to_thread(open_engine, model, settings, name)
        return self._engine[1]

    def task(self, cell: Cell, chosen: RowChoice) -> Task:
        """The cell's work for the runner."""
        return Task(
            template=cell.prompt.template if cell.prompt else None,
            parameters=cell.parameters,
            model_sha256=cell.model.sha256,
            identity=engine_identity(cell.model, self._engine_settings, self.options.engine),
            rows=chosen.of(self._suite),
            seed=self.options.seed,
            choices=self._suite.choices,
        )

    async def _measure_noise(self, model: ModelVersion, tasks: Sequence[Task]) -> None:
        """How many answers are others when they are made again as the gateway makes them: once for a suite's rows,
        its model's weights, and the two engines' settings, the same but for `--repeatable` and `--engine`."""
        identity, served = tasks[0].identity, engine_identity(model, self._settings)
        key = noise_key(model.sha256, identity, served, self._suite.rows_hash)
        if not {identity.name, served.name} <= set(_LOCAL_ENGINES) or self.cache.get_noise(key) is not None:
            return
        self._progress("measuring how many answers are others when they are served", 0, 0)
        try:
            engine = await self._loaded(model, as_served=served != identity)
            noise = await measure_noise(tasks, engine, self.cache)
        except CannotRun as error:  # the answers are there; only what is known of them is less
            self._progress(f"not measured: {error}", 0, 0)
        else:
            if noise is not None:
                self.cache.put_noise(key, noise)

    def _record(self, cell: Cell, identity: CellIdentity, report: EvalReport, shown: str | None) -> CellRun:
        """Records what a run shows besides its cell, too: noise, cost, scorers left out."""
        params = {"repeatable": str(self.options.repeatable).lower(), "suite_rows": str(self._suite.n_rows)}
        metrics: dict[str, float] = {}
        if left_out := self._suite.left_out:
            params["scorers_without_judge"] = ", ".join(left_out)
        if shown is not None:
            params[STOPPED_PARAM] = shown
        served = engine_identity(cell.model, self._settings)
        evaluated = engine_identity(cell.model, self._engine_settings, self.options.engine)
        noise = self.cache.get_noise(noise_key(cell.model.sha256, evaluated, served, self._suite.rows_hash))
        if noise is not None and served == evaluated:
            params[NOISE_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips})
            metrics["flip_share"] = noise.share
        elif noise is not None:
            params[SERVED_PARAM] = canonical_json({"n": noise.n, "flips": noise.flips, "served": asdict(served)})
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
        if cell.prompt is not None:
            self._registry.prompts.show_in_experiment(cell.prompt.name, run.experiment_id)
        return CellRun(cell, run, report.generated, report.from_cache)

    def _passing_failures(self, cell: Cell, results: Iterable[RowResult]) -> int:
        """How many answers and scores failed in a way that may pass: an upstream's or a judge's, unless it said that
        the request can never succeed."""
        judged = {spec.name for spec in self._suite.scorer_specs if spec.type in JUDGED_TYPES}
        failed = 0
        for result in results:
            if result.output.error is not None:
                failed += cell.failures_may_pass
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
