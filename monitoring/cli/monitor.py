"""`llmops monitor`: run, report, reference; replay, daemon, ui and what belongs to them live in files of their own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.command_table import CommandGroup
from llmops.cli.log import window_options
from llmops.cli.output import echo, emit, json_option, progress_bar, say
from llmops.errors import CannotRun, StoreUnavailable, UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from monitoring import MonitorResult


@click.group("monitor", cls=CommandGroup)
def command() -> None:
    """Monitor: text descriptors of prompts and answers, tested against a reference within a false-alarm budget."""


@command.command()
@window_options
@click.option("--no-record", is_flag=True, help="Do not write the result into MLflow.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    app: str | None,
    since: datetime | None,
    until: datetime | None,
    no_record: bool,
    as_json: bool,
) -> None:
    """Test the current window against the reference; exit 1 on an alarm.

    With no reference pinned yet, the rows before --since become it.

    \b
    Example: llmops monitor run --app assistant --since 24h
    """
    from monitoring import run_monitor
    from monitoring.cli.tables import show_result

    settings = Settings.from_environment()
    name = chosen_app(settings, app)
    with progress_bar() as show:
        result = run_monitor(
            settings,
            name,
            since,
            until,
            progress=lambda done, total: show("describing", done, total),
            champion=champion_of(settings, name),
        )
    run_id = None if no_record else record(settings, result)
    emit(as_json, {**result.to_json(), "run_id": run_id}, lambda: show_result(result))
    ctx.exit(1 if result.alarm else 0)


@command.command()
@window_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="HTML file; default: reports/monitor-APP.html in the home."
)
@json_option
def report(app: str | None, since: datetime | None, until: datetime | None, out: Path | None, as_json: bool) -> None:
    """Write Evidently's HTML report of the same windows, headed by our verdict.

    \b
    Example: llmops monitor report --app assistant --out report.html
    """
    from monitoring import write_report

    settings = Settings.from_environment()
    name = chosen_app(settings, app)
    file = out or report_path(settings, name)
    path = write_report(settings, name, file, since, until, champion=champion_of(settings, name))
    emit(as_json, {"app": name, "out": str(path)}, lambda: echo(f"wrote {path}"))


def report_path(settings: Settings, app: str) -> Path:
    """Where an app's report lies unless told otherwise."""
    return settings.reports_dir / f"monitor-{app}.html"


def chosen_app(settings: Settings, app: str | None) -> str:
    """The app asked for, or the only one in the log. Raises UsageError when there are several."""
    from monitoring import list_apps

    if app is not None:
        return app
    apps = list_apps(settings)
    if len(apps) != 1:
        raise UsageError(
            f"--app: name one of {', '.join(apps)}" if apps else "--app: the log holds no app's records yet"
        )
    return apps[0]


def champion_of(settings: Settings, app: str) -> str | None:
    """The release that is served, which decides what reference counts; None, and a note, while nobody can say."""
    from llmops.registry import Registry

    try:
        champion = Registry(settings).release_versions.champion(app)
    except StoreUnavailable as error:
        say(f"the champion of {app} is not known, so its newest reference counts: {error}")
        return None
    return champion.ref if champion is not None else None


def record(settings: Settings, result: MonitorResult) -> str:
    """Writes the result into MLflow and the dashboard; returns the run id. Raises StoreUnavailable."""
    from llmops.recording import nameless, record_monitoring_run
    from llmops.registry import Store
    from monitoring.show.verdict_page import verdict_page
    from monitoring.show.workspace import descriptor_version, publish_verdict

    verdict, version = result.to_json(), descriptor_version(settings)
    run_id = record_monitoring_run(
        Store(settings),
        result.app,
        verdict,
        result.metrics(),
        descriptor_version=version,
        page=verdict_page(nameless(verdict)),
    )
    try:
        publish_verdict(settings, result.app, run_id, verdict)
    except CannotRun as error:
        say(f"the verdict is recorded, but not in the dashboard: {error}")
    return run_id
