"""The cells of one suite as one HTML page: their means with intervals, and which of their differences are real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmops.evaluation.reports.charts import Axis, axis_labels, mean_plot
from llmops.evaluation.reports.contents import Leaderboard, LeaderboardCell, LeaderboardPair
from llmops.evaluation.reports.markup import Markup, element, joined
from llmops.evaluation.reports.page import page, section, table, write_page
from llmops.evaluation.reports.wording import (
    NOTHING,
    cell_figures,
    count,
    counted,
    failed_in_pairs,
    interval,
    number,
    probability,
    rank,
    signed,
)


def leaderboard_html(board: Leaderboard) -> str:
    """The page as text."""
    return "".join(_pieces(board))


def write_leaderboard_html(board: Leaderboard, path: Path) -> None:
    """Writes the page, making the file's folder. Raises CannotRun."""
    write_page(_pieces(board), path)


def _pieces(board: Leaderboard) -> Iterator[str]:
    return page(f"Leaderboard of {board['suite']}", _body(board), script=False)


def _body(board: Leaderboard) -> Iterator[str]:
    about = element(
        "p", f"Suite {board['suite']} · {counted(board['rows'], 'row')} · {board['primary']}", class_="about"
    )
    yield element("header", about, element("h1", f"Leaderboard of {board['suite']}"))
    yield "<main>\n"
    ranks = "Ranks are a range where the data cannot tell cells apart. Intervals are of 95 % each."
    yield section("Standings", element("p", ranks, class_="note"), _standings(board), name="standings")
    if board["pairs"]:
        yield section("Which differences are real", *_differences(board), name="differences")
    yield "</main>\n"


def _standings(board: Leaderboard) -> Markup:
    cells = board["cells"]
    ends = [end for cell in cells for end in cell["ci95"] or ([cell["mean"]] if cell["mean"] is not None else [])]
    axis = Axis.around(ends)
    title = element("span", f"{board['primary']}, with 95 % interval")
    plot = element("th", title, axis_labels(axis, differences=False), scope="col", class_="plot")
    names = ("mean", "rows scored", "failed", "cut off", "empty", "tokens written", "cost, USD", "median ms")
    figures = [element("th", name, scope="col", class_="figure") for name in names]
    head = [element("th", "rank", scope="col", class_="figure"), "cell", plot, *figures]
    return table("Cells by mean, best first", head, (_standing(cell, axis) for cell in cells), "standings")


def _standing(cell: LeaderboardCell, axis: Axis) -> Markup:
    mean, failed = cell["mean"], cell["n_failed"]
    drawn = mean_plot(mean, cell["ci95"], axis) if mean is not None else NOTHING
    figures: list[tuple[str, str | None]] = [
        (number(mean), interval(cell["ci95"])),
        (count(cell["n_scored"]), f"{count(failed)} without a score" if failed else None),
        *((figure, None) for figure in cell_figures(cell)),
        (count(cell["tokens_out"]), None),
        (number(cell["cost"]), None),
        (count(cell["latency_ms_p50"]), None),
    ]
    return element(
        "tr",
        element("td", rank(cell["rank_range"]), class_="figure"),
        element("th", element("bdi", cell["name"]), scope="row"),
        element("td", drawn, class_="plot"),
        *(element("td", text, element("small", note) if note else None, class_="figure") for text, note in figures),
    )


def _differences(board: Leaderboard) -> list[Markup]:
    """A matrix over the cells: each field says how far the line's cell is ahead of the column's."""
    names = [cell["name"] for cell in board["cells"]]
    by_cells = {(pair["better"], pair["worse"]): pair for pair in board["pairs"]}
    numbers = [
        element("th", str(place + 1), scope="col", class_="figure", title=name) for place, name in enumerate(names)
    ]
    lines = []
    for place, name in enumerate(names):
        title = element("th", f"{place + 1} ", element("bdi", name), scope="row")
        lines.append(element("tr", title, *(_field(name, other, by_cells) for other in names)))
    note = "▲ the line’s cell is ahead of the column’s, ▼ behind, both for real; ○ the rows cannot tell them apart."
    matrix = table("Differences between cells", ["", *numbers], lines, "matrix")
    failed = failed_in_pairs(board)
    return [element("p", note, class_="note"), *([element("p", failed, class_="note")] if failed else []), matrix]


def _field(line: str, column: str, by_cells: dict[tuple[str, str], LeaderboardPair]) -> Markup:
    ahead, behind = by_cells.get((line, column)), by_cells.get((column, line))
    pair = ahead or behind
    if pair is None:
        return element("td", "" if line == column else NOTHING, class_="figure")
    difference = signed(pair["difference"] if ahead else -pair["difference"])
    if pair["real"]:
        mark, kind = ("▲", "better") if ahead else ("▼", "worse")
    else:
        mark, kind = "○", "undecided"
    shown = joined([f"{mark} {difference}", element("small", probability(pair["p_adjusted"]))])
    return element("td", shown, class_=f"figure {kind}")
