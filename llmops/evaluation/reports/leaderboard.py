"""The cells of one suite as one HTML page: their means with intervals, and which of their differences are real.

The page itself is leaderboard.html.
"""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from llmops.evaluation.reports.contents import Leaderboard, LeaderboardPair
from llmops.evaluation.reports.wording import cell_figures, failed_in_pairs, rank
from llmops.pages.charts import Axis
from llmops.pages.numbers import probability, signed
from llmops.pages.rendering import page, write_page


def leaderboard_html(board: Leaderboard) -> str:
    """The page as text."""
    cells, pairs = board["cells"], board["pairs"]
    ends = [end for cell in cells for end in cell["ci95"] or ([cell["mean"]] if cell["mean"] is not None else [])]
    return page(
        "llmops/evaluation/reports/leaderboard.html",
        title=f"Leaderboard of {board['suite']}",
        board=board,
        axis=Axis.around(ends),
        standings=[(rank(cell["rank_range"]), cell, cell_figures(cell)) for cell in cells],
        failed_in_pairs=failed_in_pairs(board),
        numbers=[
            Markup('<span title="{}">{}</span>#').format(cell["name"], place) for place, cell in enumerate(cells, 1)
        ],
        fields={(pair["better"], pair["worse"]): _field(pair, ahead=True) for pair in pairs}
        | {(pair["worse"], pair["better"]): _field(pair, ahead=False) for pair in pairs},
    )


def write_leaderboard_html(board: Leaderboard, path: Path) -> None:
    """Writes the page, making the file's folder. Raises CannotRun."""
    write_page([leaderboard_html(board)], path)


def _field(pair: LeaderboardPair, *, ahead: bool) -> tuple[str, str, str]:
    """How far one cell is ahead of another: the kind of its mark, mark and difference, how sure that is."""
    difference = signed(pair["difference"] if ahead else -pair["difference"])
    kind, mark = (("better", "▲") if ahead else ("worse", "▼")) if pair["real"] else ("undecided", "○")
    return kind, f"{mark} {difference}", probability(pair["p_adjusted"])
