import pytest

from llmops.errors import CannotRun
from llmops.evaluation.reports.leaderboard import leaderboard_html, write_leaderboard_html
from llmops.evaluation.reports.markdown import leaderboard_markdown
from llmops.evaluation.reports.wording import FAILED_IN_DIFFERENCES


def test_cells_stand_with_rank_range_mean_and_interval(read, board):
    found = read(leaderboard_html(board))
    assert [text for text in found.texts["td"] if "–" in text and text[0].isdigit()] == ["2–3", "2–3"]
    assert "0.700 to 0.900" in found.texts["small"]
    assert "1 without a score" in found.texts["small"]
    assert {"1 (5.0 %)", "9 (45.0 %)", "0"} <= set(found.texts["td"])
    assert found.tags.count("svg") == 4


def test_the_matrix_shows_each_difference_from_both_cells_and_marks_those_that_are_real(read, board):
    fields = [text for text in read(leaderboard_html(board)).texts["td"] if text[0] in "▲▼○"]
    assert fields == ["▲ +0.200", "▲ +0.250", "▼ −0.200", "○ +0.050", "▼ −0.250", "○ −0.050"]


def test_a_difference_that_is_not_that_of_the_means_says_how_failed_rows_count(read, board):
    assert FAILED_IN_DIFFERENCES in read(leaderboard_html(board)).texts["p"]
    assert "a mean of one run alone is that of its scored rows" in leaderboard_markdown(board)
    whole = {**board, "cells": [cell | {"n_failed": 0} for cell in board["cells"]]}
    assert FAILED_IN_DIFFERENCES not in read(leaderboard_html(whole)).texts["p"]
    assert "scored rows" not in leaderboard_markdown(whole)


def test_rows_that_only_the_scorer_failed_on_stand_as_failed_in_every_leaderboard(read, board):
    board["cells"][0] |= {"n_scored": 16, "n_failed": 4, "mean": 0.8}
    assert board["cells"][0]["answers"]["failed"] == 0
    assert "4 (20.0 %)" in read(leaderboard_html(board)).texts["td"]
    assert "| 16 | 4 (20.0 %) |" in leaderboard_markdown(board)


def test_names_of_cells_are_escaped_and_the_page_runs_no_script(read, board):
    found = read(leaderboard_html(board))
    assert "b" not in found.tags
    assert "script" not in found.tags
    assert "<b>small</b>" in found.texts["bdi"]


def test_a_cell_without_any_score_has_no_plot_and_no_mean(read, board):
    board["cells"][0] |= {"mean": None, "ci95": None}
    assert read(leaderboard_html(board)).tags.count("svg") == 3


def test_a_single_cell_has_nothing_to_differ_from(read, board):
    alone = {**board, "cells": board["cells"][:1], "pairs": []}
    assert read(leaderboard_html(alone)).texts["h2"] == ["Standings"]


def test_the_page_is_written_or_the_failure_says_where(board, tmp_path):
    write_leaderboard_html(board, tmp_path / "board.html")
    assert (tmp_path / "board.html").read_text(encoding="utf-8") == leaderboard_html(board)
    with pytest.raises(CannotRun, match="cannot write the report to"):
        write_leaderboard_html(board, tmp_path)
