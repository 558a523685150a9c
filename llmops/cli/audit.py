"""`llmops audit`: list, verify."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, json_option, print_table, say, shown_time
from llmops.errors import UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.audit import AuditEntry, Verification

_HASH = re.compile(r"[0-9a-f]{64}\Z")


@click.group()
def command() -> None:
    """The audit log: who gated, promoted, forced, rolled back or changed traffic, and when. Altered entries are
    detected."""


@command.command("list")
@click.option("--app", help="Only entries about this app or tabular model.")
@json_option
def list_entries(app: str | None, as_json: bool) -> None:
    """List the entries, oldest first. A move has two entries: one before it and one after it.

    \b
    Example: llmops audit list --app assistant
    """
    from llmops.audit import AuditLog

    entries = AuditLog(Settings.from_environment().resolved_log_url).entries(app)
    value = {"entries": [entry.to_json() for entry in entries], "total": len(entries)}
    emit(as_json, value, lambda: _table(entries))


@command.command()
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
        found = check(AuditLog(settings.resolved_log_url), head=head)
    else:
        from llmops.registry import Registry

        registry = Registry(settings)
        found = check(registry.audit, registry.standings, head)
    emit(as_json, found.to_json(), lambda: _print(found))
    if not found.whole:
        sys.exit(1)


def _table(entries: Sequence[AuditEntry]) -> None:
    times = [shown_time(datetime.fromisoformat(entry.at)) for entry in entries]
    rows = [(e.seq, at, e.actor, e.action, e.subject, _told(e)) for e, at in zip(entries, times, strict=True)]
    print_table("Audit log", ("entry#", "at", "actor", "action", "subject", "what"), rows)


def _print(found: Verification) -> None:
    chain = found.chain
    if chain.broken is not None:
        echo(f"BROKEN at entry {chain.broken.seq}: it {chain.broken.why}")
    else:
        head = f", head {chain.head}" if chain.head else ""
        echo(f"the chain is whole: {chain.entries} entries{head}")
    for moved in found.differences:
        logged = " or ".join(ref or "none" for ref in moved.logged)
        echo(f"MOVED around the log: {moved.what} of {moved.name} is {moved.found or 'none'}, by the log {logged}")
    for entry in found.unfinished:
        say(f"entry {entry.seq}: the {entry.action} of {entry.subject} was cut off; repeat the command to finish it")
    if found.unaudited:
        say(f"no entry about {', '.join(found.unaudited)}: the log began later, or is lost")


def _told(entry: AuditEntry) -> str:
    """The details in a few words."""
    details = entry.details
    if details.get("phase") == "done":
        return f"done (began with {details.get('of')})"
    if details.get("phase") == "intent":
        return f"begins: {_changes(details)}; {details.get('why')}"
    told = _TOLD.get(entry.action)
    return told(details) if told is not None else ", ".join(f"{name}: {value}" for name, value in details.items())


def _changes(details: Mapping[str, Any]) -> str:
    before, after = details.get("before", {}), details.get("after", {})
    places = [place for place in sorted({*before, *after}) if before.get(place) != after.get(place)]
    return ", ".join(f"{place} {before.get(place, 'none')} → {after.get(place, 'none')}" for place in places)


def _standing(standing: Mapping[str, str]) -> str:
    return ", ".join(f"{place} {value}" for place, value in sorted(standing.items())) or "nothing"


def _registered(details: Mapping[str, Any]) -> str:
    parts = [details.get(name) for name in ("prompt", "model", "cycle") if details.get(name)]
    return " + ".join(map(str, parts)) or f"sha256 {str(details.get('sha256'))[:12]}…"


_TOLD: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "gate": lambda d: f"{d.get('suite')}: {d.get('verdict')} against {d.get('against') or 'no champion'}",
    "register": _registered,
    "opening": lambda d: f"the log begins with {_standing(d.get('standing', {}))}",
    "found": lambda d: f"moved around the log: {_standing(d.get('standing', {}))}",
}
