"""`llmops monitor replay`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from llmops.cli.log import read_time
from llmops.cli.output import echo, emit, json_option, number, print_table, progress_bar
from llmops.settings import Settings
from monitoring.cli.monitor import champion_of, chosen_app

if TYPE_CHECKING:
    from monitoring.decide.replay import Replay


@click.command()
@click.option("--app", help="Only this app's records.")
@click.option("--until", callback=read_time, metavar="TIME", help="End of the quiet past; default: now.")
@click.option(
    "--months", default=100, show_default=True, type=click.IntRange(0), help="Months to resample; 0 for none."
)
@json_option
def replay(app: str | None, until: datetime | None, months: int, as_json: bool) -> None:
    """Measure false alarms on the log's past after the reference, and compare them with the stated budget.

    This is valid only if nothing was wrong in that past: a real change counts as an alarm, too.

    \b
    Example: llmops monitor replay --app assistant --until 1d
    """
    from monitoring import replay_past

    settings = Settings.from_environment()
    name = chosen_app(settings, app)
    with progress_bar() as show:
        found = replay_past(
            settings,
            name,
            until,
            months=months,
            progress=lambda done, total: show("replaying", done, total),
            champion=champion_of(settings, name),
        )
    emit(as_json, {"app": name, **found.to_json()}, lambda: _show(name, found))


def _show(app: str, found: Replay) -> None:
    if found.alarms:
        rows = [(alarm.since.isoformat(), alarm.kind, alarm.what) for alarm in found.alarms]
        print_table(f"{app}: what alarmed", ("window from", "rule", "what"), rows)
    low, high = found.interval
    echo(f"{found.alarmed} of {found.windows} windows alarmed ({found.untested} had too few rows to be tested)")
    echo(
        f"that is {number(found.per_month)} a month (95 % interval {number(low)} to {number(high)}); "
        f"stated: at most {found.stated['total']:g}"
    )
    if found.resampled is not None:
        echo(f"{found.resampled.alarmed} of {found.resampled.months} resampled months had an alarm")
