"""`llmops audit` and `llmops factsheet`: what is on record about versions."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import echo, emit, json_option, print_table, say, shown_time, write_file
from llmops.cli.registry import open_registry
from llmops.errors import UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.audit import AuditEntry, Verification

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_FILE = click.Path(path_type=Path, dir_okay=False)


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
    value = {"entries": [entry.to_json() for entry in entries], "total": len(entries)}

    def table() -> None:
        rows = [
            (e.seq, shown_time(datetime.fromisoformat(e.at)), e.actor, e.action, e.subject, _told(e)) for e in entries
        ]
        print_table("Audit log", ("entry#", "at", "actor", "action", "subject", "what"), rows)

    emit(as_json, value, table)


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
        found = check(AuditLog(settings.resolved_log_url), head=head)
    else:
        registry = open_registry()
        found = check(registry.audit, registry.standings, head)
    emit(as_json, found.to_json(), lambda: _print(found))
    if not found.whole:
        sys.exit(1)


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
        before, after = details.get("before", {}), details.get("after", {})
        places = [place for place in sorted({*before, *after}) if before.get(place) != after.get(place)]
        moves = [f"{place} {before.get(place, 'none')} → {after.get(place, 'none')}" for place in places]
        return f"begins: {', '.join(moves)}; {details.get('why')}"
    if entry.action == "gate":
        against = details.get("against") or "no champion"
        return f"{details.get('suite')}: {details.get('verdict')} against {against}"
    if entry.action == "register":
        parts = [str(details[name]) for name in ("prompt", "model", "cycle") if details.get(name)]
        return " + ".join(parts) or f"sha256 {str(details.get('sha256'))[:12]}…"
    if entry.action in ("opening", "found"):
        standing = sorted(details.get("standing", {}).items())
        aliases = ", ".join(f"{place} {value}" for place, value in standing) or "nothing"
        return f"{'the log begins with' if entry.action == 'opening' else 'moved around the log:'} {aliases}"
    return ", ".join(f"{name}: {value}" for name, value in details.items())


@click.command()
@click.argument("version")
@click.option("--markdown", type=_FILE, help="Write Markdown to this file instead of the terminal.")
@click.option("--html", type=_FILE, help="Write one page that works offline.")
@json_option
def factsheet(version: str, markdown: Path | None, html: Path | None, as_json: bool) -> None:
    """One page with the recorded facts about a release or a tabular model, from the registry and the audit log only.

    It shows the version's parts, data and licences with hashes, who did what when, evaluations with intervals and
    slices, gates, periods as champion, alarms, known limits, and missing facts.

    \b
    Example: llmops factsheet assistant@1
    Example: llmops factsheet bike --html bike.html
    """
    from llmops.factsheet.collecting import make_factsheet
    from llmops.factsheet.rendering import markdown as as_markdown
    from llmops.factsheet.rendering import write_html

    sheet = make_factsheet(open_registry(), version)
    if markdown is not None:
        write_file(markdown, as_markdown(sheet))
    if html is not None:
        write_html(sheet, html)
        say(f"wrote {html}")
    if as_json or not (markdown or html):
        emit(as_json, sheet.to_json() if as_json else {}, lambda: echo(as_markdown(sheet), nl=False))
