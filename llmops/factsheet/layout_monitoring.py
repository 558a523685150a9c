"""How monitoring is told."""

from __future__ import annotations

from collections.abc import Iterator

from llmops.evaluation.reports.wording import NOTHING, count, counted, number
from llmops.factsheet.blocks import NOT_ON_RECORD, Block, Facts, Note, Table, time_or_unknown
from llmops.factsheet.contents import Monitoring

_DRY = {True: " (dry run)", False: ""}


def monitoring(found: Monitoring | None, unit: str = "request") -> Iterator[Block]:
    """Windows, alarms, and what was done about them. unit: what windows hold, in the singular."""
    if found is None:
        yield Note("No monitoring run is on record in which this version answered.")
        return
    budget = found.expected_false_alarms
    rows = [
        ("windows", count(found.windows)),
        *_extent(found, unit),
        ("windows with alarms", count(found.alarmed)),
        ("windows with too few rows", count(found.too_few)),
        (
            f"false alarms to expect in {found.expected_over}",
            NOT_ON_RECORD if budget is None else f"at most {budget:g}",
        ),
    ]
    yield Facts("Monitored", tuple(rows))
    if found.latest:
        yield _windows(found, unit)
    if found.alarms:
        yield _alarms(found)
    if found.unread:
        yield Note(f"{counted(found.unread, 'older window')} with alarms not told here.")
    if found.actions:
        acts = [(time_or_unknown(a.at), f"{a.what}{_DRY[a.dry_run]}", a.why, a.outcome) for a in found.actions]
        yield Table("What was done about alarms, by itself", ("when", "action", "why", "outcome"), tuple(acts))
    elif found.alarms:
        yield Note("No action of the monitor is on record.")


def _extent(found: Monitoring, unit: str) -> list[tuple[str, str]]:
    """How much the windows hold, and from when to when they are."""
    held = f"{unit}s in them"
    if found.last is not None:
        return [(held, count(found.rows)), ("first", found.first or NOT_ON_RECORD), ("last", found.last)]
    return [
        (held, f"{count(found.rows)}; what is in two windows, where they overlap, counts twice"),
        ("from", time_or_unknown(found.since)),
        ("to", time_or_unknown(found.until)),
    ]


def _window_column(found: Monitoring) -> str:
    return "window’s end" if found.last is None else "window"


def _alarms(found: Monitoring) -> Table:
    """Severities only where any has one: a column of nothing says nothing."""
    graded = any(alarm.severity for alarm in found.alarms)
    lines = tuple(
        (
            alarm.window or time_or_unknown(alarm.until),
            alarm.what,
            *((alarm.severity or NOTHING,) if graded else ()),
            "this version" if alarm.of_version else "all traffic",
            alarm.why,
        )
        for alarm in found.alarms
    )
    columns = (_window_column(found), "what", *(("severity",) if graded else ()), "seen in", "why")
    return Table("Alarms", columns, lines)


def _windows(found: Monitoring, unit: str) -> Table:
    """The newest windows; their errors where any has one."""
    columns = [_window_column(found), f"{unit}s#", "state", "alarms#"]
    lines = [
        [w.name or time_or_unknown(w.until), count(w.rows), w.state or NOT_ON_RECORD, count(w.alarms)]
        for w in found.latest
    ]
    error = found.error_metric or "error"
    for name, values in (
        (f"{error}#", [window.error for window in found.latest]),
        (f"{error}, estimated before labels#", [window.estimated_error for window in found.latest]),
    ):
        if any(value is not None for value in values):
            columns.append(name)
            lines = [[*line, number(value)] for line, value in zip(lines, values, strict=True)]
    older = found.windows - len(found.latest)
    caption = "Windows, the newest first" + (f"; {counted(older, 'older one')} not told" if older else "")
    return Table(caption, tuple(columns), tuple(tuple(line) for line in lines))
