"""A comparison as one HTML page: verdict, metrics, slices, what was compared, and the rows side by side.

The page itself is comparison.html, of a run that was compared with none judged.html; page.js lists the rows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports import wording
from llmops.evaluation.reports.contents import Judged, Report, Side
from llmops.evaluation.reports.prompt_diff import Line, prompt_diff
from llmops.evaluation.reports.row_selection import Selection, most_changed, select
from llmops.pages.charts import Axis
from llmops.pages.numbers import NOTHING, count, counted, number, printable, shortened
from llmops.pages.rendering import page, stream_page, write_page

MOST_ROWS = 2_000
LONGEST_TEXT = 20_000
_FIELDS = (
    "id", "inputs", "expectations", "tags", "contexts", "output_a", "output_b", "error_a", "error_b", "scores",
    "change",
)  # fmt: skip
_FOLDER = "llmops/evaluation/reports"
Entry = tuple[str, str, str]
Difference = tuple[str, str, MetricComparison]
"""Name, note, and the metric."""
Table = tuple[str, Axis | None, list[Difference]]
"""Caption, the axis that all lines share, None where each has its own, and the lines."""


def html(report: Report, *, most_rows: int = MOST_ROWS) -> str:
    """The page as text. most_rows: rows shown; those that changed most come first, and the page says what is cut."""
    return "".join(_pieces(report, most_rows))


def write_html(report: Report, path: Path, *, most_rows: int = MOST_ROWS) -> None:
    """Writes the page piece by piece, making the file's folder. Raises CannotRun."""
    write_page(_pieces(report, most_rows), path)


def write_verdict_html(judged: Judged, path: Path) -> None:
    """Writes the page of a run that was compared with none: its verdict and its means. Raises CannotRun."""
    write_page([page(f"{_FOLDER}/judged.html", title=judged["title"], report=judged, wording=wording)], path)


def _pieces(report: Report, most_rows: int) -> Iterator[str]:
    selection, metrics = select(report["rows"], most_rows, most_changed), report["comparison"]["metrics"]
    a, b = report["a"], report["b"]
    directions = {name: metric.higher_is_better for name, metric in metrics.items()}
    before, after = a["prompt_text"], b["prompt_text"]
    diff = None if before is None or after is None else prompt_diff(before, after)
    about = {"primary": report["primary"], "names": {"a": a["name"], "b": b["name"]}, "directions": directions}
    return stream_page(
        f"{_FOLDER}/comparison.html",
        script=f"{_FOLDER}/page.js",
        title=report["title"],
        report=report,
        wording=wording,
        axis_of=_axis,
        metric_tables=_metric_tables(report),
        slice_tables=_slice_tables(report),
        changes={name: changes for name, changes in selection.changes.items() if any(changes)},
        directions=directions,
        versions=sorted(_versions(a, b), key=lambda entry: entry[1] == entry[2]),
        measured=[*_usage(a, b), *_uncompared(report)],
        prompt_diff=diff,
        prompt_changed=any(isinstance(part, Line) and part.side != "both" for part in diff or ()),
        cut=selection.sentence("those that changed most"),
        slices=_slice_options(selection),
        metrics=dict.fromkeys((*metrics, *(name for row in selection.rows for name in row["scores"]))),
        about=showable(about),
        rows=(showable({name: row.get(name) for name in _FIELDS if name in row}) for row in selection.rows),
    )


# --- differences ------------------------------------------------------------------------------------------------------


def _metric_tables(report: Report) -> list[Table]:
    """The metrics of the scale 0 to 1 on one axis; all others each on its own."""
    shares: list[Difference] = []
    others: list[Difference] = []
    for name, metric in report["comparison"]["metrics"].items():
        is_share = 0 <= metric.a <= 1 and 0 <= metric.b <= 1
        (shares if is_share else others).append((name, _metric_note(report, name, metric), metric))
    tables = [("Metrics from 0 to 1", _axis(shares), shares), ("Metrics each on a scale of its own", None, others)]
    return [table for table in tables if table[-1]]


def _metric_note(report: Report, name: str, metric: MetricComparison) -> str:
    notes = ["decides"] if name == report["primary"] else []
    notes.append(wording.direction(metric.higher_is_better))
    for letter, side in (("A", report["a"]), ("B", report["b"])):
        found = side["metrics"].get(name)
        if found and found["n_failed"]:
            notes.append(f"no score in {counted(found['n_failed'], 'row')} of {letter}")
    return "; ".join(notes)


def _slice_tables(report: Report) -> list[Table]:
    """A table for each metric that was compared within slices; the slices of a tag together, the worst first."""

    def worst_first(line: Difference) -> tuple[str, float]:
        part, _, metric = line
        gained = wording.gain(metric.difference, metric.higher_is_better)
        return part.partition("=")[0], metric.difference if gained is None else gained

    by_metric: dict[str, list[Difference]] = {}
    for part, metrics in report["comparison"]["slices"].items():
        for name, metric in metrics.items():
            by_metric.setdefault(name, []).append((part, counted(metric.n, "row"), metric))
    return [
        (f"{name} in each slice", _axis(lines), sorted(lines, key=worst_first)) for name, lines in by_metric.items()
    ]


def _axis(lines: Iterable[Difference]) -> Axis:
    """Holds the ends of the intervals, or the difference where there is none."""
    return Axis.around_zero([end for *_, metric in lines for end in metric.ci95 or [metric.difference]])


# --- what was compared ------------------------------------------------------------------------------------------------


def _versions(a: Side, b: Side) -> list[Entry]:
    names = {"name": "name", "prompt": "prompt", "model": "model", "release": "release", "run": "run_id"}
    entries = [(label, _shown(a.get(name)), _shown(b.get(name))) for label, name in names.items()]
    params = dict.fromkeys((*a["params"], *b["params"]))
    return entries + [(name, _shown(a["params"].get(name)), _shown(b["params"].get(name))) for name in params]


def _usage(a: Side, b: Side) -> list[Entry]:
    """What the runs used, as far as either says."""
    measures = (
        ("tokens read", "tokens_in", count, ""),
        ("tokens written", "tokens_out", count, ""),
        ("cost", "cost", number, " USD"),
        ("time of generating", "seconds", number, " s"),
    )
    entries = []
    for label, name, write, unit in measures:
        values: list[Any] = [side.get(name) for side in (a, b)]
        if values != [None, None]:
            left, right = (NOTHING if value is None else write(value) + unit for value in values)
            entries.append((label, left, right))
    return entries


def _uncompared(report: Report) -> list[Entry]:
    """Metrics of whole runs, which have no value for each row and hence no paired comparison."""
    compared, a, b = report["comparison"]["metrics"], report["a"]["metrics"], report["b"]["metrics"]
    names = [name for name in dict.fromkeys((*a, *b)) if name not in compared]
    means = [[side[name]["mean"] if name in side else None for side in (a, b)] for name in names]
    return [(name, number(left), number(right)) for name, (left, right) in zip(names, means, strict=True)]


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- rows -------------------------------------------------------------------------------------------------------------


def _slice_options(selection: Selection) -> list[tuple[str, list[tuple[str, int]]]]:
    """The tags of the rows with their values, and how many rows have each."""
    found: dict[str, Counter[str]] = {}
    for row in selection.rows:
        for tag, value in row["tags"].items():
            found.setdefault(tag, Counter())[value] += 1
    return [(tag, sorted(values.items())) for tag, values in sorted(found.items())]


def showable(value: Any) -> Any:
    """The value with its texts printable and not too long, and numbers that JSON does not know as their names."""
    if isinstance(value, str):
        return shortened(printable(value), LONGEST_TEXT)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): showable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [showable(part) for part in value]
    return value
