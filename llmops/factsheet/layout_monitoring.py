"""How monitoring is told."""

from __future__ import annotations

from collections.abc import Iterator

from llmops.evaluation.reports.wording import NOTHING, count, counted, number
from llmops.factsheet.blocks import NOT_ON_RECORD, Block, Facts, Note, Table, time_or_unknown
from llmops.factsheet.contents import Monitoring

_DRY = {True: " (dry run)", False: ""}


def monitoring(found: Monitoring | None) -> Iterator[Block]:
    """Windows, alarms, and what was done about them."""
    if found is None:
        yield Note("No monitoring run is on record in which this version answered.")
        return
    budget = found.expected_false_alarms
    rows = [
        ("windows", count(found.windows)),
        ("requests in them", f"{count(found.rows)}, in each window where windows overlap"),
        ("from", time_or_unknown(found.since)),
        ("to", time_or_unknown(found.until)),
        ("windows with alarms", count(found.alarmed)),
        ("windows with too few rows", count(found.too_few)),
        ("false alarms to expect in a month", NOT_ON_RECORD if budget is None else f"at most {budget:g}"),
    ]
    yield Facts("Monitored", tuple(rows))
    if found.latest:
        yield _windows(found)
    if found.alarms:
        lines = [
            (
                time_or_unknown(a.until),
                a.what,
                a.severity or NOTHING,
                "this version" if a.of_version else "all traffic",
                a.why,
            )
            for a in found.alarms
        ]
        yield Table("Alarms", ("window’s end", "what", "severity", "seen in", "why"), tuple(lines))
    if found.unread:
        yield Note(f"{counted(found.unread, 'older window')} with alarms not told here.")
    if found.actions:
        acts = [(time_or_unknown(a.at), f"{a.what}{_DRY[a.dry_run]}", a.why, a.outcome) for a in found.actions]
        yield Table("What was done about alarms, by itself", ("when", "action", "why", "outcome"), tuple(acts))
    elif found.alarms:
        yield Note("No action of the monitor is on record.")


def _windows(found: Monitoring) -> Table:
    """The newest windows; their errors where any has one."""
    columns = ["window’s end", "requests#", "state", "alarms#"]
    lines = [[time_or_unknown(w.until), count(w.rows), w.state or NOT_ON_RECORD, count(w.alarms)] for w in found.latest]
    for name, values in (
        ("error#", [window.error for window in found.latest]),
        ("estimated before labels#", [window.estimated_error for window in found.latest]),
    ):
        if any(value is not None for value in values):
            columns.append(name)
            lines = [[*line, number(value)] for line, value in zip(lines, values, strict=True)]
    older = found.windows - len(found.latest)
    caption = "Windows, the newest first" + (f"; {counted(older, 'older one')} not told" if older else "")
    return Table(caption, tuple(columns), tuple(tuple(line) for line in lines))
