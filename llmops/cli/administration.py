"""`llmops keys`, `llmops audit`, `llmops store` and `llmops ui`: gateway keys, the audit log, the MLflow store."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import FILE, echo, emit, json_option, print_table, say
from llmops.cli.registry import open_registry
from llmops.errors import CannotRun, UsageError
from llmops.processes import running
from llmops.settings import Settings, data_folder
from llmops.text_io import shown_time
from llmops.versions import whole_id

if TYPE_CHECKING:
    from llmops.audit import AuditEntry, Verification
    from llmops.keys import Key, KeyStore
    from llmops.registry import Store
    from llmops.registry.store_upgrade import StoreUpgrade

_POSITIVE = click.IntRange(1)
_HASH = re.compile(r"[0-9a-f]{64}\Z")


@click.group()
def keys() -> None:
    """Gateway keys: once one exists, every request needs one. Changes take effect within 2 s."""


@keys.command()
@click.option("--name", default="", show_default=False, help="Name of the key's owner, for people.")
@click.option(
    "--app", "apps", multiple=True, help="App that the key may use (repeatable); default: all, and bare models."
)
@click.option("--admin", is_flag=True, help="Also allow access to /metrics.")
@click.option(
    "--requests-per-minute", type=_POSITIVE, metavar="N", help="Beyond it, the reply is 429. Default: no limit."
)
@click.option("--tokens-per-minute", type=_POSITIVE, metavar="N", help="Input and output tokens. Default: no limit.")
@click.option("--tokens-per-day", type=_POSITIVE, metavar="N", help="Input and output tokens. Default: no limit.")
@click.option("--expires", type=click.FloatRange(0, 36500, min_open=True), metavar="DAYS", help="Default: never.")
@json_option
def create(
    name: str, apps: Sequence[str], admin: bool, expires: float | None, as_json: bool, **limits: int | None
) -> None:
    """Create a key and print it. It is shown only once, and stored hashed.

    \b
    Example: llmops keys create --name website --app assistant --requests-per-minute 600
    """
    store = _open_keys()
    until = None if expires is None else datetime.now(UTC) + timedelta(days=expires)
    key, text = store.create(name, apps=apps or None, admin=admin, expires_at=until, **limits)
    say(f"key {key.id}: keep what is printed, it is not shown again; clients send `Authorization: Bearer <key>`")
    emit(as_json, {**key.to_json(), "key": text}, lambda: echo(text))


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List keys, including revoked ones, without their secrets.

    \b
    Example: llmops keys list
    """
    stored = _open_keys().read()
    emit(as_json, {"keys": [key.to_json() for key in stored]}, lambda: _show_keys(stored))


@keys.command()
@click.argument("key_id", metavar="ID")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key permanently: gateways refuse it within 2 s. ID: from `list`, or its beginning, or the key itself.

    \b
    Example: llmops keys revoke 3f9c0a5d71e2
    """
    from llmops.keys import parse_key

    store = _open_keys()
    whole = parse_key(key_id)
    given = key_id if whole is None else whole[0]
    key = store.revoke(whole_id(given, [each.id for each in store.read()], "key", "llmops keys list"))
    if not store.has_live_key():
        say("no live key is left: gateways now let nobody in; `llmops keys create` makes one")
    emit(as_json, key.to_json(), lambda: echo(f"revoked {key.id}"))


def _open_keys() -> KeyStore:
    from llmops.keys import KeyStore

    settings = Settings.from_environment()
    return KeyStore(settings.resolved_log_url, home=settings.home)


def _show_keys(stored: Sequence[Key]) -> None:
    rows = []
    for key in stored:
        limits = [f"{name.replace('_', ' ')}: {value}" for name, value in key.limits().items() if value is not None]
        state = "live"
        if key.revoked_at is not None:
            state = f"revoked {shown_time(key.revoked_at)}"
        elif key.expires_at is not None:
            state = f"{'until' if key.live(datetime.now(UTC)) else 'expired'} {shown_time(key.expires_at)}"
        apps, admin = "all" if key.apps is None else ", ".join(key.apps), "yes" if key.admin else ""
        rows.append((key.id, key.name, apps, admin, ", ".join(limits), shown_time(key.created_at), state))
    print_table("Keys", ("id", "name", "apps", "admin", "limits", "created", "state"), rows)


@click.group()
def audit() -> None:
    """The audit log: who gated, promoted, forced, rolled back or changed traffic, and when. Altered entries are
    detected."""


@audit.command("list")
@click.option("--app", help="Only entries about this app or tabular model.")
@json_option
def list_entries(app: str | None, as_json: bool) -> None:
    """List the entries, oldest first. A move has two entries: one before it and one after it.

    \b
    Example: llmops audit list --app assistant
    """
    from llmops.audit import AuditLog

    entries = AuditLog(Settings.from_environment().resolved_log_url).entries(app)
    value = {"entries": [asdict(entry) for entry in entries], "total": len(entries)}

    rows = [(e.seq, shown_time(datetime.fromisoformat(e.at)), e.actor, e.action, e.subject, _told(e)) for e in entries]
    columns = ("entry#", "at", "actor", "action", "subject", "what")
    emit(as_json, value, lambda: print_table("Audit log", columns, rows))


@audit.command()
@click.option("--head", metavar="HASH", help="A head printed earlier; it must still be in the log.")
@click.option("--chain-only", is_flag=True, help="Do not compare with the aliases in the registry.")
@json_option
def verify(head: str | None, chain_only: bool, as_json: bool) -> None:
    """Check that no entry was altered, removed or inserted, and that the registry's aliases match the log.

    Keep a copy of the printed head elsewhere: only with it can you detect that entries at the end were removed.

    Exit code 1: the chain is broken, or an alias was moved without an entry, such as in MLflow's UI.

    \b
    Example: llmops audit verify
    """
    from llmops.audit import AuditLog
    from llmops.audit import verify as check

    if head is not None and not _HASH.match(head):
        raise UsageError("--head: must be the 64 hexadecimal digits that `llmops audit verify` printed")
    settings = Settings.from_environment()
    if chain_only:
        verification = check(AuditLog(settings.resolved_log_url), head=head)
    else:
        registry = open_registry()
        verification = check(registry.audit, registry.standings, head)
    emit(as_json, verification.to_json(), lambda: _print(verification))
    if not verification.whole:
        sys.exit(1)


def _print(verification: Verification) -> None:
    if verification.broken is not None:
        echo(f"BROKEN at entry {verification.broken.seq}: it {verification.broken.why}")
    else:
        head = f", head {verification.head}" if verification.head else ""
        echo(f"the chain is whole: {verification.entries} entries{head}")
    for moved in verification.differences:
        logged = " or ".join(ref or "none" for ref in moved.logged)
        echo(f"MOVED around the log: {moved.what} of {moved.name} is {moved.found or 'none'}, by the log {logged}")
    for entry in verification.unfinished:
        say(f"entry {entry.seq}: the {entry.action} of {entry.subject} was cut off; repeat the command to finish it")
    if verification.unaudited:
        say(f"no entry about {', '.join(verification.unaudited)}: the log began later, or is lost")


def _told(entry: AuditEntry) -> str:
    """The details in a few words."""
    details = entry.details
    if details.get("phase") == "done":
        return f"done (began with {details.get('of')})"
    if details.get("phase") == "intent":
        before, after = details.get("before", {}), details.get("after", {})
        changed = [alias for alias in sorted({*before, *after}) if before.get(alias) != after.get(alias)]
        moves = [f"{alias} {before.get(alias, 'none')} → {after.get(alias, 'none')}" for alias in changed]
        return f"begins: {', '.join(moves)}; {details.get('why')}"
    if entry.action == "gate":
        against = details.get("against") or "no champion"
        return f"{details.get('suite')}: {details.get('verdict')} against {against}"
    if entry.action == "register":
        parts = [str(details[name]) for name in ("prompt", "model", "cycle") if details.get(name)]
        return " + ".join(parts) or f"sha256 {str(details.get('sha256'))[:12]}…"
    if entry.action in ("opening", "found"):
        standing = sorted(details.get("standing", {}).items())
        aliases = ", ".join(f"{alias} {value}" for alias, value in standing) or "nothing"
        return f"{'the log begins with' if entry.action == 'opening' else 'moved around the log:'} {aliases}"
    return ", ".join(f"{name}: {value}" for name, value in details.items())


@click.group()
def store() -> None:
    """The MLflow store: bring its tables up to date for the installed MLflow."""


@store.command()
@click.option(
    "--backup", type=FILE, help="File to back up into; default: a new one beside the SQLite file, or in the home."
)
@click.option("--no-backup", is_flag=True, help="Make no backup, because you have one.")
@json_option
def upgrade(backup: Path | None, no_backup: bool, as_json: bool) -> None:
    """Upgrade the store to the tables of the installed MLflow: with a backup, and only if no row gets lost.

    Stop gateways, monitors and MLflow's server first; the command refuses while other processes have the SQLite file
    open, or other sessions use the PostgreSQL database, which is backed up with pg_dump. It says how to go back. A
    store behind MLflow's server is upgraded where the server runs.

    \b
    Example: llmops store upgrade
    """
    from llmops.registry.store_upgrade import upgrade_store

    if backup is not None and no_backup:
        raise UsageError("--backup and --no-backup exclude each other")
    upgrade = upgrade_store(Settings.from_environment(), say, backup, make_backup=not no_backup)
    emit(as_json, upgrade.to_json(), lambda: _show_upgrade(upgrade))


def _show_upgrade(upgrade: StoreUpgrade) -> None:
    if upgrade.before == upgrade.after:
        echo(f"{upgrade.store}: up to date for MLflow {upgrade.mlflow} (revision {upgrade.after})")
        return
    from llmops.registry.store_upgrade import MOVED

    rows = [
        (name, before, after, "MLflow made columns of some" if name in MOVED and after < before else "")
        for name, (before, after) in upgrade.rows.items()
        if before or after
    ]
    print_table("Rows", ("table", "before#", "after#", ""), rows)
    echo(f"{upgrade.store}: upgraded for MLflow {upgrade.mlflow}, from revision {upgrade.before} to {upgrade.after}")
    if upgrade.backup is not None:
        echo(f"backup: {upgrade.backup}")
        echo(str(upgrade.way_back))


@click.command()
@click.option("--host", default="127.0.0.1")
@click.option("--port", default=5000)
def ui(host: str, port: int) -> None:
    """Open MLflow's UI, where you can compare prompt versions row by row. Stop it with Ctrl-C, or SIGTERM.

    Its pages show the score that decides in a suite, and MLflow's assistant does not open by itself.

    \b
    Example: llmops ui --port 5000
    """
    from llmops.eval_runs.evaluations import read_suite
    from llmops.evaluation.suite import readable_suites
    from llmops.registry import Store
    from llmops.registry.mlflow_pages import COLUMNS_VARIABLE

    settings = Settings.from_environment()
    store = Store(settings)
    _check_free(host, port)
    suites, _ = readable_suites(data_folder(settings, "eval_sets"), partial(read_suite, settings))
    deciding = sorted({suite.gate.primary for suite in suites if suite.gate.primary})
    for line in _pages(store, f"http://{host}:{port}"):
        say(line)
    arguments = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    arguments += ["--default-artifact-root", settings.artifact_root, "--host", host, "--port", str(port)]
    arguments += ["--workers", "1", "--app-name", "llmops"]
    # Job execution would start a queue with several processes and 1.5 GB, and nothing here uses it.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", COLUMNS_VARIABLE: json.dumps(deciding)}
    with _sigterm_exits(), running(arguments, env=environment) as server:
        sys.exit(server.wait())


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """SIGTERM ends the block, instead of this process at once: the port is free again when the process has ended."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pages(store: Store, base: str) -> Iterator[str]:
    """Where to look: for each suite, its newest two runs side by side."""
    from llmops.recording.cell import COMPLETE_TAG, find_runs

    yield f"MLflow on {base}"
    for experiment in sorted(store.client.search_experiments(), key=lambda item: str(item.name)):
        runs = find_runs(store, [experiment.experiment_id], {COMPLETE_TAG: "true"}, most=2)
        if len(runs) == 2:
            newer, older = (run.info.run_id for run in runs)
            page = f"{base}/#/experiments/{experiment.experiment_id}/runs/{newer}/traces"
            yield f"  suite {experiment.name}: {page}?compareToRunUuid={older}"


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"port {port} cannot be used on {host} ({error.strerror}); choose another with --port"
            raise CannotRun(problem) from error
