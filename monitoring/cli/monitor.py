"""`llmops monitor`: run, report, reference, replay and ui; daemon and what belongs to it are in a file of their own."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli import CommandGroup
from llmops.cli.log import open_archive, read_time, window_options
from llmops.cli.output import echo, emit, json_option, on_option, print_table, progress_bar, row_count, say, shown_time
from llmops.errors import CannotRun, StoreUnavailable, UsageError
from llmops.pages.numbers import number
from llmops.ray_cluster import LOCAL, RayCluster
from llmops.settings import Settings
from llmops.text_io import listed
from monitoring.cli.log_archive import say_waiting

if TYPE_CHECKING:
    from monitoring.decide.drift import DescriptorDrift
    from monitoring.decide.result import MonitorResult


@click.group("monitor", cls=CommandGroup)
def command() -> None:
    """Monitor: text descriptors of prompts and answers, tested against a reference within a false-alarm budget."""


@command.command()
@window_options
@click.option(
    "--archive",
    metavar="FOLDER|s3://BUCKET/PREFIX",
    help="Also read this archive, as llmops log archive writes it: what the log has no longer.",
)
@on_option("Where descriptors are computed")
@click.option("--no-record", is_flag=True, help="Do not record the result in MLflow.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    app: str | None,
    since: datetime | None,
    until: datetime | None,
    archive: str | None,
    on: str,
    no_record: bool,
    as_json: bool,
) -> None:
    """Test the current window against the reference; exit 1 on an alarm.

    If no reference is pinned yet, the rows before --since become the reference.

    \b
    Example: llmops monitor run --app assistant --since 24h
    Example: llmops monitor run --archive s3://llmops-log/production --on ray://head:10001
    """
    from monitoring.run import run_monitor

    settings = Settings.from_environment()
    opened = None if archive is None else open_archive(archive)
    name = chosen_app(settings, app)
    champion = champion_of(settings, name)
    with progress_bar() as show, closing(RayCluster(on)) as cluster:
        result = run_monitor(
            settings,
            name,
            since,
            until,
            progress=partial(show, "describing"),
            champion=champion,
            archive=opened,
            spread=map if on == LOCAL else cluster.map,
            waiting=say_waiting,
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
    from monitoring.run import write_report

    settings = Settings.from_environment()
    name = chosen_app(settings, app)
    file = out or report_path(settings, name)
    path = write_report(settings, name, file, since, until, champion=champion_of(settings, name))
    emit(as_json, {"app": name, "out": str(path)}, lambda: echo(f"wrote {path}"))


@command.group()
def reference() -> None:
    """References: what an app's windows are compared with. A reference changes only when another is pinned."""


@reference.command("list")
@click.argument("app", required=False)
@json_option
def list_command(app: str | None, as_json: bool) -> None:
    """List every reference that was ever pinned, newest first.

    \b
    Example: llmops monitor reference list assistant
    """
    from monitoring.run import list_references

    found = list_references(Settings.from_environment(), app)
    rows = []
    for each in found:
        since, until, pinned_at = map(shown_time, (each.since, each.until, each.pinned_at))
        rows.append((each.app, since, until, each.source, each.release or "any", pinned_at, each.why))
    columns = ("app", "since", "until", "source", "release", "pinned at", "why")
    value = {"references": [each.to_json() for each in found]}
    emit(as_json, value, lambda: print_table(f"{len(found)} references", columns, rows))


@reference.command()
@click.argument("app")
@json_option
def show(app: str, as_json: bool) -> None:
    """Show the current reference and its statistics.

    \b
    Example: llmops monitor reference show assistant
    """
    from monitoring.run import reference_in_force

    settings = Settings.from_environment()
    pinned, frozen, awaited = reference_in_force(settings, app, champion_of(settings, app))
    levels: dict[str, dict[str, Any]] = {}
    if frozen is not None:
        whole = frozen.whole
        for name, numbers in whole.numbers.items():
            levels[name] = {"n": numbers.n, "level": numbers.mean if numbers.n else None}
        for name, flags in whole.flags.items():
            levels[name] = {"n": flags.n, "level": flags.share if flags.n else None}
        for name, labels in whole.labels.items():
            commonest = max(sorted(labels.counts), key=labels.counts.__getitem__, default=None)
            levels[name] = {"n": labels.n, "level": commonest}
    value: dict[str, Any] = {
        "app": app,
        "reference": pinned.to_json() if pinned is not None else None,
        "rows": frozen.whole.rows if frozen is not None else None,
        "descriptors": dict(sorted(levels.items())),
        "awaited": {"release": awaited.release, "since": awaited.since.isoformat()} if awaited is not None else None,
    }

    def table() -> None:
        if pinned is None:
            echo(f"no reference is pinned for {app}")
        else:
            title = f"{app}: {pinned.why}, {value['rows'] or 'not yet counted'} rows"
            rows = [(name, each["n"], _shown(each["level"])) for name, each in value["descriptors"].items()]
            print_table(title, ("descriptor", "n#", "mean, share or commonest#"), rows)
        if awaited is not None:
            echo(f"the first accepted window of {awaited.release} will be the next one")

    emit(as_json, value, table)


@reference.command()
@click.argument("app")
@click.option(
    "--since", required=True, callback=read_time, metavar="TIME", help="From this time, or this long ago: 24h, 7d."
)
@click.option("--until", required=True, callback=read_time, metavar="TIME", help="Before this time, or this long ago.")
@click.option("--release", help="Only rows of this release; the reference applies while it is champion.")
@click.option("--why", required=True, help="The reason; it is recorded.")
@json_option
def pin(app: str, since: datetime, until: datetime, release: str | None, why: str, as_json: bool) -> None:
    """Pin a window of the production log as the app's reference from now on.

    \b
    Example: llmops monitor reference pin assistant --since 8d --until 1d --why "a good week"
    """
    from monitoring.run import pin_reference

    pinned = pin_reference(Settings.from_environment(), app, since, until, why, release=release)
    span = f"the rows from {pinned.since.isoformat()} to {pinned.until.isoformat()}"
    emit(as_json, pinned.to_json(), lambda: echo(f"{app}: compared with {span} from now on"))


@command.command()
@click.option("--app", help="Only this app's records.")
@click.option("--until", callback=read_time, metavar="TIME", help="End of the quiet past; default: now.")
@click.option("--months", default=100, show_default=True, type=click.IntRange(0), help="Simulated months; 0 for none.")
@json_option
def replay(app: str | None, until: datetime | None, months: int, as_json: bool) -> None:
    """Measure false alarms on the log's past after the reference, and compare them with the stated budget.

    This is valid only if nothing was wrong in that past: a real change counts as an alarm, too.

    \b
    Example: llmops monitor replay --app assistant --until 1d
    """
    from monitoring.run import replay_past

    settings = Settings.from_environment()
    name = chosen_app(settings, app)
    champion = champion_of(settings, name)
    with progress_bar() as bar:
        found = replay_past(settings, name, until, months=months, progress=partial(bar, "replaying"), champion=champion)

    def show() -> None:
        if found.alarms:
            rows = [(alarm.since.isoformat(), alarm.kind, alarm.what) for alarm in found.alarms]
            print_table(f"{name}: what alarmed", ("window from", "rule", "what"), rows)
        low, high = found.interval
        echo(f"{found.alarmed} of {found.windows} windows alarmed ({found.untested} had too few rows to be tested)")
        echo(
            f"that is {number(found.per_month)} a month (95 % interval {number(low)} to {number(high)}); "
            f"stated: at most {found.stated['total']:g}"
        )
        if found.resampled is not None:
            echo(f"{found.resampled.alarmed} of {found.resampled.months} resampled months had an alarm")

    emit(as_json, {"app": name, **found.to_json()}, show)


@command.command()
@click.option("--port", default=8001, show_default=True)
@click.option("--no-serve", is_flag=True, help="Only update the dashboard, then exit.")
@json_option
def ui(port: int, no_serve: bool, as_json: bool) -> None:
    """Show Evidently's dashboard over time, on this machine only. Stop it with Ctrl-C.

    Descriptors of new records in the production log are computed and added first. Nothing is sent elsewhere.

    \b
    Example: llmops monitor ui --port 8001
    """
    from monitoring.show.dashboard import update_from_history, workspace_folder

    settings = Settings.from_environment()
    if not no_serve:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise CannotRun(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
    added = update_from_history(settings)
    for app, points in added.items():
        say(f"{app}: {points} points added")
    if not added:
        say("the production log holds no app's records yet")
    folder, url = workspace_folder(settings), f"http://127.0.0.1:{port}"
    value = {"workspace": str(folder), "added": added, "url": None if no_serve else url}
    emit(as_json, value, lambda: echo(f"the dashboard is in {folder}" if no_serve else f"Evidently on {url}"))
    if not no_serve:
        from monitoring.evidently_import import serve_workspace

        folder.mkdir(parents=True, exist_ok=True)
        serve_workspace(folder, "127.0.0.1", port)


def report_path(settings: Settings, app: str) -> Path:
    """Where an app's report lies unless told otherwise."""
    return settings.reports_dir / f"monitor-{app}.html"


def chosen_app(settings: Settings, app: str | None) -> str:
    """The app asked for, or the only one in the log. Raises UsageError when there are several."""
    from monitoring.run import list_apps

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
    from monitoring.config import read_config
    from monitoring.show.dashboard import Dashboard, workspace_folder
    from monitoring.show.verdict_page import verdict_page

    verdict, version = result.to_json(), read_config(settings).descriptors.version
    run_id = record_monitoring_run(
        Store(settings),
        result.app,
        verdict,
        result.metrics(),
        descriptor_version=version,
        page=verdict_page(nameless(verdict)),
    )
    try:
        Dashboard(workspace_folder(settings)).add_verdict(result.app, run_id, verdict)
    except CannotRun as error:
        say(f"the verdict is recorded, but not in the dashboard: {error}")
    return run_id


def show_result(result: MonitorResult) -> None:
    """The whole app as a table, of slices and variants what drifted; then alarms or their absence, and the cure."""
    for place, part in enumerate(result.slices):
        if place == 0:
            title = f"{result.app}: {row_count(result.window.rows)} against {result.reference.rows} of reference"
            _drift_table(title, part.descriptors)
        elif part.rows < result.window.rows and (drifted := _drifted(part.descriptors)):
            _drift_table(f"{' '.join(part.label.values())}: {row_count(part.rows)}", drifted)
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
        failed = sorted(result.failures.items(), key=lambda item: -item[1])
        print_table("rows that a descriptor could not be computed of", ("descriptor", "rows#"), failed)
    if result.not_compared:
        say(f"not in the reference as they are now, so not compared: {', '.join(result.not_compared)}")
    for alarm in result.alarms:
        echo(f"ALARM {alarm.what} ({alarm.kind}): {alarm.why}")
        if alarm.rows:
            echo(f"      see llmops log show {listed(alarm.rows, 1)}")
    if result.alarms:
        echo(f"a rollback {'may help' if result.cure.helps else 'is no cure'}: {result.cure.why}")
    else:
        echo("no alarm" if not result.note else f"no alarm: {result.note}")
    budget = result.expected_false_alarms_per_month
    say(f"at most {budget:g} false alarms a month are expected, run daily")


def _drift_table(title: str, descriptors: Mapping[str, DescriptorDrift]) -> None:
    rows = []
    for name, drift in descriptors.items():
        levels = (_shown(drift.before), _shown(drift.after), number(drift.result.effect))
        rows.append((name, drift.result.test, *levels, f"{drift.p_adjusted:.3g}", "yes" if drift.drifted else ""))
    print_table(title, ("descriptor", "test", "before#", "after#", "effect#", "p adjusted#", "drifted"), rows)


def _drifted(descriptors: Mapping[str, DescriptorDrift]) -> dict[str, DescriptorDrift]:
    return {name: drift for name, drift in descriptors.items() if drift.drifted}


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
