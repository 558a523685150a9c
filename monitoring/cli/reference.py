"""`llmops monitor reference`: list, show, pin."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.log import read_time
from llmops.cli.output import echo, emit, json_option, number, print_table, shown_time
from llmops.settings import Settings
from monitoring.cli.monitor import champion_of

if TYPE_CHECKING:
    from monitoring import PinnedReference
    from monitoring.store.summaries import Summary


@click.group()
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
    from monitoring import list_references

    found = list_references(Settings.from_environment(), app)
    value = {"references": [each.to_json() for each in found]}
    columns = ("app", "since", "until", "source", "release", "pinned at", "why")
    emit(as_json, value, lambda: print_table(f"{len(found)} references", columns, [_row(each) for each in found]))


@reference.command()
@click.argument("app")
@json_option
def show(app: str, as_json: bool) -> None:
    """Show the current reference and its statistics.

    \b
    Example: llmops monitor reference show assistant
    """
    from monitoring import reference_in_force

    settings = Settings.from_environment()
    pinned, frozen, awaited = reference_in_force(settings, app, champion_of(settings, app))
    levels = _levels(frozen.whole) if frozen is not None else {}
    value: dict[str, Any] = {
        "app": app,
        "reference": pinned.to_json() if pinned is not None else None,
        "rows": frozen.whole.rows if frozen is not None else None,
        "descriptors": levels,
        "awaited": {"release": awaited.release, "since": awaited.since.isoformat()} if awaited is not None else None,
    }

    def table() -> None:
        if pinned is None:
            echo(f"no reference is pinned for {app}")
        else:
            title = f"{app}: {pinned.why}, {value['rows'] or 'not yet counted'} rows"
            print_table(title, ("descriptor", "n#", "mean, share or commonest#"), [
                (name, each["n"], number(each["level"]) if isinstance(each["level"], float) else each["level"])
                for name, each in levels.items()
            ])  # fmt: skip
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
    from monitoring import pin_reference

    pinned = pin_reference(Settings.from_environment(), app, since, until, why, release=release)
    emit(as_json, pinned.to_json(), lambda: echo(f"{app}: compared with {_span(pinned)} from now on"))


def _levels(summary: Summary) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, numbers in summary.numbers.items():
        found[name] = {"n": numbers.n, "level": numbers.mean if numbers.n else None}
    for name, flags in summary.flags.items():
        found[name] = {"n": flags.n, "level": flags.share if flags.n else None}
    for name, labels in summary.labels.items():
        level = max(sorted(labels.counts), key=lambda label: labels.counts[label], default=None)
        found[name] = {"n": labels.n, "level": level}
    return dict(sorted(found.items()))


def _row(each: PinnedReference) -> tuple[Any, ...]:
    times = [shown_time(moment) for moment in (each.since, each.until, each.pinned_at)]
    return (each.app, times[0], times[1], each.source, each.release or "any", times[2], each.why)


def _span(each: PinnedReference) -> str:
    return f"the rows from {each.since.isoformat()} to {each.until.isoformat()}"
