"""`llmops monitor`: run, report."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.log import window_options
from llmops.cli.output import emit, json_option, number, print_table, progress_bar, say
from llmops.errors import UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from monitoring import MonitorResult


@click.group()
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

    settings = Settings.from_environment()
    with progress_bar() as show:
        result = run_monitor(
            settings,
            chosen_app(settings, app),
            since,
            until,
            progress=lambda done, total: show("describing", done, total),
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
    path = write_report(settings, name, out or report_path(settings, name), since, until)
    emit(as_json, {"app": name, "out": str(path)}, lambda: click.echo(f"wrote {path}"))


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


def record(settings: Settings, result: MonitorResult) -> str:
    """Writes the result into MLflow; returns the run id. Raises StoreUnavailable."""
    from llmops.recording import record_monitoring_run
    from llmops.registry import Store

    return record_monitoring_run(Store(settings), result.app, result.to_json(), result.metrics())


def show_result(result: MonitorResult) -> None:
    """The whole-app slice as a table, then alarms or their absence."""
    for part in result.slices[:1]:
        rows = [
            (name, drift.result.test, _shown(drift.before), _shown(drift.after), number(drift.result.effect),
             f"{drift.p_adjusted:.3g}", "yes" if drift.drifted else "")
            for name, drift in part.descriptors.items()
        ]  # fmt: skip
        columns = ("descriptor", "test", "before#", "after#", "effect#", "p adjusted#", "drifted")
        title = f"{result.app}: {result.window.rows} rows against {result.reference.rows} of reference"
        print_table(title, columns, rows)
    for alarm in result.alarms:
        click.echo(f"ALARM {alarm.what}: {alarm.why}")
    if not result.alarms:
        click.echo(result.note or "no alarm")
    budget = result.expected_false_alarms_per_month
    say(f"at most {budget:g} false alarms a month are expected, run daily")


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
