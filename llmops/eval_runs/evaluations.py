"""Running suites, comparing runs, and gating: the evaluation half of the main job."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any
from uuid import uuid4

from llmops import __version__
from llmops.engines.opening import engine_name
from llmops.engines.python import CallableModel
from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.eval_runs.early_stopping import EarlyStop, run_until_decided
from llmops.eval_runs.matrix import (
    NOISE_PARAM,
    STOPPED_PARAM,
    Cell,
    CellRun,
    Matrix,
    RowChoice,
    RunOptions,
    cell_identity,
    scored_by,
)
from llmops.eval_runs.scorer_factory import ScorerFactory, untrusted
from llmops.eval_runs.served_mode import evaluated_by, served_mode
from llmops.eval_runs.sharding import RayMatrix
from llmops.evaluation.comparison import Comparison, compare
from llmops.evaluation.contamination import rows_left
from llmops.evaluation.eval_set import measure
from llmops.evaluation.eval_set_check import question_hash
from llmops.evaluation.gate import ALPHA, GateInput, Verdict, decide, slice_metrics
from llmops.evaluation.record_files import SourceAccess
from llmops.evaluation.results import AnswerCounts, Failure, Noise, Results, failures_of
from llmops.evaluation.runner import metrics_of
from llmops.evaluation.scorers.protocol import limits_of
from llmops.evaluation.suite import MakeScorer, Suite, load_suite, readable_suites
from llmops.generation import GenerationParameters
from llmops.hashing import content_hash
from llmops.processes import run_async
from llmops.progress import ShowProgress
from llmops.ray_cluster import LOCAL
from llmops.recording import EvalRecorder, EvalRun, record_verdict
from llmops.recording.optimizations import rows_chosen_by
from llmops.registry import Registry
from llmops.settings import Settings, data_folder
from llmops.versions import MOST_NAMED, Ref, Release, whole_id

__all__ = ["Cell", "CellRun", "Evaluations", "Gated", "RunOptions"]

_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_SHORT_RUN_ID = re.compile(r"[0-9a-f]{1,31}\Z")


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
        self._recorder, self.make_scorer = EvalRecorder(registry.store), ScorerFactory(settings).make
        self._suites: dict[str, Suite] = {}

    def suite(self, name: str) -> Suite:
        """Read once. Raises UnknownVersion, BadFile."""
        if name not in self._suites:
            self._suites[name] = read_suite(self.settings, name, self.make_scorer)
        return self._suites[name]

    def adopt(self, suite: Suite) -> Suite:
        """Takes a suite that was put together in Python: its name means this one from now on."""
        self._suites[suite.name] = suite
        return suite

    def cells(
        self,
        suite: Suite,
        prompts: Sequence[str] = (),
        models: Sequence[str | CallableModel] = (),
        releases: Sequence[str] = (),
    ) -> list[Cell]:
        """What to run: the releases asked for, else prompts × models; by default every version of the suite's prompt
        on its default model. A callable is a cell by itself, without a prompt. Raises UnknownVersion, UsageError."""
        if releases:
            if prompts or models:
                raise UsageError("--release already names prompt and model; give it alone")
            chosen = [self.registry.release_versions.get(ref) for ref in releases]
            return [Cell(item.prompt, item.model, item.parameters, item) for item in chosen]
        asked = models or [suite.model]
        if all(isinstance(model, CallableModel) for model in asked):
            if prompts:
                raise UsageError("prompts: a callable reads a row's inputs; prompts go with model versions")
            prompt_versions = []
        elif prompts:
            prompt_versions = [self.registry.prompts.get(ref) for ref in prompts]
        elif not (prompt_versions := self.registry.prompts.versions(suite.prompt)):
            raise UnknownVersion(f"prompt {suite.prompt!r} is not registered; run `llmops prompts register`")
        cells = []
        for each in asked:
            if isinstance(each, CallableModel):
                cells.append(self._cell_of_callable(each))
            else:
                model = self.registry.models.get(each)
                cells += [Cell(prompt, model, prompt.template.parameters) for prompt in prompt_versions]
        return cells

    def _cell_of_callable(self, model: CallableModel) -> Cell:
        """Registers a callable, so that its runs are linked to what answered."""
        known, _ = self.registry.models.register(model)
        asked = None if model.provenance else model.asked or uuid4().hex
        registered = replace(model, version=known.version, model_id=known.model_id, asked=asked)
        return Cell(None, registered, GenerationParameters())

    def run(self, suite: Suite, cells: Sequence[Cell], options: RunOptions, progress: ShowProgress) -> list[CellRun]:
        """Runs every cell; a complete identical run is reused. Engines are loaded once for each model, when needed.
        Raises BadFile, EngineError, StoreUnavailable, RecordingIncomplete: finished generations are kept."""

        async def work() -> list[CellRun]:
            kind = Matrix if options.on == LOCAL else RayMatrix
            async with aclosing(kind(self.settings, self.registry, suite, options, progress)) as matrix:
                return await matrix.run(cells, RowChoice(options.limit))

        return run_async(work)

    def run_until_decided(
        self, suite: Suite, cells: Sequence[Cell], options: RunOptions, progress: ShowProgress
    ) -> tuple[list[CellRun], EarlyStop]:
        """Runs two cells on as many rows as it takes to tell them apart. Raises UsageError, and as `run`."""

        async def work() -> tuple[list[CellRun], EarlyStop]:
            async with aclosing(Matrix(self.settings, self.registry, suite, options, progress)) as matrix:
                return await run_until_decided(matrix, suite, cells)

        suite.try_scorers()
        return run_async(work)

    def rows(self, run: EvalRun, but: Collection[str] = ()) -> Results:
        """Every row of a run, read as often as asked. but: rows whose question has one of these hashes are left out.
        Raises StoreUnavailable, and Corrupted while it is read."""
        rows = self._recorder.rows(run)
        return [result for result in rows if question_hash(result.row) not in but] if but else rows

    def failures(self, done: CellRun) -> Sequence[Failure]:
        """Why rows of a run have no score, most frequent first. Raises StoreUnavailable."""
        if done.failed_again is not None:
            return done.failed_again
        failed = any(metric.n_failed for metric in done.run.metrics.values())
        return failures_of(self.rows(done.run)) if failed else ()

    def resolve(self, text: str | EvalRun, suite_name: str | None = None) -> EvalRun:
        """The complete run meant by a run id or its beginning, `APP@V`, `PROMPT@V` or `PROMPT@V,MODEL@V`; a run means
        itself.

        suite_name: needed where more than one suite uses the prompt.

        Raises UnknownVersion: there is no such thing, or it has not been run yet; says how to.
        """
        if isinstance(text, EvalRun):
            return text
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
            option = f"--release {text}"
        else:
            prompt_ref, _, model_ref = text.partition(",")
            prompt = self.registry.prompts.get(prompt_ref)
            suite = self._suite_of(prompt.name, suite_name)
            cell = Cell(prompt, self.registry.models.get(model_ref or suite.model), prompt.template.parameters)
            option = f"--prompt {prompt.ref} --model {cell.model.ref}"
        # The fast run, or where there is none the repeatable one.
        for options in (RunOptions(), RunOptions(repeatable=True)):
            identity = cell_identity(suite, cell, self.settings, options, RowChoice())
            if (found := self._recorder.find(suite.name, identity.hash)) is not None:
                return found
        engine = engine_name(cell.model, self.settings)
        raise UnknownVersion(
            f"{text} was not run on {suite.name} yet (as the suite is now, with the engine {engine}); "
            f"run `llmops eval run {suite.name} {option}`"
        )

    def compare(self, a: str, b: str, suite_name: str | None = None) -> Comparison:
        """Two runs row by row, as `resolve` reads them. Raises UnknownVersion, CannotRun."""
        suite, run_a, run_b = self.resolve_pair(a, b, suite_name)
        return self.compare_runs(suite, a, run_a, b, run_b)

    def resolve_pair(
        self, a: str | EvalRun, b: str | EvalRun, suite_name: str | None = None
    ) -> tuple[Suite, EvalRun, EvalRun]:
        """Two runs as `resolve` reads them, and the suite that both ran on. Raises UnknownVersion, CannotRun."""
        run_a, run_b = self.resolve(a, suite_name), self.resolve(b, suite_name)
        if run_a.suite != run_b.suite:
            ran = f"{named(a)} ran on suite {run_a.suite}, {named(b)} on {run_b.suite}"
            raise CannotRun(f"{ran}; give runs of one suite")
        return self.suite(run_a.suite), run_a, run_b

    def compare_runs(
        self, suite: Suite, a: str, run_a: EvalRun, b: str, run_b: EvalRun, but: Collection[str] = ()
    ) -> Comparison:
        """Two runs of one suite, which their rows are read from. but: as `rows` takes it. Raises CannotRun,
        StoreUnavailable."""
        stopped = [run.params.get(STOPPED_PARAM) for run in (run_a, run_b)]
        if stopped[0] != stopped[1]:
            raise CannotRun("a run that was stopped early can be compared only with the run it was stopped against")
        seed, _, told = (stopped[0] or "").partition(":")  # as `run_until_decided` writes it: `0: after 20 of 200 rows`
        one, other = definitions_in(run_a.content), definitions_in(run_b.content)
        noises = [Noise(**json.loads(run.params[NOISE_PARAM])) for run in (run_a, run_b) if NOISE_PARAM in run.params]
        return compare(
            a,
            self.rows(run_a, but),
            b,
            self.rows(run_b, but),
            suite.make_scorers(),
            suite.gate.primary,
            cluster_by=suite.cluster_by,
            noise=max(noises, key=lambda noise: noise.share, default=None),
            sequential_seed=int(seed) if told else None,
            suite_rows=rows_left(suite.rows, but),
            drawn_from=int(told.split()[-2]) if told else None,
            apart={
                name: "the two runs were scored by other definitions of it; run both again"
                for name in one.keys() & other.keys()
                if one[name] != other[name]
            },
        )

    def gate(self, challenger: str | EvalRun, against: str | EvalRun | None, suite_name: str) -> Gated:
        """Judges a challenger by the suite's gate and puts the verdict on record, on its run and on the release, when
        it is one.

        against: the champion; None means the app's present champion, or none yet.

        Raises UnknownVersion: a run that the verdict needs is missing; says how to make it.
        """
        suite = self.suite(suite_name)
        runs = {"b": self.resolve(challenger, suite_name)}
        if runs["b"].suite != suite_name:
            raise CannotRun(f"{named(challenger)} ran on suite {runs['b'].suite}, not on {suite_name}")
        release, champion, comparison = self.release(challenger), against, None
        if champion is None and release is not None:
            present = self.registry.release_versions.champion(release.app)
            champion = present.ref if present else None
        if champion is not None:
            runs["a"] = self.resolve(champion, suite_name)
        # Rows that an optimisation chose the challenger's prompt by, or that it shows, say too much good of it.
        prompt = self.registry.prompts.get(runs["b"].prompt) if runs["b"].prompt else None  # a callable has none
        store = self.registry.store
        used = rows_chosen_by(store, suite.name, prompt.template.content_hash) if prompt else {}
        if "a" in runs:
            comparison = self.compare_runs(suite, named(champion or ""), runs["a"], named(challenger), runs["b"], used)
        verdict = decide(suite.gate, self.facts(suite, named(challenger), runs, comparison, used))
        if used:
            left_out, by = suite.n_rows - rows_left(suite.rows, used), ", ".join(sorted(set(used.values())))
            verdict = verdict.with_reasons(
                [f"{left_out} of {suite.n_rows} rows are left out: {runs['b'].prompt} was chosen by them (run {by})"]
            )
        if "a" in runs and runs["a"].run_id == runs["b"].run_id:
            verdict = verdict.with_reasons(
                [f"{named(challenger)} was compared with itself: both are run {runs['a'].run_id}"]
            )
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
            {**verdict.to_json(), **record, "against": champion and named(champion), "comparison": told},
        )
        return Gated(verdict, comparison, runs)

    def facts(
        self,
        suite: Suite,
        challenger: str,
        runs: Mapping[str, EvalRun],
        comparison: Comparison | None,
        but: Collection[str] = (),
    ) -> GateInput:
        """What the suite's gate is told of the challenger, whose run is `b`. but: as `rows` takes it."""
        run, metrics = runs["b"], {side: each.metrics for side, each in runs.items()}
        if but:
            metrics = {
                side: metrics_of(self.rows(each, but), suite.make_scorers(), suite.cluster_by)
                for side, each in runs.items()
            }
        wanted = {name: list(floors) for name, floors in suite.gate.slice_floors.items()}
        now = definitions_in(scored_by(suite))
        redefined = {
            name: f"{each.run_id} was scored by another definition of it than the suite's; run it again"
            for each in runs.values()
            for name, definition in definitions_in(each.content).items()
            if name in now and now[name] != definition
        }
        return GateInput(
            metrics=metrics["b"],
            comparison=comparison,
            answers=AnswerCounts.of(each.output for each in self.rows(run, but)) if but else run.answers,
            name=challenger,
            champion=metrics.get("a", {}),
            slices=slice_metrics(self.rows(run, but), wanted) if wanted else {},
            untrusted={**untrusted(suite, self.registry.store), **redefined},
            serving=served_mode(run, self.registry.models.get(run.model), self.settings),
            limits={scorer.name: limits_of(scorer) for scorer in suite.make_scorers()},
            suite_rows=rows_left(suite.rows, but),
            stale_runs=[each.run_id for each in runs.values() if _has_other_rows(suite, each)],
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

    def release(self, text: str | EvalRun) -> Release | None:
        """The release that `text` names, or None when it names something else."""
        if (
            isinstance(text, EvalRun)
            or _RUN_ID.match(text)
            or "," in text
            or Ref.parse(text).name not in self.registry.release_versions.names()
        ):
            return None
        return self.registry.release_versions.get(text)


def read_suite(settings: Settings, name: str, make: MakeScorer | None = None) -> Suite:
    """A suite of the settings' folder, whose scorers are not tried. Raises UnknownVersion, BadFile."""
    folder = data_folder(settings, "eval_sets")
    return load_suite(folder, name, SourceAccess.of(settings), make or ScorerFactory(settings).make)


def named(run: str | EvalRun) -> str:
    """What a run is called in tables and reasons."""
    return run if isinstance(run, str) else run.cell


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
