"""`llmops monitor`: run, report, reference, replay and ui; daemon and what belongs to it are in a file of their own."""

from __future__ import annotations

import socket
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from llmops.api.production import champion_of, chosen_app, monitor
from llmops.cli import CommandGroup
from llmops.cli.log import read_time, window_options
from llmops.cli.output import echo, emit, emit_result, json_option, on_option, print_table, say
from llmops.errors import CannotRun
from llmops.pages.numbers import number
from llmops.progress import progress_bar
from llmops.settings import Settings
from llmops.text_io import shown_time
from monitoring.cli.log_archive import say_waiting


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
def run(ctx: click.Context, /, no_record: bool, as_json: bool, **options: Any) -> None:
    """Test the current window against the reference; exit 1 on an alarm.

    If no reference is pinned yet, the rows before --since become the reference.

    \b
    Example: llmops monitor run --app assistant --since 24h
    Example: llmops monitor run --archive s3://llmops-log/production --on ray://head:10001
    """
    monitored = monitor(**options, record=not no_record, waiting=say_waiting)
    emit_result(as_json, monitored)
    if not as_json:
        say(
            f"at most {monitored.result.expected_false_alarms_per_month:g} false alarms a month are expected, run daily"
        )
    ctx.exit(1 if monitored.alarm else 0)


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
    path = write_report(settings, name, file, since, until, champion=_champion_of(settings, name))
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

    references = list_references(Settings.from_environment(), app)
    rows = []
    for each in references:
        since, until, pinned_at = map(shown_time, (each.since, each.until, each.pinned_at))
        rows.append((each.app, since, until, each.source, each.release or "any", pinned_at, each.why))
    columns = ("app", "since", "until", "source", "release", "pinned at", "why")
    value = {"references": [each.to_json() for each in references]}
    emit(as_json, value, lambda: print_table(f"{len(references)} references", columns, rows))


@reference.command()
@click.argument("app")
@json_option
def show(app: str, as_json: bool) -> None:
    """Show the current reference and its statistics.

    \b
    Example: llmops monitor reference show assistant
    """
    from monitoring.decide.drift import level
    from monitoring.store.summaries import Part
    from monitoring.stores import opened

    settings = Settings.from_environment()
    champion = _champion_of(settings, app)
    with opened(settings) as stores:
        pinned, awaited = stores.references.pinned(app, champion), stores.references.awaited(app, champion)
        frozen = stores.references.frozen(pinned) if pinned is not None else None
    parts: dict[str, Part] = {}
    if frozen is not None:
        parts = {**frozen.whole.numbers, **frozen.whole.flags, **frozen.whole.labels}
    value: dict[str, Any] = {
        "app": app,
        "reference": pinned.to_json() if pinned is not None else None,
        "rows": frozen.whole.rows if frozen is not None else None,
        "descriptors": {name: {"n": part.n, "level": level(part)} for name, part in sorted(parts.items())},
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
@click.option("--months", default=100, type=click.IntRange(0), help="Simulated months; 0 for none.")
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
    champion = _champion_of(settings, name)
    with progress_bar() as bar:
        replayed = replay_past(
            settings, name, until, months=months, progress=partial(bar, "replaying"), champion=champion
        )

    def show() -> None:
        if replayed.alarms:
            rows = [(alarm.since.isoformat(), alarm.kind, alarm.what) for alarm in replayed.alarms]
            print_table(f"{name}: what alarmed", ("window from", "rule", "what"), rows)
        low, high = replayed.interval
        untested = f"{replayed.untested} had too few rows to be tested"
        echo(f"{replayed.alarmed} of {replayed.windows} windows alarmed ({untested})")
        echo(
            f"that is {number(replayed.per_month)} a month (95 % interval {number(low)} to {number(high)}); "
            f"stated: at most {replayed.stated['total']:g}"
        )
        if replayed.resampled is not None:
            echo(f"{replayed.resampled.alarmed} of {replayed.resampled.months} resampled months had an alarm")

    emit(as_json, {"app": name, **replayed.to_json()}, show)


@command.command()
@click.option("--port", default=8001)
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


def _champion_of(settings: Settings, app: str) -> str | None:
    champion, notes = champion_of(settings, app)
    for note in notes:
        say(note)
    return champion


def report_path(settings: Settings, app: str) -> Path:
    """Where an app's report lies unless told otherwise."""
    return settings.reports_dir / f"monitor-{app}.html"


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
