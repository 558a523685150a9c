"""`llmops pipeline`: run, list, show, schedule."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, json_option, json_values, print_table, say
from llmops.errors import LlmopsError, UsageError
from llmops.settings import Settings, data_folder, describe_folder
from llmops.text_io import printable_json

if TYPE_CHECKING:
    from labs.lab import Lab
    from llmops.pipelines import Pipeline, PipelineRun, Pipelines

_KNOWN = {
    "llm": "eval, gate, canary, monitor, then promote a release or roll it back",
    "improve": "alarms, review, fine-tune or optimize, then as llm: a better release, or none",
    "wine": "the wine lab: from data to a monitored model, trained again when drift hurts",
    "bike": "the bike lab: from data to a monitored model, trained again when drift hurts",
    "insurance": "the insurance lab: from three sources to a monitored risk, trained again when drift hurts",
}
_LAB_CLASSES = {
    "wine": "labs.wine.lab:WineLab",
    "bike": "labs.bike.lab:BikeLab",
    "insurance": "labs.insurance.lab:InsuranceLab",
}
_set_option = click.option(
    "--set", "settings_", multiple=True, metavar="KEY=VALUE", help="An input; the value is read as JSON, else as text."
)


def make_pipeline(name: str, settings: Settings) -> Pipeline:
    """The pipeline of that name. Raises UsageError."""
    if name not in _KNOWN:
        raise UsageError(f"no pipeline {name!r}; there are {', '.join(_KNOWN)}")
    if name == "llm":
        from labs.llm.pipeline import pipeline

        return pipeline(settings, _KNOWN[name])
    if name == "improve":
        from labs.llm import improve

        return improve.pipeline(settings, _KNOWN[name])
    from labs.lifecycle import lab_pipeline

    return lab_pipeline(lab_kind(name), settings, _KNOWN[name])


def lab_kind(name: str) -> type[Lab]:
    """The lab of that name."""
    kind: type[Lab] = resolve_name(_LAB_CLASSES[name])
    return kind


@contextmanager
def _opened(name: str, settings: Settings) -> Iterator[Pipelines]:
    """For a pipeline's steps; says which prompts and eval sets the LLM's reads. Raises CannotRun: there are none.

    A step runs in a thread, which Ctrl-C would wait for. It ends the process at once: every pipeline is made for it.
    """
    for folder in ("prompts", "eval_sets") if name in ("llm", "improve") else ():
        say(describe_folder(data_folder(settings, folder)))
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if in_main_thread else None
    try:
        with open_pipelines(settings) as pipelines:
            yield pipelines
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)


def open_pipelines(settings: Settings) -> Pipelines:
    """Runs that are recorded in MLflow and tell on stderr what they wait for."""
    from llmops.pipelines import Pipelines
    from llmops.recording.pipelines import PipelineRecorder

    return Pipelines(settings, recorder=PipelineRecorder(settings), tell=say)


@click.group()
def command() -> None:
    """Pipelines: jobs of several steps. A finished step is never repeated, even if the process is killed."""


@command.command()
@click.argument("name")
@click.option(
    "--cycle",
    metavar="ID",
    help="Name of the run; the same name continues it. Default: today's UTC date; of a dry run, also the time.",
)
@_set_option
@json_option
@click.pass_context
def run(ctx: click.Context, name: str, cycle: str | None, settings_: Sequence[str], as_json: bool) -> None:
    """Run a cycle of a pipeline; exit 1 when its verdict is negative.

    A cycle that was interrupted or failed continues after its last finished step, with its original inputs. A finished
    cycle is not repeated. Ctrl-C ends it at once, and the same command continues it.

    \b
    Example: llmops pipeline run llm --cycle friday --set suite=qa --set app=assistant
    Example: llmops pipeline run improve --set app=assistant
    """
    settings = Settings.from_environment()
    pipeline = make_pipeline(name, settings)
    inputs = json_values("--set", settings_) if settings_ else None
    cycle = cycle or pipeline.default_cycle(pipeline.complete(inputs or {}))
    with _opened(name, settings) as pipelines:
        done = _run(pipelines, pipeline, inputs, cycle, as_json)
    emit(as_json, done.to_json(), lambda: show_run(done))
    ctx.exit(1 if done.is_negative else 0)


def _run(
    pipelines: Pipelines, pipeline: Pipeline, inputs: Mapping[str, Any] | None, cycle: str, as_json: bool
) -> PipelineRun:
    from llmops.pipelines import StepFailed

    try:
        done = pipelines.run(pipeline, inputs, cycle=cycle)
    except StepFailed as error:
        if not as_json:
            show_run(error.run)
        raise
    if done.steps and all(step.status == "skipped" for step in done.steps):
        say(f"{done.ref} had finished, nothing was repeated; --cycle begins another one")
    return done


@command.command("list")
@click.option("--pipeline", help="Only runs of this pipeline.")
@click.option("--limit", type=click.IntRange(1), default=20, help="Number of runs, latest first.")
@json_option
def list_runs(pipeline: str | None, limit: int, as_json: bool) -> None:
    """List the pipelines and their latest runs.

    \b
    Example: llmops pipeline list
    """
    from llmops.pipelines import Pipelines

    with Pipelines(Settings.from_environment()) as pipelines:
        runs = pipelines.runs(pipeline, limit=limit)
    known = [{"name": name, "what": what} for name, what in _KNOWN.items()]
    listed = [{part: text for part, text in run.to_json().items() if part != "steps"} for run in runs]

    def table() -> None:
        print_table("Pipelines", ("name", "what"), _KNOWN.items())
        began = [f"{run.started_at:%Y-%m-%d %H:%M}" if run.started_at else "" for run in runs]
        came = [run.error or run.result.get("told", "") for run in runs]
        rows = [(run.ref, run.status, *texts) for run, *texts in zip(runs, began, came, strict=True)]
        if rows:
            print_table("Runs", ("run", "status", "began", "what came of it"), rows)

    emit(as_json, {"pipelines": known, "runs": listed}, table)


@command.command()
@click.argument("run_name", metavar="RUN")
@json_option
def show(run_name: str, as_json: bool) -> None:
    """Show the steps and the result of a run, NAME@CYCLE.

    \b
    Example: llmops pipeline show llm@2026-05-01
    """
    from llmops.pipelines import Pipelines

    with Pipelines(Settings.from_environment()) as pipelines:
        done = pipelines.get(run_name)
    emit(as_json, done.to_json(), lambda: show_run(done))


@command.command()
@click.argument("name")
@click.option("--cron", required=True, help='Five fields, in UTC: "0 3 * * *" is every day at three.')
@_set_option
@click.option("--print-crontab", is_flag=True, help="Print the line for cron instead.")
@click.option("--print-cronjob", is_flag=True, help="Print a CronJob for Kubernetes instead.")
@json_option
def schedule(
    name: str, cron: str, settings_: Sequence[str], print_crontab: bool, print_cronjob: bool, as_json: bool
) -> None:
    """Run a pipeline on a schedule, in the foreground; or print a crontab line or a Kubernetes CronJob.

    Each cycle is named after the time it was due, so two schedulers run it only once. On start, the latest cycle is
    continued if it was interrupted. A failed cycle is reported, and waits for `llmops pipeline run`.

    The printed text contains PATH, this folder and every LLMOPS_* variable that is set. It contains no secrets
    (addresses with a password, keys that settings, models and suites name): for cron they are written to a file in the
    home that only you can read, for Kubernetes they come from the Secret `llmops`.

    \b
    Example: llmops pipeline schedule bike --cron "0 3 * * *"
    Example: llmops pipeline schedule bike --cron "0 3 * * *" --print-crontab
    """
    from llmops.pipelines.schedule import (
        CronSchedule,
        cronjob,
        crontab,
        job_environment,
        shell_command,
        write_secrets,
    )

    due = CronSchedule(cron)
    inputs = json_values("--set", settings_)
    settings = Settings.from_environment()
    pipeline = make_pipeline(name, settings)
    pipeline.complete(inputs)
    if print_crontab or print_cronjob:
        job = job_environment(settings)
        value: dict[str, Any] = {"cron": due.cron}
        if print_cronjob:
            say("its Secret `llmops` and its claim `llmops` are yours to make; no value of a secret is in the manifest")
            value["text"] = cronjob(due, name, settings_, job)
        else:
            secrets = write_secrets(settings, job, name)
            if secrets is not None:
                say(f"wrote {secrets}, which only you can read: {', '.join(job.secrets)}")
            line = shell_command(due, name, settings_, job, secrets)
            value |= {"text": crontab(due, line), "command": line, "secrets": str(secrets) if secrets else None}
        emit(as_json, value, lambda: echo(value["text"], nl=False))
        return
    with _opened(name, settings) as pipelines:
        latest = pipelines.runs(pipeline.name, limit=1)
        if latest and latest[0].status == "interrupted":
            _try(pipelines, pipeline, None, latest[0].cycle, as_json)
        while True:
            moment = due.after(datetime.now(UTC))
            say(f"{name}: next cycle {due.cycle(moment)} at {moment:%Y-%m-%d %H:%M} UTC; stop it with Ctrl-C")
            # In short naps: a machine that sleeps, or whose clock is set, is then on time.
            while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
                threading.Event().wait(min(left, 30.0))
            _try(pipelines, pipeline, inputs, due.cycle(moment), as_json)


def _try(pipelines: Pipelines, pipeline: Pipeline, inputs: Mapping[str, Any] | None, cycle: str, as_json: bool) -> None:
    """One cycle; a scheduler outlives its failure. With --json each is one line."""
    try:
        done = _run(pipelines, pipeline, inputs, cycle, as_json)
    except LlmopsError as error:
        say(f"error: {error}")
        return
    if as_json:
        echo(printable_json(done.to_json()))
    else:
        show_run(done)


def show_run(done: PipelineRun) -> None:
    """A run as tables."""
    rows = [(step.name, step.status, f"{step.seconds:.1f}", step.error or "") for step in done.steps]
    print_table(f"{done.ref}: {done.status}", ("step", "status", "seconds#", "error"), rows)
    for name, value in done.result.items():
        if isinstance(value, (str, int, float)):
            echo(f"{name}: {value}")
    if done.status == "failed":
        say(f"`llmops pipeline run {done.pipeline} --cycle {done.cycle}` goes on from there")
