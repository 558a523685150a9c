"""`llmops monitor`: run, report, reference; replay, daemon, ui and what belongs to them live in files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.command_table import CommandGroup
from llmops.cli.log import window_options
from llmops.cli.output import echo, emit, json_option, number, print_table, progress_bar, row_count, say
from llmops.errors import CannotRun, StoreUnavailable, UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from monitoring import MonitorResult
    from monitoring.decide.drift import DescriptorDrift


@click.group("monitor", cls=CommandGroup)
def command() -> None:
    """Monitor: text descriptors of prompts and answers, tested against a reference within a false-alarm budget."""


@command.command()
@window_options
@click.option("--no-record", is_flag=True, help="Do not record the result in MLflow.")
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

    If no reference is pinned yet, the rows before --since become the reference.

    \b
    Example: llmops monitor run --app assistant --since 24h
    """
    from monitoring import run_monitor

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
    """Write Evidently's HTML report on the same windows, with our verdict at the top.

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


_COLUMNS = ("descriptor", "test", "before#", "after#", "effect#", "p adjusted#", "drifted")


def show_result(result: MonitorResult) -> None:
    """The whole app as a table, of slices and variants what drifted; then alarms or their absence, and the cure."""
    for place, part in enumerate(result.slices):
        where = " ".join(part.label.values())
        if place == 0:
            title = f"{result.app}: {row_count(result.window.rows)} against {result.reference.rows} of reference"
            _drift_table(title, part.descriptors)
        elif part.rows < result.window.rows and (drifted := _drifted(part.descriptors)):
            _drift_table(f"{where}: {row_count(part.rows)}", drifted)
    for comparison in result.canary:
        variants = comparison.variants
        title = f"{variants.kind}: {row_count(variants.after.rows)} of {variants.challenger or 'the challenger'} "
        title += f"against {variants.before.rows} of {variants.champion or 'the champion'}"
        if drifted := _drifted(comparison.drift.descriptors):
            _drift_table(title, drifted)
        else:
            echo(f"{title}: no difference")
        if not comparison.alike:
            echo("their questions differ, so that nothing is held against the challenger")
    _show_alarms(result)


def _show_alarms(result: MonitorResult) -> None:
    if result.failures:
        rows = sorted(result.failures.items(), key=lambda item: -item[1])
        print_table("rows that a descriptor could not be computed of", ("descriptor", "rows#"), rows)
    if result.not_compared:
        say(f"not in the reference as they are now, so not compared: {', '.join(result.not_compared)}")
    for alarm in result.alarms:
        echo(f"ALARM {alarm.what} ({alarm.kind}): {alarm.why}")
        if alarm.rows:
            echo(f"      see llmops log show {alarm.rows[0]}" + _more(len(alarm.rows) - 1))
    if result.alarms:
        echo(f"a rollback {'may help' if result.cure.helps else 'is no cure'}: {result.cure.why}")
    else:
        echo("no alarm" if not result.note else f"no alarm: {result.note}")
    budget = result.expected_false_alarms_per_month
    say(f"at most {budget:g} false alarms a month are expected, run daily")


def _drift_table(title: str, descriptors: Mapping[str, DescriptorDrift]) -> None:
    rows = [
        (name, drift.result.test, _shown(drift.before), _shown(drift.after), number(drift.result.effect),
         f"{drift.p_adjusted:.3g}", "yes" if drift.drifted else "")
        for name, drift in descriptors.items()
    ]  # fmt: skip
    print_table(title, _COLUMNS, rows)


def _drifted(descriptors: Mapping[str, DescriptorDrift]) -> dict[str, DescriptorDrift]:
    return {name: drift for name, drift in descriptors.items() if drift.drifted}


def _more(count: int) -> str:
    return f" and {count} more" if count else ""


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
