"""`llmops monitor`: daemon, alarms, policy."""

from __future__ import annotations

import dataclasses
import getpass
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.errors import UsageError
from llmops.settings import Settings
from llmops.text_io import json_fields

if TYPE_CHECKING:
    from monitoring.act.alarm_book import AlarmBook, BookedAlarm
    from monitoring.act.outbox import Outbox
    from monitoring.daemon.loop import Tick
    from monitoring.decide.result import MonitorResult


@click.command()
@click.option("--every", default="60s", help="Interval between two looks at the log: 30s, 5m.")
@click.option("--window-at", default="00:00", help="UTC time of day at which the daily window ends.")
@click.option("--every-window", default="24h", help="Length of a window: 24h, or a fraction of a day.")
@click.option("--once", is_flag=True, help="Do everything that is due once, then exit; for a cron job.")
@json_option
@click.pass_context
def daemon(ctx: click.Context, every: str, window_at: str, every_window: str, once: bool, as_json: bool) -> None:
    """Monitor the log until SIGTERM: detect, alert and act.

    Each tick runs the sequential detectors over the new rows, tests a window that has closed, acts according to
    [policy] and sends alerts according to [alerts]. Two daemons on one log are safe: one works, the other waits.

    \b
    Example: llmops monitor daemon --every 60s --window-at 00:00
    """
    from llmops.api.production import record_verdict
    from llmops.json_logs import configure_logging
    from monitoring.config import read_config
    from monitoring.daemon.loop import Daemon
    from monitoring.daemon.work import LogWork, WindowSchedule
    from monitoring.release_actions import RegistryActuator

    settings = Settings.from_environment()
    configure_logging(settings.server_log)
    stop = threading.Event()

    def record(result: MonitorResult) -> str:
        run_id, notes = record_verdict(settings, result)
        for note in notes:
            say(note)
        return run_id

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    try:
        at = time.fromisoformat(window_at)
    except ValueError as error:
        raise UsageError(f"--window-at: {window_at!r} is no time of day such as 00:00") from error
    schedule = WindowSchedule(at, timedelta(seconds=_seconds("--every-window", every_window)))
    config = read_config(settings)
    pause, actuator = _seconds("--every", every), RegistryActuator(settings, stop)
    with LogWork(settings, config, schedule, lambda app: actuator.situation(app).champion) as work:
        if not once:
            say(f"watching {settings.home}; stop it with Ctrl-C")
        tick = Daemon(work, actuator, record, every=pause).run(stop, once=once)
    if once:
        value: dict[str, Any] = {"worked": tick is not None}
        if tick is not None:
            value |= {name: getattr(tick, name) for name in ("ingested", "alarms", "decided", "delivered", "failed")}
            listed: dict[str, list[Any]] = {"opened": tick.opened, "resolved": tick.resolved, "actions": tick.acted}
            value |= {name: [each.to_json() for each in items] for name, items in listed.items()}
        emit(as_json, value, lambda: _show_tick(tick))
        ctx.exit(3 if tick is not None and tick.failed else 1 if tick is not None and tick.alarms else 0)


@click.group()
def alarms() -> None:
    """The alarm book: current alarms, since when, and who handles them."""


@alarms.command("list")
@click.option("--app", help="Only this app's.")
@click.option("--all", "with_resolved", is_flag=True, help="Include alarms that are over.")
@json_option
def list_alarms(app: str | None, with_resolved: bool, as_json: bool) -> None:
    """Show current alarms, the actions taken, and whether all alerts were delivered.

    \b
    Example: llmops monitor alarms list --app assistant
    """
    with _books(Settings.from_environment()) as (book, outbox, engine):
        from monitoring.act.actions import read_actions
        from monitoring.act.prometheus import stage_counts

        entries = book.entries(app=app, resolved=with_resolved)
        actions = read_actions(engine, app=app)
        deliveries = outbox.deliveries()
        counts = stage_counts(engine)
    value = {
        "alarms": [entry.to_json() for entry in entries],
        "actions": [action.to_json() for action in actions],
        "deliveries": [dataclasses.asdict(item) for item in deliveries],
        "daemon": [dataclasses.asdict(item) for item in counts],
    }

    def show() -> None:
        _show_entries(entries)
        if actions:
            rows = []
            for each in actions:
                decided = each.decided_at.isoformat("T", "seconds") if each.decided_at else ""
                status = "dry run" if each.dry_run else each.status
                rows.append((decided, each.kind, each.release, status, each.why))
            print_table("actions", ("decided", "action", "release", "status", "why"), rows)
        for item in deliveries:
            if item.waiting or item.given_up:
                say(f"alerts to {item.channel}: {item.waiting} waiting, {item.given_up} given up: {item.last_error}")
        for count in counts:
            if count.failures:
                say(f"daemon, {count.stage}: {count.failures} of {count.runs} failed, lately: {count.last_error}")

    emit(as_json, value, show)


@alarms.command()
@click.argument("number", type=int)
@click.option("--by", help="Who handles it; default: your user name.")
@json_option
def ack(number: int, by: str | None, as_json: bool) -> None:
    """Acknowledge an alarm: while it lasts, it sends no further alerts and no policy acts on it.

    \b
    Example: llmops monitor alarms ack 7
    """
    with _books(Settings.from_environment()) as (book, _outbox, _engine):
        entry = book.acknowledge(number, by or getpass.getuser(), datetime.now(UTC))
    emit(as_json, entry.to_json(), lambda: _show_entries([entry]))


@click.group()
def policy() -> None:
    """Automatic actions on alarms."""


@policy.command("show")
@click.option("--app", help="Only this app's.")
@json_option
def show_policy(app: str | None, as_json: bool) -> None:
    """Show each app's policy, and what it would do about the current alarms. Takes no action.

    \b
    Example: llmops monitor policy show --app assistant
    """
    from monitoring.act.policy import Policy, decide
    from monitoring.config import read_config
    from monitoring.release_actions import RegistryActuator

    settings = Settings.from_environment()
    config = read_config(settings)
    actuator = RegistryActuator(settings, threading.Event())
    with _books(settings) as (book, _outbox, _engine):
        entries = book.entries(app=app)
    apps = sorted({*config.policies, *(entry.app for entry in entries)}) if app is None else [app]
    values, lines = [], []
    for name in apps:
        chosen, situation = config.policies.get(name, Policy()), actuator.situation(name)
        decision = decide(name, [entry for entry in entries if entry.app == name], chosen, situation)
        told = {"action": decision.action, "release": decision.release or None, "why": decision.why}
        asked = {"policy": dataclasses.asdict(chosen), "situation": json_fields(situation)}
        values.append({"app": name, **asked, "decision": told})
        mode = " (dry run)" if chosen.dry_run and chosen.action != "observe" else ""
        lines.append(f"{name}: {chosen.action}{mode}: {decision.why}")
    text = "\n".join(lines) or "no policies and no alarms: every app is only observed"
    emit(as_json, {"policies": values}, lambda: echo(text))


@contextmanager
def _books(settings: Settings) -> Iterator[tuple[AlarmBook, Outbox, Any]]:
    from monitoring.act.alarm_book import AlarmBook
    from monitoring.act.outbox import Outbox
    from monitoring.config import read_config
    from monitoring.store.database import open_database

    alerts = read_config(settings).alerts
    engine = open_database(settings.resolved_log_url)
    try:
        outbox = Outbox(engine, ())
        yield AlarmBook(engine, alerts, outbox), outbox, engine
    finally:
        engine.dispose()


def _show_entries(entries: list[BookedAlarm]) -> None:
    if not entries:
        echo("no alarm lasts")
        return
    rows = []
    for entry in entries:
        first, last = (moment.isoformat("T", "seconds") for moment in (entry.first_at, entry.last_at))
        alarm = (entry.id, entry.state, entry.what, entry.kind, entry.release or entry.app)
        rows.append((*alarm, first, last, entry.times, entry.why))
    print_table("alarms", ("#", "state", "what", "kind", "of", "first", "last", "times#", "why"), rows)
    say("rows of an alarm: `llmops monitor alarms list --json`; one of them: `llmops log show REQUEST_ID`")


def _show_tick(tick: Tick | None) -> None:
    if tick is None:
        echo("another daemon is at work: nothing was done")
        return
    echo(f"{tick.ingested} new rows, {tick.alarms} alarms last, {tick.delivered} alerts delivered")
    for app, why in tick.decided.items():
        echo(f"{app}: {why}")
    for action in tick.acted:
        mode = " (dry run)" if action.dry_run else ""
        echo(f"{action.kind} of {action.release}{mode}: {action.status}")
    if tick.failed:
        echo(f"failed: {', '.join(tick.failed)}; the lines above say why")


def _seconds(option: str, text: str) -> float:
    from monitoring.tables import seconds

    with suppress(ValueError):
        if seconds_given := seconds(text):
            return seconds_given
    raise UsageError(f"{option}: {text!r} is no duration such as 30s, 5m or 24h")
