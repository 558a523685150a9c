"""Running suites, comparing runs, and gating: the evaluation half of the main job."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmops.engines.opening import engine_identity, open_engine
from llmops.engines.protocol import Engine, GenerationParameters
from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.evaluation.comparison import Comparison, compare
from llmops.evaluation.gate import Verdict, decide
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.runner import Task, evaluate
from llmops.evaluation.suite import Suite, load_suite, suite_names
from llmops.hashing import content_hash
from llmops.paths import eval_sets_folder
from llmops.recording import CellIdentity, EvalRecorder, EvalRun, record_comparison
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.versions import ModelVersion, PromptVersion, Ref, Release

# Raised when a change to scorers or to recording makes older runs incomparable: they are then run again.
_RUN_FORMAT = 1
_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")

CellProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to evaluate: a prompt version on a model version with parameters, perhaps as a release."""

    prompt: PromptVersion
    model: ModelVersion
    parameters: GenerationParameters
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """limit: rows. engine: by name. seed: makes an independent run. repeatable: one slot, so that answers repeat
    exactly. force: run again although a complete run exists (finished generations are still not made twice)."""

    limit: int | None = None
    engine: str | None = None
    seed: int | None = None
    repeatable: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class CellRun:
    """A cell's recorded run, and what this call did for it."""

    cell: Cell
    run: EvalRun
    generated: int
    from_cache: int

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "prompt": self.cell.prompt.ref,
            "model": self.cell.model.ref,
            "release": self.cell.release.ref if self.cell.release else None,
            "rows": self.run.rows,
            "metrics": {name: metric.to_json() for name, metric in self.run.metrics.items()},
            "generated": self.generated,
            "from_cache": self.from_cache,
            "seconds": self.run.seconds,
            "tokens_per_second": self.run.tokens_per_second,
        }


class Evaluations:
    """Suites of one folder against one registry."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._recorder = EvalRecorder(registry.store)
        self._folder: Path = eval_sets_folder(settings)

    def suite(self, name: str) -> Suite:
        """Raises UnknownVersion, BadFile."""
        return load_suite(self._folder, name)

    def cells(
        self, suite: Suite, prompts: Sequence[str] = (), models: Sequence[str] = (), releases: Sequence[str] = ()
    ) -> list[Cell]:
        """What to run: the releases asked for, else prompts × models; by default every version of the suite's prompt
        on its default model. Raises UnknownVersion, UsageError."""
        if releases:
            if prompts or models:
                raise UsageError("--release already names prompt and model; give it alone")
            found = [self._registry.release_versions.get(ref) for ref in releases]
            return [Cell(item.prompt, item.model, item.parameters, item) for item in found]
        prompt_versions = (
            [self._registry.prompts.get(ref) for ref in prompts]
            if prompts
            else self._registry.prompts.versions(suite.prompt)
        )
        if not prompt_versions:
            raise UnknownVersion(f"prompt {suite.prompt!r} is not registered; run `llmops prompts register`")
        model_versions = [self._registry.models.get(ref) for ref in models or [suite.model]]
        return [
            Cell(prompt, model, prompt.template.parameters) for model in model_versions for prompt in prompt_versions
        ]

    def run(self, suite: Suite, cells: Sequence[Cell], options: RunOptions, progress: CellProgress) -> list[CellRun]:
        """Runs every cell; a complete identical run is reused. Engines are loaded once for each model, when needed.

        Raises:
            BadFile, EngineError, StoreUnavailable, RecordingIncomplete: finished generations are kept.
        """
        return asyncio.run(self._run(suite, cells, options, progress))

    async def _run(
        self, suite: Suite, cells: Sequence[Cell], options: RunOptions, progress: CellProgress
    ) -> list[CellRun]:
        settings = self._engine_settings(options)
        cache = GenerationCache(self._settings.generation_cache_dir)
        engines = _LazyEngine(settings, options.engine)
        try:
            return [await self._run_cell(suite, cell, options, cache, engines, progress) for cell in cells]
        finally:
            await engines.close()
            cache.close()

    async def _run_cell(
        self,
        suite: Suite,
        cell: Cell,
        options: RunOptions,
        cache: GenerationCache,
        engines: _LazyEngine,
        progress: CellProgress,
    ) -> CellRun:
        identity = self._identity(suite, cell, options)
        if not options.force and (known := self._recorder.find(suite.name, identity.hash)):
            return CellRun(cell, known, 0, known.rows)
        name = f"{cell.prompt.ref} on {cell.model.ref}"
        report = await evaluate(
            Task(
                cell.prompt.template,
                cell.parameters,
                cell.model.sha256,
                engine_identity(cell.model, self._engine_settings(options), options.engine),
                suite.rows[: options.limit],
                options.seed,
            ),
            engines.of(cell.model),
            suite.make_scorers(),
            cache,
            lambda done, total: progress(name, done, total),
        )
        progress(f"recording {name} in MLflow", 0, 0)
        run = self._recorder.record(identity, report)
        self._registry.prompts.show_in_experiment(cell.prompt.name, run.experiment_id)
        return CellRun(cell, run, report.generated, report.from_cache)

    def resolve(self, text: str, suite_name: str | None = None) -> EvalRun:
        """The complete run meant by a run id, `APP@V`, `PROMPT@V` or `PROMPT@V,MODEL@V`.

        suite_name: needed where more than one suite uses the prompt.

        Raises:
            UnknownVersion: there is no such thing, or it has not been run yet; says how to.
        """
        if _RUN_ID.match(text):
            return self._recorder.get(text)
        suite, cell = self._named_cell(text, suite_name)
        found = self._recorder.find(suite.name, self._identity(suite, cell, RunOptions()).hash)
        if found is None:
            option = f"--release {text}" if cell.release else f"--prompt {cell.prompt.ref} --model {cell.model.ref}"
            raise UnknownVersion(f"{text} was not run on {suite.name} yet; run `llmops eval run {suite.name} {option}`")
        return found

    def compare(self, a: str, b: str, suite_name: str | None = None) -> Comparison:
        """Two runs row by row, as `resolve` reads them. Raises UnknownVersion, CannotRun."""
        run_a, run_b = self.resolve(a, suite_name), self.resolve(b, suite_name)
        if run_a.suite != run_b.suite:
            raise CannotRun(f"{a} ran on suite {run_a.suite}, {b} on {run_b.suite}; compare runs of one suite")
        return self._compare_runs(self.suite(run_a.suite), a, run_a, b, run_b)

    def gate(self, challenger: str, against: str | None, suite_name: str) -> tuple[Verdict, Comparison | None]:
        """Judges a challenger by the suite's gate and puts the verdict on record (on the release, when it is one).

        against: the champion; None means the app's present champion, or none yet.

        Raises:
            UnknownVersion: a run that the verdict needs is missing; says how to make it.
        """
        suite = self.suite(suite_name)
        challenger_run = self.resolve(challenger, suite_name)
        if challenger_run.suite != suite_name:
            raise CannotRun(f"{challenger} ran on suite {challenger_run.suite}, not on {suite_name}")
        release = self._release(challenger)
        champion = against or self._champion_ref(release)
        comparison = None
        if champion is not None:
            champion_run = self.resolve(champion, suite_name)
            comparison = self._compare_runs(suite, champion, champion_run, challenger, challenger_run)
        primary = next(scorer for scorer in suite.make_scorers() if scorer.name == suite.gate.primary)
        verdict = decide(suite.gate, challenger_run.metrics, comparison, primary.higher_is_better is not False)
        record = {**verdict.to_json(), "against": champion}
        if release is not None:
            against_release = self._release(champion) if champion else None
            record["against"] = against_release.ref if against_release else None
            self._registry.release_versions.record_gate(release, suite_name, record)
        name = f"gate-against-{champion or 'nothing'}".replace("@", "-").replace(",", "-")
        evidence = {**record, "comparison": comparison.to_json() if comparison else None}
        record_comparison(self._registry.store, challenger_run.run_id, name, evidence)
        return verdict, comparison

    def _compare_runs(self, suite: Suite, a: str, run_a: EvalRun, b: str, run_b: EvalRun) -> Comparison:
        return compare(
            a, self._recorder.rows(run_a), b, self._recorder.rows(run_b), suite.make_scorers(), suite.gate.primary
        )

    def _identity(self, suite: Suite, cell: Cell, options: RunOptions) -> CellIdentity:
        content = {
            "format": _RUN_FORMAT,
            "suite": suite.name,
            "rows": content_hash([row.to_json() for row in suite.rows[: options.limit]]),
            "scorers": [spec.to_json() for spec in suite.scorer_specs],
            "prompt": [cell.prompt.ref, cell.prompt.template.content_hash],
            "model": [cell.model.ref, cell.model.sha256],
            "parameters": cell.parameters.to_mapping(),
            "engine": engine_identity(cell.model, self._engine_settings(options), options.engine).to_mapping(),
            "seed": options.seed,
        }
        eval_sets = {eval_set.name: eval_set.content_hash for eval_set in suite.eval_sets}
        return CellIdentity(suite.name, cell.prompt, cell.model, content, content_hash(content), eval_sets)

    def _engine_settings(self, options: RunOptions) -> Settings:
        return replace(self._settings, engine_slots=1) if options.repeatable else self._settings

    def _named_cell(self, text: str, suite_name: str | None) -> tuple[Suite, Cell]:
        if (release := self._release(text)) is not None:
            return self._suite_of(release.prompt.name, suite_name), Cell(
                release.prompt, release.model, release.parameters, release
            )
        prompt_ref, _, model_ref = text.partition(",")
        prompt = self._registry.prompts.get(prompt_ref)
        suite = self._suite_of(prompt.name, suite_name)
        model = self._registry.models.get(model_ref or suite.model)
        return suite, Cell(prompt, model, prompt.template.parameters)

    def _suite_of(self, prompt_name: str, suite_name: str | None) -> Suite:
        if suite_name is not None:
            return self.suite(suite_name)
        suites = [suite for name in suite_names(self._folder) if (suite := self.suite(name)).prompt == prompt_name]
        if len(suites) != 1:
            names = ", ".join(suite.name for suite in suites) or "no suite"
            raise UsageError(f"{names} uses the prompt {prompt_name}; name one with --suite")
        return suites[0]

    def _release(self, text: str) -> Release | None:
        """The release that `text` names, or None when it names something else."""
        if _RUN_ID.match(text) or "," in text or Ref.parse(text).name not in self._registry.apps():
            return None
        return self._registry.release_versions.get(text)

    def _champion_ref(self, release: Release | None) -> str | None:
        champion = self._registry.release_versions.champion(release.app) if release else None
        return champion.ref if champion else None


class _LazyEngine:
    """Loads an engine when first asked for, and keeps one at a time."""

    def __init__(self, settings: Settings, engine: str | None) -> None:
        self._settings, self._engine_name = settings, engine
        self._loaded: tuple[str, Engine] | None = None

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
