"""A sheet as one HTML page that asks nothing of any network. Every text is escaped where markup is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llmops.evaluation.reports.charts import Axis, axis_labels, mean_plot
from llmops.evaluation.reports.markup import Markup, element, joined
from llmops.evaluation.reports.page import page, section, table, write_page
from llmops.evaluation.reports.wording import NOTHING, count, interval, number
from llmops.factsheet.blocks import Block, Facts, Means, Note, Points, Quoted, Section, Table
from llmops.factsheet.contents import Factsheet, Metric
from llmops.factsheet.layout import sections, subtitle


def html(sheet: Factsheet) -> str:
    """The page as text."""
    return "".join(_pieces(sheet))


def write_html(sheet: Factsheet, path: Path) -> None:
    """Writes the page, making the file's folder. Raises CannotRun."""
    write_page(_pieces(sheet), path)


def _pieces(sheet: Factsheet) -> Iterator[str]:
    return page(f"{sheet.ref}: fact sheet", _body(sheet), script=False)


def _body(sheet: Factsheet) -> Iterator[str]:
    glance, *rest = sections(sheet)
    yield element("header", element("p", subtitle(sheet), class_="about"), element("h1", element("bdi", sheet.ref)))
    yield "<main>\n"
    # Set apart as reports set apart their verdict, and coloured by it.
    yield element("section", *_blocks(glance), id=glance.name, class_=f"verdict {_standing(sheet)}")
    for part in rest:
        yield section(part.heading, *_blocks(part), name=part.name)
    yield "</main>\n"


def _standing(sheet: Factsheet) -> str:
    verdicts = {gate.verdict for gate in sheet.gates if gate.current}
    return "fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "none"


def _blocks(part: Section) -> Iterator[Markup]:
    return (_block(block, part.heading) for block in part.blocks)


def _block(block: Block, heading: str) -> Markup:
    match block:
        case Note(text):
            return element("p", text)
        case Points(items):
            return element("ul", *(element("li", item) for item in items))
        case Quoted(caption, text):
            lines = [element("div", line, class_="line") for line in text.splitlines()]
            return element("figure", element("figcaption", caption), element("div", *lines, class_="diff", dir="auto"))
        case Facts(caption, rows):
            return _table(caption or heading, (), rows) if rows else Markup("")
        case Table(caption, columns, rows):
            return _table(caption, columns, rows) if rows else Markup("")
        case Means(caption, rows):
            return _means(caption, rows)


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """The first cell of each line is its heading; columns whose name ends in `#` are set right. Without columns the
    lines are names and values, which may be of any length."""
    kinds = ["figure" if column.endswith("#") else None for column in columns] or [None, None]
    head = [
        element("th", column.removesuffix("#"), scope="col", class_=kind)
        for column, kind in zip(columns, kinds, strict=False)
    ]
    return table(caption, head, (_line(row, kinds) for row in rows), "" if columns else "facts")


def _line(row: Sequence[str], kinds: Sequence[str | None]) -> Markup:
    cells = [
        element("td", element("bdi", cell), class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)
    ]  # fmt: skip
    return element("tr", element("th", element("bdi", row[0]), scope="row"), *cells)


def _means(caption: str, rows: Sequence[tuple[str, str, Metric]]) -> Markup:
    """Means with their intervals drawn, where they share a scale."""
    axis = _axis(metric for _, _, metric in rows)
    figures = [
        element("th", name, scope="col", class_="figure") for name in ("mean", "95 % interval", "rows", "failed")
    ]
    drawn = [element("th", axis_labels(axis, differences=False), scope="col", class_="plot")] if axis else []
    head = [element("th", "", scope="col"), *drawn, *figures]
    return table(caption, head, (_mean(what, word, metric, axis) for what, word, metric in rows), "standings")


def _mean(what: str, word: str, metric: Metric, axis: Axis | None) -> Markup:
    figures = [
        number(metric.mean),
        interval(metric.ci95),
        count(metric.n_scored),
        count(metric.n_failed) if metric.n_failed else NOTHING,
    ]
    name = joined([element("bdi", what), element("small", word) if word else None])
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", _plot(metric, axis), class_="plot") if axis else None,
        *(element("td", figure, class_="figure") for figure in figures),
    )


def _axis(metrics: Iterable[Metric]) -> Axis | None:
    """From 0 to 1, which shares and scores lie within; None where none does."""
    ends = [end for metric in metrics for end in _ends(metric)]
    return Axis(0.0, 1.0) if any(0 <= end <= 1 for end in ends) else None


def _plot(metric: Metric, axis: Axis) -> Markup | str:
    ends = _ends(metric)
    if metric.mean is None or any(not -0.05 <= end <= 1.05 for end in ends):
        return NOTHING
    return mean_plot(metric.mean, metric.ci95, axis)


def _ends(metric: Metric) -> list[float]:
    return [] if metric.mean is None else [metric.mean, *(metric.ci95 or ())]
