"""A sheet as Markdown that reads well as it is, on a terminal too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from llmops.evaluation.reports.wording import NOTHING, count, interval, number, printable
from llmops.factsheet.blocks import Block, Facts, Means, Note, Points, Quoted, Table
from llmops.factsheet.contents import Factsheet, Metric
from llmops.factsheet.layout import sections, subtitle

# What means something to Markdown wherever it stands; at the beginning of a line; and between characters that are no
# part of a word. Whatever else stays as it is, so that `rouge_l` and `qa@2` can be read.
_EVERYWHERE = re.compile(r"""[\\`*<>\[\]|~$]|&(?=#|\w)|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@""")
_AT_THE_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#]))")
_ENTITY_FOR = {"@": "&#64;", "$": "&#36;"}  # a backslash would not keep GitHub from these


def markdown(sheet: Factsheet) -> str:
    """The whole sheet."""
    parts = [f"# {readable(sheet.ref)}", readable(subtitle(sheet))]
    for section in sections(sheet):
        parts.append(f"## {section.heading}")
        for block in section.blocks:
            parts += [text for text in _block(block) if text]
    return "\n\n".join(parts) + "\n"


def readable(text: str) -> str:
    """The text in one line, such that Markdown shows it as it is, wherever it stands."""
    return _AT_THE_START.sub(r"\1\\", cell(text))


def cell(text: str) -> str:
    """As `readable`, for the cell of a table, where a beginning means nothing."""
    line = " ".join(printable(text).split())
    return _EVERYWHERE.sub(lambda found: _ENTITY_FOR.get(found[0], f"\\{found[0]}"), line)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Note(text):
            yield readable(text)
        case Points(items):
            yield "\n".join(f"- {readable(item)}" for item in items)
        case Quoted(caption, text):
            yield f"{readable(caption)}:"
            yield _fenced(text)
        case Facts(caption, rows):
            yield from _titled(caption, ("", ""), rows)
        case Table(caption, columns, rows):
            yield from _titled(caption, columns, rows)
        case Means(caption, rows):
            yield from _titled(caption, _MEAN_COLUMNS, (_mean(*row) for row in rows))


_MEAN_COLUMNS = ("", "", "mean#", "95 % interval#", "rows#", "failed#")


def _mean(what: str, word: str, metric: Metric) -> tuple[str, ...]:
    failed = count(metric.n_failed) if metric.n_failed else NOTHING
    return what, word, number(metric.mean), interval(metric.ci95), count(metric.n_scored), failed


def _titled(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table below its caption, without columns that are empty all the way; nothing where it has no rows."""
    lines = [list(row) for row in rows]
    if not lines:
        return
    kept = [place for place, name in enumerate(columns) if name or any(line[place] for line in lines)]
    if caption:
        yield f"**{readable(caption)}**"
    head = " | ".join(cell(columns[place].removesuffix("#")) for place in kept)
    rule = " | ".join("---:" if columns[place].endswith("#") else "---" for place in kept)
    cells = (" | ".join(cell(line[place]) for place in kept) for line in lines)
    yield "\n".join(f"| {line} |" for line in (head, rule, *cells))


def _fenced(text: str) -> str:
    shown = printable(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
