"""A comparison or a leaderboard as Markdown: what a comment on a pull request shows. What it shows is in comparison.md,
run.md and leaderboard.md."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.evaluation.reports import wording
from llmops.evaluation.reports.contents import Leaderboard, Report, RunReport
from llmops.evaluation.reports.wording import select, worst_first
from llmops.pages.numbers import printable, shortened
from llmops.pages.rendering import render_blocks
from llmops.pages.tables import Block

_MOST_ROWS = 10
_MOST_SLICES = 20
_LONGEST_TEXT = 200
# What has a meaning in Markdown, HTML or GitHub's additions (mentions, issues, links, emoji), wherever it stands or at
# the beginning of a line.
_MEANINGFUL = re.compile(r"""[!"#$&*<>@\[\\\]^_`{|}~]|:(?=\S)|(?<=www)\.|^[-+=]|(?<=\d)[.)](?=\s|$)""", re.IGNORECASE)


def markdown(report: RunReport) -> str:
    """A comparison as a comment, the verdict's line first: at most 10 rows that got worse, 20 slices that moved. Of a
    run that was compared with none, the verdict and its means."""
    if not isinstance(report, Report):
        return _written("run", report=report)
    higher, comparison = report.primary_direction, report.comparison
    worse = (row for row in report.rows if (wording.gain(row.change, higher) or 0.0) < 0)
    moved = [
        (f"{part}: {name}", metric, False)
        for part, metrics in comparison.slices.items()
        for name, metric in metrics.items()
        if wording.effect(metric, chosen_beforehand=False) is not wording.Effect.UNDECIDED
    ]
    return _written(
        "comparison",
        report=report,
        quoted=_quoted,
        metrics=[(name, metric, name == report.primary) for name, metric in comparison.metrics.items()],
        moved=sorted(moved, key=lambda line: wording.gain(line[1].difference, line[1].higher_is_better) or 0.0),
        most_slices=_MOST_SLICES,
        worse=select(worse, _MOST_ROWS, worst_first(higher)),
    )


def leaderboard_markdown(board: Leaderboard) -> str:
    """The cells as a table, best first, and the differences that are real."""
    return _written("leaderboard", board=board)


def tables_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Tables and sentences, as results show them, under a title."""
    return _written("tables", title=title, blocks=blocks)


def escaped(text: str) -> str:
    """The text in one line, with every character that could mean something as a numeric entity: it stays itself
    wherever it is put, in a table's cell too."""
    return _MEANINGFUL.sub(lambda found: f"&#{ord(found[0])};", " ".join(printable(text).split()))


def _written(name: str, **values: Any) -> str:
    return render_blocks(f"llmops/evaluation/reports/{name}.md", wording=wording, e=escaped, **values)


def _quoted(value: Any, error: str | None = None) -> str:
    """Texts from outside, as code: there, nobody is mentioned and nothing is linked."""
    shown = f"failed: {error}" if error else " · ".join(_texts(value))
    return f"<code>{escaped(shortened(shown, _LONGEST_TEXT))}</code>" if shown.strip() else ""


def _texts(value: Any) -> list[str]:
    """Every text and number in a JSON value, each once."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return list(dict.fromkeys(text for part in value for text in _texts(part)))
    return [] if value is None else [str(value)]
