"""Running suites, comparing runs, gating: what `llmops eval` does, and own rows, scorers and models beside it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict, Unpack

from llmops import recording
from llmops.api import Names, names_of
from llmops.api.results import ComparisonResult, Evaluation, GateResult, Leaders, Run, write_reports
from llmops.engines.python import CallableModel
from llmops.engines.python import model as callable_model
from llmops.errors import BadFile, CannotRun, StoreUnavailable, UsageError
from llmops.eval_runs.early_stopping import EarlyStop
from llmops.eval_runs.evaluations import Evaluations, RunOptions, read_suite
from llmops.eval_runs.pairwise import votes_between
from llmops.eval_runs.report_contents import leaderboard as leaderboard_of
from llmops.eval_runs.report_contents import report_contents
from llmops.eval_runs.second_opinion import second_opinion
from llmops.evaluation.eval_set_source import eval_set_of_rows
from llmops.evaluation.scorers.function import FUNCTION, FunctionScorer
from llmops.evaluation.suite import Suite, suite_of
from llmops.production_log import ProductionLog
from llmops.progress import progress_bar
from llmops.ray_cluster import LOCAL
from llmops.recording import EvalRun, record_report
from llmops.recording.runs import RecorderName
from llmops.registry import Registry
from llmops.settings import Settings

Models = str | Callable[..., Any] | CallableModel | Sequence[str | Callable[..., Any] | CallableModel]


class RunArguments(TypedDict, total=False):
    """How a suite is run: as the fields of `RunOptions`, which editors and notebooks then complete."""

    limit: int | None
    engine: str | None
    seed: int | None
    repeatable: bool
    force: bool
    recorder: RecorderName
    on: str
    workers: int | None
    shard_rows: int


def evaluate(
    suite: str | Suite,
    *,
    prompts: Names = (),
    models: Models = (),
    releases: Names = (),
    rows: Any = None,
    columns: Mapping[str, Any] | None = None,
    scorers: Sequence[FunctionScorer | str] = (),
    gate: Mapping[str, Any] | None = None,
    stop_early: bool = False,
    progress: bool = True,
    settings: Settings | None = None,
    **options: Unpack[RunArguments],
) -> Evaluation:
    """Answers and scores every row with every cell, and records the runs in MLflow, as `llmops eval run`.

    Finished generations are not made again, and an identical complete run is reused: but for a callable without a
    version (`llmops.model`), whose answers may change without anybody seeing it.

    Args:
        suite: its name, or what an earlier evaluation has as its `suite`. With rows and scorers of one's own it may be
            a new name.
        prompts: versions, such as `qa@2`; by default all of the suite's prompt.
        models: versions, or callables that take a row's inputs, a dict, and return text; by default the suite's.
        releases: in place of prompts and models.
        rows: in place of the suite's: a list of mappings, a DataFrame, a data set of `datasets`.
        columns: which of their columns is which field of a row, such as `{"inputs.question": "q"}`; by default they are
            named as the fields.
        scorers: beside the suite's: functions made by `llmops.scorer`, and names of types that need no options.
        gate: rules in place of the suite's, as in its file.
        stop_early: two cells: take rows at random until the deciding metric is decided.
        progress: shows bars, on a terminal and in a notebook.
        settings: by default those of the environment.
        options: the fields of `RunOptions`: limit, engine, seed, repeatable, force, recorder, on, workers, shard_rows.

    Raises LlmopsError, as the command does.
    """
    evaluations = _opened(settings)
    loaded = _suite(evaluations, suite, rows, columns, scorers, gate)
    chosen = RunOptions(**options)
    given = models_of(models)
    callables = [each.name for each in given if isinstance(each, CallableModel)]
    own = callables + [spec.name for spec in loaded.scorer_specs if spec.type == FUNCTION]
    if own and chosen.on != LOCAL:
        raise UsageError(f"on: {', '.join(own)} are functions of this process, which other nodes do not have")
    if not (loaded.model or given or releases):
        raise UsageError(f"models: {loaded.name} names none; say which, or give a callable")
    if not (loaded.prompt or prompts or releases) and len(callables) < len(given):
        raise UsageError(f"prompts: {loaded.name} names none; say which")
    cells = evaluations.cells(loaded, names_of(prompts), given, names_of(releases))
    stop: EarlyStop | None = None
    with progress_bar(progress) as show:
        if stop_early:
            done, stop = evaluations.run_until_decided(loaded, cells, chosen, show)
        else:
            done = evaluations.run(loaded, cells, chosen, show)
    runs = [Run(loaded, item, evaluations.failures(item), evaluations) for item in done]
    board = leaderboard_of(evaluations, loaded, done) if len(done) > 1 and stop is None else None
    return Evaluation(loaded, runs, board, stop)


def models_of(models: Models) -> list[str | CallableModel]:
    """One model or several, callables as what `llmops.model` makes of them. Raises UsageError."""
    asked = [models] if isinstance(models, (str, CallableModel)) or callable(models) else models
    return [callable_model(each) if callable(each) else each for each in asked]


def mlflow_scorers(suite: str | Suite, *, settings: Settings | None = None) -> list[Any]:
    """A suite's scorers as MLflow's own, for `mlflow.genai.evaluate`. Raises UnknownVersion, BadFile."""
    loaded = suite if isinstance(suite, Suite) else read_suite(settings or Settings.from_environment(), suite)
    return recording.mlflow_scorers(loaded.make_scorers())


def _opened(settings: Settings | None) -> Evaluations:
    settings = settings or Settings.from_environment()
    return Evaluations(settings, Registry(settings))


def _suite(
    evaluations: Evaluations,
    suite: str | Suite,
    rows: Any,
    columns: Mapping[str, Any] | None,
    scorers: Sequence[FunctionScorer | str],
    gate: Mapping[str, Any] | None,
) -> Suite:
    """The suite that is meant, as it is from now on."""
    if columns is not None and rows is None:
        raise UsageError("columns: goes with rows")
    base: Suite | None
    if isinstance(suite, Suite):
        base = evaluations.adopt(suite)
    else:
        try:
            base = evaluations.suite(suite)
        except CannotRun as error:  # there is no such suite, or no folder of suites
            if isinstance(error, BadFile) or rows is None or not scorers:
                raise
            base = None
    if rows is None and not scorers and gate is None:
        assert base is not None  # noqa: S101 - else it was not found
        return base
    name = base.name if base is not None else str(suite)
    eval_set = None if rows is None else eval_set_of_rows(name, rows, columns)
    return evaluations.adopt(suite_of(name, base, eval_set, scorers, gate, evaluations.make_scorer))


def leaderboard(suite: str | Suite, **arguments: Any) -> Leaders:
    """The cells of a suite, best first, and which of their differences are real. arguments: as `evaluate` takes them;
    runs that are complete are read, not made again. Raises UsageError: there are not two cells, or the deciding scorer
    has no judge; else as `evaluate`."""
    done = evaluate(suite, **arguments)
    if done.leaderboard is None:
        raise UsageError("leaderboard: it takes two cells or more, and a deciding scorer that can score them")
    return Leaders(done.leaderboard)


def compare(
    a: str | Run | Evaluation,
    b: str | Run | Evaluation,
    *,
    suite: str | Suite | None = None,
    with_second_opinion: bool = False,
    settings: Settings | None = None,
) -> ComparisonResult:
    """Two runs row by row, as `llmops eval compare`.

    Args:
        a: a run of `evaluate`, or a run id, a prompt version, `PROMPT@V,MODEL@V` or a release.
        b: as a; a difference is b − a.
        suite: needed where several suites use the prompt.
        with_second_opinion: also compare as MLflow does (3.18), and explain where both disagree.
        settings: by default those of the environment.

    Raises UnknownVersion, CannotRun, StoreUnavailable.
    """
    evaluations = _opened(settings)
    suite_name = evaluations.adopt(suite).name if isinstance(suite, Suite) else suite
    left, right = (_meant(evaluations, each) for each in (a, b))
    of_suite, run_a, run_b = evaluations.resolve_pair(left, right, suite_name)
    name_a, name_b = (_called(each) for each in (left, right))
    comparison = evaluations.compare_runs(of_suite, name_a, run_a, name_b, run_b)
    releases = [found for found in (evaluations.release(left), evaluations.release(right)) if found is not None]
    votes, notes = None, []
    try:
        if len(releases) == 2:
            with closing(ProductionLog(evaluations.settings.resolved_log_url)) as log:
                votes = votes_between(log, *releases)
    except StoreUnavailable as error:  # without the log there are no votes, and still a comparison
        notes.append(f"note: votes are left out: {error}")
    opinions = None
    if with_second_opinion:
        opinions = second_opinion(evaluations.registry.store, comparison, run_a.run_id, run_b.run_id)
    runs = {"a": run_a, "b": run_b}
    report = functools.partial(report_contents, evaluations, of_suite, runs, name_b, comparison)
    return ComparisonResult(comparison, votes, report, notes, opinions)


def _meant(evaluations: Evaluations, run: str | Run | Evaluation, *, release: bool = False) -> str | EvalRun:
    """What `Evaluations.resolve` takes. release: of a release's run, the release."""
    if isinstance(run, Evaluation):
        if len(run.runs) != 1:
            raise UsageError(f"an evaluation of {len(run.runs)} cells is given where one run is asked for; say which")
        run = run.runs[0]
    if isinstance(run, str):
        return run
    evaluations.adopt(run.suite)
    named = run.done.cell.release
    return named.ref if release and named is not None else run.done.run


def _called(run: str | EvalRun) -> str:
    return run if isinstance(run, str) else run.cell


def gate(
    challenger: str | Run | Evaluation,
    *,
    against: str | Run | Evaluation | None = None,
    suite: str | Suite | None = None,
    settings: Settings | None = None,
) -> GateResult:
    """Applies a suite's gate and puts the verdict on record, as `llmops eval gate`.

    Args:
        challenger: a run of `evaluate`, or what `compare` takes.
        against: as the challenger; by default the app's champion.
        suite: whose `[gate]` decides; by default the suite of the challenger's run.
        settings: by default those of the environment.

    Raises UnknownVersion: a run that the verdict needs is missing. CannotRun, StoreUnavailable.
    """
    evaluations = _opened(settings)
    meant = _meant(evaluations, challenger, release=True)
    champion = None if against is None else _meant(evaluations, against, release=True)
    if suite is None and isinstance(challenger, (Run, Evaluation)):
        suite = challenger.suite
    if suite is None:
        raise UsageError("suite: say which suite's gate decides")
    loaded = evaluations.adopt(suite) if isinstance(suite, Suite) else evaluations.suite(suite)
    gated = evaluations.gate(meant, champion, loaded.name)
    name, comparison = _called(meant), gated.comparison
    report = report_contents(evaluations, loaded, gated.runs, name, comparison, gated.verdict)
    # The page is kept among the challenger's artifacts too; without a champion it has the challenger's means.
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / ("verdict.html" if comparison is None else "comparison.html")
        write_reports(report, page)
        record_report(evaluations.registry.store, gated.runs["b"].run_id, page)
    return GateResult(loaded.name, gated, report)
