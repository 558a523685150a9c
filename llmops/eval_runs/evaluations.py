"""Running suites, comparing runs, and gating: the evaluation half of the main job."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from llmops import __version__
from llmops.engines.opening import engine_identity
from llmops.engines.protocol import EngineIdentity
from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.eval_runs.early_stopping import EarlyStop, run_until_decided
from llmops.eval_runs.matrix import (
    NOISE_PARAM,
    SERVED_PARAM,
    STOPPED_PARAM,
    Cell,
    CellProgress,
    CellRun,
    Matrix,
    RowChoice,
    RunOptions,
    cell_identity,
    scored_by,
)
from llmops.eval_runs.ray_matrix import matrix_of
from llmops.eval_runs.scorer_factory import ScorerFactory, untrusted
from llmops.evaluation.comparison import Comparison, compare
from llmops.evaluation.eval_set import measure
from llmops.evaluation.gate import ALPHA, Facts, Verdict, decide, slice_metrics
from llmops.evaluation.record_files import SourceAccess
from llmops.evaluation.results import Failure, Noise, Results, failures_of
from llmops.evaluation.scorers.protocol import limits_of
from llmops.evaluation.suite import Suite, load_suite, readable_suites
from llmops.hashing import content_hash
from llmops.recording import EvalRecorder, EvalRun, record_verdict
from llmops.registry import Registry
from llmops.settings import Settings, data_folder
from llmops.versions import MOST_NAMED, ModelVersion, Ref, Release, whole_id

__all__ = ["Cell", "CellRun", "Evaluations", "Gated", "RunOptions"]

_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_SHORT_RUN_ID = re.compile(r"[0-9a-f]{1,31}\Z")
_THEIR_OWN = ("openai", "fake")  # engines with no mode of ours: an upstream's is its own


@dataclass(frozen=True, slots=True)
class Gated:
    """A verdict and what it was read from. comparison: None without a champion. runs: `b` is the challenger's, `a` the
    champion's where there is one."""

    verdict: Verdict
    comparison: Comparison | None
    runs: Mapping[str, EvalRun]


class Evaluations:
    """Suites of one folder against one registry. The folder is looked for when a suite is."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings, self.registry = settings, registry
        self._recorder, self._scorer_factory = EvalRecorder(registry.store), ScorerFactory(settings)
        self._suites: dict[str, Suite] = {}

    def suite(self, name: str) -> Suite:
        """Read once. Raises UnknownVersion, BadFile."""
        if name not in self._suites:
            access = SourceAccess(self.settings.hub_endpoint, self.settings.home / "eval_sets")
            folder = data_folder(self.settings, "eval_sets")
            self._suites[name] = load_suite(folder, name, access, self._scorer_factory.make, try_scorers=False)
        return self._suites[name]

    def cells(
        self, suite: Suite, prompts: Sequence[str] = (), models: Sequence[str] = (), releases: Sequence[str] = ()
    ) -> list[Cell]:
        """What to run: the releases asked for, else prompts × models; by default every version of the suite's prompt
        on its default model. Raises UnknownVersion, UsageError."""
        if releases:
            if prompts or models:
                raise UsageError("--release already names prompt and model; give it alone")
            found = [self.registry.release_versions.get(ref) for ref in releases]
            return [Cell(item.prompt, item.model, item.parameters, item) for item in found]
        prompt_versions = (
            [self.registry.prompts.get(ref) for ref in prompts]
            if prompts
            else self.registry.prompts.versions(suite.prompt)
        )
        if not prompt_versions:
            raise UnknownVersion(f"prompt {suite.prompt!r} is not registered; run `llmops prompts register`")
        model_versions = [self.registry.models.get(ref) for ref in models or [suite.model]]
        return [
            Cell(prompt, model, prompt.template.parameters) for model in model_versions for prompt in prompt_versions
        ]

    def run(self, suite: Suite, cells: Sequence[Cell], options: RunOptions, progress: CellProgress) -> list[CellRun]:
        """Runs every cell; a complete identical run is reused. Engines are loaded once for each model, when needed.

        Raises:
            BadFile, EngineError, StoreUnavailable, RecordingIncomplete: finished generations are kept.
        """

        async def work() -> list[CellRun]:
            async with aclosing(matrix_of(self.settings, self.registry, suite, options, progress)) as matrix:
                return await matrix.run(cells, RowChoice(options.limit))

        return asyncio.run(work())

    def run_until_decided(
        self, suite: Suite, cells: Sequence[Cell], options: RunOptions, progress: CellProgress
    ) -> tuple[list[CellRun], EarlyStop]:
        """Runs two cells on as many rows as it takes to tell them apart. Raises UsageError, and as `run`."""

        async def work() -> tuple[list[CellRun], EarlyStop]:
            async with aclosing(Matrix(self.settings, self.registry, suite, options, progress)) as matrix:
                return await run_until_decided(matrix, suite, cells)

        suite.try_scorers()
        return asyncio.run(work())

    def rows(self, run: EvalRun) -> Results:
        """Every row of a run, read as often as asked. Raises StoreUnavailable, and Corrupted while it is read."""
        return self._recorder.rows(run)

    def failures(self, done: CellRun) -> Sequence[Failure]:
        """Why rows of a run have no score, most frequent first. Raises StoreUnavailable."""
        if done.failed_again is not None:
            return done.failed_again
        failed = any(metric.n_failed for metric in done.run.metrics.values())
        return failures_of(self.rows(done.run)) if failed else ()

    def resolve(self, text: str, suite_name: str | None = None) -> EvalRun:
        """The complete run meant by a run id or its beginning, `APP@V`, `PROMPT@V` or `PROMPT@V,MODEL@V`.

        suite_name: needed where more than one suite uses the prompt.

        Raises:
            UnknownVersion: there is no such thing, or it has not been run yet; says how to.
        """
        if _RUN_ID.match(text):
            return self._recorder.get(text)
        # An app or a prompt may have a name that looks like the beginning of a run's id.
        if _SHORT_RUN_ID.match(text) and not (
            text in self.registry.release_versions.names() or self.registry.prompts.versions(text)
        ):
            begun = self._recorder.beginning_with(text, limit=MOST_NAMED + 1)
            return self._recorder.get(whole_id(text, begun, "run" if begun else "run, app or prompt"))
        if (release := self.release(text)) is not None:
            suite = self._suite_of(release.prompt.name, suite_name)
            cell = Cell(release.prompt, release.model, release.parameters, release)
        else:
            prompt_ref, _, model_ref = text.partition(",")
            prompt = self.registry.prompts.get(prompt_ref)
            suite = self._suite_of(prompt.name, suite_name)
            cell = Cell(prompt, self.registry.models.get(model_ref or suite.model), prompt.template.parameters)
        # The fast run, or where there is none the repeatable one.
        for options in (RunOptions(), RunOptions(repeatable=True)):
            identity = cell_identity(suite, cell, self.settings, options, RowChoice())
            if (found := self._recorder.find(suite.name, identity.hash)) is not None:
                return found
        option = f"--release {text}" if cell.release else f"--prompt {cell.prompt.ref} --model {cell.model.ref}"
        raise UnknownVersion(f"{text} was not run on {suite.name} yet; run `llmops eval run {suite.name} {option}`")

    def compare(self, a: str, b: str, suite_name: str | None = None) -> Comparison:
        """Two runs row by row, as `resolve` reads them. Raises UnknownVersion, CannotRun."""
        suite, run_a, run_b = self.resolve_pair(a, b, suite_name)
        return self.compare_runs(suite, a, run_a, b, run_b)

    def resolve_pair(self, a: str, b: str, suite_name: str | None = None) -> tuple[Suite, EvalRun, EvalRun]:
        """Two runs as `resolve` reads them, and the suite that both ran on. Raises UnknownVersion, CannotRun."""
        run_a, run_b = self.resolve(a, suite_name), self.resolve(b, suite_name)
        if run_a.suite != run_b.suite:
            raise CannotRun(f"{a} ran on suite {run_a.suite}, {b} on {run_b.suite}; give runs of one suite")
        return self.suite(run_a.suite), run_a, run_b

    def compare_runs(self, suite: Suite, a: str, run_a: EvalRun, b: str, run_b: EvalRun) -> Comparison:
        """Two runs of one suite, which their rows are read from. Raises CannotRun, StoreUnavailable."""
        stopped = [run.params.get(STOPPED_PARAM) for run in (run_a, run_b)]
        if stopped[0] != stopped[1]:
            raise CannotRun("a run that was stopped early can be compared only with the run it was stopped against")
        seed, _, told = (stopped[0] or "").partition(":")  # as `run_until_decided` writes it: `0: after 20 of 200 rows`
        one, other = definitions_in(run_a.content), definitions_in(run_b.content)
        noises = [Noise(**json.loads(run.params[NOISE_PARAM])) for run in (run_a, run_b) if NOISE_PARAM in run.params]
        return compare(
            a,
            self.rows(run_a),
            b,
            self.rows(run_b),
            suite.make_scorers(),
            suite.gate.primary,
            cluster_by=suite.cluster_by,
            noise=max(noises, key=lambda noise: noise.share, default=None),
            sequential_seed=int(seed) if told else None,
            suite_rows=suite.n_rows,
            drawn_from=int(told.split()[-2]) if told else None,
            apart={
                name: "the two runs were scored by other definitions of it; run both again"
                for name in one.keys() & other.keys()
                if one[name] != other[name]
            },
        )

    def gate(self, challenger: str, against: str | None, suite_name: str) -> Gated:
        """Judges a challenger by the suite's gate and puts the verdict on record, on its run and on the release, when
        it is one.

        against: the champion; None means the app's present champion, or none yet.

        Raises:
            UnknownVersion: a run that the verdict needs is missing; says how to make it.
        """
        suite = self.suite(suite_name)
        runs = {"b": self.resolve(challenger, suite_name)}
        if runs["b"].suite != suite_name:
            raise CannotRun(f"{challenger} ran on suite {runs['b'].suite}, not on {suite_name}")
        release, champion, comparison = self.release(challenger), against, None
        if champion is None and release is not None:
            present = self.registry.release_versions.champion(release.app)
            champion = present.ref if present else None
        if champion is not None:
            runs["a"] = self.resolve(champion, suite_name)
            comparison = self.compare_runs(suite, champion, runs["a"], challenger, runs["b"])
        verdict = decide(suite.gate, self._facts(suite, challenger, runs, comparison))
        if "a" in runs and runs["a"].run_id == runs["b"].run_id:
            verdict = verdict.with_reasons([f"{challenger} was compared with itself: both are run {runs['a'].run_id}"])
        # All it takes to judge again: rules, runs, level, version of this software.
        record: dict[str, Any] = {
            "suite": suite.name,
            "rules": suite.gate.to_json(),
            "runs": {side: run.run_id for side, run in runs.items()},
            "alpha": ALPHA,
            "llmops": __version__,
            "engine": asdict(engine) if (engine := evaluated_by(runs["b"])) is not None else None,
        }
        if release is not None:
            loosened = self.registry.release_versions.loosened(release, suite_name, record["rules"])
            verdict = verdict.with_reasons(
                f"looser than an earlier gate: {each['rule']}, by {each['by']}" for each in loosened
            )
            other = self.release(champion) if champion else None
            shown = {**verdict.to_json(), **record, "against": other.ref if other else None, "checks": None}
            self.registry.release_versions.record_gate(release, suite.name, shown)
        told = comparison.to_json() if comparison else None
        record_verdict(
            self.registry.store,
            runs["b"].run_id,
            {**verdict.to_json(), **record, "against": champion, "comparison": told},
        )
        return Gated(verdict, comparison, runs)

    def _facts(
        self, suite: Suite, challenger: str, runs: Mapping[str, EvalRun], comparison: Comparison | None
    ) -> Facts:
        """What is known of the challenger, whose run is `b`."""
        run = runs["b"]
        wanted = {name: list(floors) for name, floors in suite.gate.slice_floors.items()}
        now = definitions_in(scored_by(suite))
        redefined = {
            name: f"{each.run_id} was scored by another definition of it than the suite's; run it again"
            for each in runs.values()
            for name, definition in definitions_in(each.content).items()
            if name in now and now[name] != definition
        }
        return Facts(
            metrics=run.metrics,
            comparison=comparison,
            answers=run.answers,
            name=challenger,
            champion=runs["a"].metrics if "a" in runs else {},
            slices=slice_metrics(self.rows(run), wanted) if wanted else {},
            untrusted={**untrusted(suite, self.registry.store), **redefined},
            serving=served_mode(run, self.registry.models.get(run.model), self.settings),
            limits={scorer.name: limits_of(scorer) for scorer in suite.make_scorers()},
            suite_rows=suite.n_rows,
            other_rows=[each.run_id for each in runs.values() if _has_other_rows(suite, each)],
        )

    def _suite_of(self, prompt_name: str, suite_name: str | None) -> Suite:
        if suite_name is not None:
            return self.suite(suite_name)
        readable, broken = readable_suites(data_folder(self.settings, "eval_sets"), self.suite)
        suites = [suite for suite in readable if suite.prompt == prompt_name]
        if len(suites) != 1:
            names = ", ".join(suite.name for suite in suites) or "no suite"
            unread = f" (not read: {'; '.join(map(str, broken.values()))})" if broken else ""
            raise UsageError(f"{names} uses the prompt {prompt_name}; name one with --suite{unread}")
        return suites[0]

    def release(self, text: str) -> Release | None:
        """The release that `text` names, or None when it names something else."""
        if _RUN_ID.match(text) or "," in text or Ref.parse(text).name not in self.registry.release_versions.names():
            return None
        return self.registry.release_versions.get(text)


def definitions_in(content: Mapping[str, Any]) -> dict[str, str]:
    """What each scorer is, with its judge: a hash by name. content: what `scored_by` gave, as it is now or as a run's
    cell holds it; none where that is not known."""
    judges = content.get("judges", {})
    return {
        spec["name"]: content_hash([content.get("format"), spec, judges.get(spec["name"])])
        for spec in content.get("scorers", ())
    }


def _has_other_rows(suite: Suite, run: EvalRun) -> bool:
    """Whether a run's rows are not the suite's, all or the first of them. Of a run that was stopped early, which drew
    its rows, that is not known."""
    known = run.content.get("rows")
    if known in (None, suite.rows_hash) or STOPPED_PARAM in run.params:
        return False
    return run.rows >= suite.n_rows or measure(islice(suite.rows, run.rows))[1] != known


def evaluated_by(run: EvalRun) -> EngineIdentity | None:
    """The engine that made a run's answers; None for a run that does not say."""
    try:
        shown = {name: run.params[f"engine.{name}"] for name in ("name", "build", "settings")}
        return EngineIdentity(shown["name"], shown["build"], json.loads(shown["settings"]))
    except (KeyError, ValueError):
        return None


def served_mode(run: EvalRun, model: ModelVersion, settings: Settings) -> str | None:
    """What a reader of a verdict must know of the answers that will be served; None when there is nothing to say.

    That they were made in another mode; and how many of a sample are others than those evaluated when they are made as
    the gateway makes them, where that is not none. Engines are opened from the same settings for both, so that the
    modes differ only where a run asked for something else (`--repeatable`, `--engine`), or a setting was changed since.
    """
    evaluated, served = evaluated_by(run), engine_identity(model, settings)
    if evaluated is None or (evaluated == served and served.name in _THEIR_OWN):
        return None
    measured = json.loads(run.params.get(NOISE_PARAM if evaluated == served else SERVED_PARAM, "null"))
    if measured is None or measured.pop("served", asdict(served)) != asdict(served):
        noise, differ = None, "is not known"  # not measured, or before the settings were changed
    else:
        noise = Noise(**measured)
        differ = "{} of {} answers differ ({:.0%} to {:.0%} of all)".format(noise.flips, noise.n, *noise.ci95)
    if evaluated != served:
        counted = differ if noise is not None else f"how many answers differ {differ}"
        return f"evaluated by {_differences(evaluated, served)}: {counted}"
    if noise is None:
        return f"how many answers differ when they are made again, as they are served, {differ}"
    return f"made again, as they are served, {differ}" if noise.flips else None


def mode_change(evaluated: Mapping[str, Any], model: ModelVersion, settings: Settings) -> str | None:
    """How the engine that would serve differs from the one a gate read, as its fields' JSON."""
    before, served = EngineIdentity(**evaluated), engine_identity(model, settings)
    return None if before == served else f"evaluated by {_differences(before, served)}"


def _differences(evaluated: EngineIdentity, served: EngineIdentity) -> str:
    """`llamacpp with slots 1, served by llamacpp with slots 16`: what differs, on both sides."""
    if evaluated.name != served.name:
        return f"{evaluated.name}, served by {served.name}"
    names = {**evaluated.settings, **served.settings}
    both = [{name: side.settings.get(name, "unknown") for name in names} for side in (evaluated, served)]
    sides = []
    for side, settings in zip((evaluated, served), both, strict=True):
        parts = [f"{name} {value}" for name, value in settings.items() if both[0][name] != both[1][name]]
        parts += [side.build] if evaluated.build != served.build else []
        sides.append(f"{side.name} with {', '.join(parts)}")
    return ", served by ".join(sides)
