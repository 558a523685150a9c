"""Reports as HTML pages: a comparison (verdict, metrics, slices, what was compared, the rows side by side), a run that
was compared with none, and a leaderboard.

The pages themselves are comparison.html, run.html and leaderboard.html; page.js lists the rows.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Literal

from markupsafe import Markup

from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports import wording
from llmops.evaluation.reports.contents import Leaderboard, LeaderboardPair, Report, Row, RunReport, Side
from llmops.evaluation.reports.wording import most_changed, select
from llmops.generation import Message
from llmops.pages.numbers import NOTHING, count, counted, number, printable, probability, shortened, signed
from llmops.pages.rendering import Axis, page, stream_page

_MOST_ROWS = 2_000
LONGEST_TEXT = 20_000
_FOLDER = "llmops/evaluation/reports"
Parts = tuple[tuple[str, bool], ...]
_UNCHANGED_AROUND = 3
_ALIKE = 0.5  # share of common words from which two lines are shown as one line that changed
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
Entry = tuple[str, str, str]
Difference = tuple[str, str, MetricComparison]
"""Name, note, and the metric."""
Table = tuple[str, Axis | None, list[Difference]]
"""Caption, the axis that all lines share, None where each has its own, and the lines."""


def report_html(report: RunReport) -> Iterator[str]:
    """The page piece by piece; of a comparison's rows, those that changed most, and how many were left out."""
    if not isinstance(report, Report):
        return stream_page(f"{_FOLDER}/run.html", title=report.title, report=report, wording=wording)
    selection, metrics = select(report.rows, _MOST_ROWS, most_changed), report.comparison.metrics
    a, b = report.a, report.b
    directions = {name: metric.higher_is_better for name, metric in metrics.items()}
    diff = None if a.prompt_text is None or b.prompt_text is None else prompt_diff(a.prompt_text, b.prompt_text)
    about = {"primary": report.primary, "names": {"a": a.name, "b": b.name}, "directions": directions}
    slices: dict[str, Counter[str]] = {}
    for row in selection.rows:
        for tag, value in row.a.row.tags.items():
            slices.setdefault(tag, Counter())[value] += 1
    return stream_page(
        f"{_FOLDER}/comparison.html",
        script=f"{_FOLDER}/page.js",
        title=report.title,
        report=report,
        wording=wording,
        axis_of=_axis,
        metric_tables=_metric_tables(report),
        slice_tables=_slice_tables(report),
        changes={name: changes for name, changes in selection.changes.items() if any(changes)},
        directions=directions,
        versions=_versions(a, b),
        measured=_measured(report),
        prompt_diff=diff,
        prompt_changed=any(isinstance(part, DiffLine) and part.side != "both" for part in diff or ()),
        cut=selection.sentence("those that changed most"),
        slices=[(tag, sorted(values.items())) for tag, values in sorted(slices.items())],
        metrics=dict.fromkeys((*metrics, *(name for row in selection.rows for name in row.scores))),
        about=showable(about),
        rows=(showable(_shown_row(row)) for row in selection.rows),
    )


# --- differences ------------------------------------------------------------------------------------------------------


def _metric_tables(report: Report) -> list[Table]:
    """The metrics of the scale 0 to 1 on one axis; all others each on its own."""
    shares: list[Difference] = []
    others: list[Difference] = []
    for name, metric in report.comparison.metrics.items():
        notes = ["decides"] if name == report.primary else []
        notes.append(wording.direction(metric.higher_is_better))
        for letter, side in (("A", report.a), ("B", report.b)):
            own = side.metrics.get(name)
            if own and own.n_failed:
                notes.append(f"no score in {counted(own.n_failed, 'row')} of {letter}")
        is_share = 0 <= metric.a <= 1 and 0 <= metric.b <= 1
        (shares if is_share else others).append((name, "; ".join(notes), metric))
    tables = [("Metrics from 0 to 1", _axis(shares), shares), ("Metrics each on a scale of its own", None, others)]
    return [table for table in tables if table[-1]]


def _slice_tables(report: Report) -> list[Table]:
    """A table for each metric that was compared within slices; the slices of a tag together, the worst first."""

    def worst_first(line: Difference) -> tuple[str, float]:
        part, _, metric = line
        gained = wording.gain(metric.difference, metric.higher_is_better)
        return part.partition("=")[0], metric.difference if gained is None else gained

    by_metric: dict[str, list[Difference]] = {}
    for part, metrics in report.comparison.slices.items():
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
    entries = [(label, _shown(getattr(a, name)), _shown(getattr(b, name))) for label, name in names.items()]
    params = dict.fromkeys((*a.params, *b.params))
    entries += [(name, _shown(a.params.get(name)), _shown(b.params.get(name))) for name in params]
    return sorted(entries, key=lambda entry: entry[1] == entry[2])  # those that differ first


def _measured(report: Report) -> list[Entry]:
    """What the runs used, as far as either says; and metrics of whole runs, which have no value for each row and hence
    no paired comparison."""
    a, b = report.a, report.b
    measures: tuple[tuple[str, float | None, float | None, Callable[[float], str], str], ...] = (
        ("tokens read", a.tokens_in, b.tokens_in, count, ""),
        ("tokens written", a.tokens_out, b.tokens_out, count, ""),
        ("cost", a.cost, b.cost, number, " USD"),
        ("time of generating", a.seconds, b.seconds, number, " s"),
    )
    entries = []
    for label, of_a, of_b, write, unit in measures:
        left, right = (NOTHING if value is None else write(value) + unit for value in (of_a, of_b))
        if (left, right) != (NOTHING, NOTHING):
            entries.append((label, left, right))
    for name in dict.fromkeys((*a.metrics, *b.metrics)):
        if name not in report.comparison.metrics:
            means = [side.metrics[name].mean if name in side.metrics else None for side in (a, b)]
            entries.append((name, number(means[0]), number(means[1])))
    return entries


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- rows -------------------------------------------------------------------------------------------------------------


def _shown_row(row: Row) -> dict[str, Any]:
    """A row as page.js reads it."""
    a, b, of_row = row.a, row.b, row.a.row
    return {
        "id": row.id,
        "inputs": of_row.inputs,
        "expectations": of_row.expectations,
        "tags": of_row.tags,
        "contexts": of_row.contexts,
        "output_a": a.output.text,
        "output_b": b.output.text,
        "error_a": a.output.error,
        "error_b": b.output.error,
        "scores": {
            name: {
                "a": a.scores[name].value,
                "b": b.scores[name].value,
                "rationale_a": a.scores[name].error or a.scores[name].rationale,
                "rationale_b": b.scores[name].error or b.scores[name].rationale,
            }
            for name in row.scores
        },
        "change": row.change,
    }


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


# --- the leaderboard --------------------------------------------------------------------------------------------------


def leaderboard_html(board: Leaderboard) -> str:
    """The page as text."""
    cells, pairs = board["cells"], board["pairs"]
    ends = [end for cell in cells for end in cell["ci95"] or ([cell["mean"]] if cell["mean"] is not None else [])]
    return page(
        "llmops/evaluation/reports/leaderboard.html",
        title=f"Leaderboard of {board['suite']}",
        board=board,
        axis=Axis.around(ends),
        standings=[(wording.rank(cell["rank_range"]), cell, wording.cell_figures(cell)) for cell in cells],
        failed_in_pairs=wording.failed_in_pairs(board),
        numbers=[
            Markup('<span title="{}">{}</span>#').format(cell["name"], place) for place, cell in enumerate(cells, 1)
        ],
        fields={(pair["better"], pair["worse"]): _field(pair, ahead=True) for pair in pairs}
        | {(pair["worse"], pair["better"]): _field(pair, ahead=False) for pair in pairs},
    )


def _field(pair: LeaderboardPair, *, ahead: bool) -> tuple[str, str, str]:
    """How far one cell is ahead of another: the kind of its mark, mark and difference, how sure that is."""
    difference = signed(pair["difference"] if ahead else -pair["difference"])
    kind, mark = (("better", "▲") if ahead else ("worse", "▼")) if pair["real"] else ("undecided", "○")
    return kind, f"{mark} {difference}", probability(pair["p_adjusted"])


# --- the prompt's text ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of the prompt's text. side: whose it is. parts: its text in pieces, and whether each differs."""

    side: Literal["both", "a", "b"]
    parts: Parts


def prompt_lines(turns: Sequence[Message]) -> list[str]:
    """The prompt as one text: each turn headed by its role."""
    return [line for turn in turns for line in (f"# {turn['role']}", *turn["content"].splitlines(), "")][:-1]


def prompt_diff(a: Sequence[Message], b: Sequence[Message]) -> list[DiffLine | list[str]]:
    """Both prompts in one column, as a reader of diffs expects: what a lost before what b gained. Lines that both
    share, far from any change, stand together in a list."""
    before, after = prompt_lines(a), prompt_lines(b)
    operations = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    diff: list[DiffLine | list[str]] = []
    for position, (kind, low_a, high_a, low_b, high_b) in enumerate(operations):
        lost, gained = before[low_a:high_a], after[low_b:high_b]
        if kind == "equal":
            head = _UNCHANGED_AROUND if position > 0 else 0
            tail = max(head, len(lost) - (_UNCHANGED_AROUND if position < len(operations) - 1 else 0))
            if tail - head <= _UNCHANGED_AROUND:
                head = tail  # as short as this, the lines say no less than their number
            around = [DiffLine("both", ((line, False),)) for line in lost]
            diff += [*around[:head], *([lost[head:tail]] if head < tail else []), *around[tail:]]
        else:
            pairs = [_marked(left or "", right or "") for left, right in zip_longest(lost, gained)]
            diff += [DiffLine("a", parts) for parts, _ in pairs[: len(lost)]]
            diff += [DiffLine("b", parts) for _, parts in pairs[: len(gained)]]
    return diff


def _marked(line_a: str, line_b: str) -> tuple[Parts, Parts]:
    """Both lines in pieces, with the words marked that only one of them has; each whole when they are not alike."""
    words_a, words_b = _WORDS.findall(line_a), _WORDS.findall(line_b)
    matcher = SequenceMatcher(None, words_a, words_b, autojunk=False)
    if not (words_a and words_b) or matcher.ratio() < _ALIKE:
        return ((line_a, False),), ((line_b, False),)
    parts_a, parts_b = [], []
    for kind, low_a, high_a, low_b, high_b in matcher.get_opcodes():
        parts_a.append(("".join(words_a[low_a:high_a]), kind != "equal"))
        parts_b.append(("".join(words_b[low_b:high_b]), kind != "equal"))
    return tuple(part for part in parts_a if part[0]), tuple(part for part in parts_b if part[0])
