"""Reports of runs that were really recorded: pages, Markdown, JUnit, and ranks that real differences allow."""

import math
from dataclasses import replace
from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.eval_runs.evaluations import CellRun
from llmops.eval_runs.report_contents import _order, _pairs, leaderboard, report_contents
from llmops.evaluation.reports.html import leaderboard_html
from llmops.evaluation.reports.markdown import leaderboard_markdown
from llmops.evaluation.results import Score
from tests.eval_runs.conftest import add_three_cells
from tests.evaluation.conftest import MadeUpScorer
from tests.registered_home import Workshop

N = 40


@pytest.fixture(scope="module")
def done(workshop: Workshop) -> list[CellRun]:
    """Three cells: board@1 answers all rows right, board@2 none, board@3 all."""
    gate = 'rule = "not-worse"\nmargin = 0.1\n[gate.floors]\ncorrect = 0.9\n'
    add_three_cells(workshop, "board", N, "<odd> & só", gate)
    return workshop.run(["board@1", "board@2", "board@3"], suite="board")


@pytest.fixture(scope="module")
def report(workshop: Workshop, done: list[CellRun]) -> Any:
    evaluations = workshop.evaluations
    gated = evaluations.gate("board@2", "board@1", "board")
    suite = evaluations.suite("board")
    assert gated.comparison is not None
    return report_contents(evaluations, suite, gated.runs, "board@2", gated.comparison, gated.verdict)


def test_a_report_tells_of_both_runs_and_its_rows_start_anew_each_time(report, done):
    assert (report.title, report.suite, report.primary) == ("board@1 → board@2", "board", "correct")
    for side, item in ((report.a, done[0]), (report.b, done[1])):
        assert (side.run_id, side.prompt, side.model) == (item.run.run_id, item.run.prompt, "tiny@1")
        assert side.metrics["correct"] == item.run.metrics["correct"]
        assert side.tokens_out == item.run.usage["tokens_out"] > 0
        assert side.release is None
    assert [turn["content"] for turn in report.b.prompt_text] == ["Be short.", "{{ question }}"]
    assert report.verdict.verdict == "fail"
    assert report.comparison.metrics["correct"].losses == N
    first = list(report.rows)
    assert len(first) == N
    assert first == list(report.rows)
    row = first[3]
    assert (row.id, row.a.row.inputs, row.a.row.tags) == ("board-3", {"question": "Is 3 <odd> & só?"}, {"half": "1"})
    assert (row.a.output.text, row.b.output.text) == ("You said: Is 3 <odd> & só?", "You")
    assert (row.change, row.a.output.error, row.b.output.error) == (-1.0, None, None)
    assert (row.a.scores["correct"].value, row.b.scores["correct"].value) == (True, False)


def test_a_report_without_a_verdict_says_none(workshop, done):
    evaluations = workshop.evaluations
    comparison = evaluations.compare("board@1", "board@3")
    runs = {"a": done[0].run, "b": done[2].run}
    found = report_contents(evaluations, evaluations.suite("board"), runs, "board@3", comparison)
    assert found.verdict is None
    assert {row.change for row in found.rows} == {0.0}


# Leaderboards


def turned(workshop: Workshop, worst: float | None) -> Any:
    """The suite, with a primary metric that is better the lower it is. worst: None where no number is, as of a time."""
    suite = workshop.evaluations.suite("board")
    [scorer] = [scorer for scorer in suite.make_scorers() if scorer.name == "correct"]
    kind = type("Turned", (type(scorer),), {"higher_is_better": False, "worst": worst})
    scorers = [kind(**scorer.model_dump())]
    return SimpleNamespace(name=suite.name, gate=suite.gate, cluster_by=None, make_scorers=lambda: scorers)


def test_the_leaderboard_ranks_by_real_differences_and_shows_what_each_cell_took(workshop, done):
    evaluations = workshop.evaluations
    board = leaderboard(evaluations, evaluations.suite("board"), done)
    assert (board["suite"], board["rows"], board["primary"]) == ("board", N, "correct")
    ranks = {cell["name"]: cell["rank_range"] for cell in board["cells"]}
    assert ranks == {"board@1,tiny@1": [1, 2], "board@3,tiny@1": [1, 2], "board@2,tiny@1": [3, 3]}
    assert [cell["mean"] for cell in board["cells"]] == [1.0, 1.0, 0.0]
    real = {(pair["better"][:7], pair["worse"][:7]): pair["real"] for pair in board["pairs"]}
    assert real == {("board@1", "board@3"): False, ("board@1", "board@2"): True, ("board@3", "board@2"): True}
    for pair in board["pairs"]:
        assert pair["ci95"][0] <= pair["difference"] <= pair["ci95"][1]
        assert pair["difference"] == (1.0 if pair["real"] else 0.0)
    for cell in board["cells"]:
        assert (cell["n_scored"], cell["n_failed"], cell["cost"]) == (N, 0, None)
        assert cell["tokens_out"] == (N if cell["name"].startswith("board@2") else 7 * N)
        assert cell["latency_ms_p50"] is not None
    assert "board@3,tiny@1" in leaderboard_html(board)
    assert "board@3,tiny@1" in unescape(leaderboard_markdown(board))


def test_where_less_is_better_the_least_comes_first(workshop, done):
    board = leaderboard(workshop.evaluations, turned(workshop, worst=0.0), done)
    assert board["cells"][0]["name"] == "board@2,tiny@1"
    assert board["cells"][0]["rank_range"] == [1, 1]
    assert all(pair["difference"] >= 0 for pair in board["pairs"])


def test_a_row_without_a_score_is_the_worst_that_any_cell_has_and_never_0(workshop, done):
    def slow(run):
        """Every answer takes 5, and those of board@2 fail but for the first."""
        for number, row in enumerate(workshop.evaluations.rows(run)):
            score = Score(error="gone") if "board@2" in run.cell and number else Score(5.0)
            yield replace(row, scores={"correct": score})

    board = leaderboard(SimpleNamespace(rows=slow), turned(workshop, worst=None), done)
    assert {pair["difference"] for pair in board["pairs"]} == {0.0}
    assert not any(pair["real"] for pair in board["pairs"])


def test_the_leaderboard_says_of_two_cells_what_the_comparison_says(workshop, done):
    evaluations = workshop.evaluations
    board = leaderboard(evaluations, evaluations.suite("board"), done)
    for pair in board["pairs"]:
        metric = evaluations.compare(pair["worse"], pair["better"]).metrics["correct"]
        assert (pair["difference"], tuple(pair["ci95"])) == (metric.difference, metric.ci95)
        assert pair["p_adjusted"] >= metric.p_value
    for cell, item in zip(board["cells"], (done[0], done[2], done[1]), strict=True):
        assert cell["ci95"] == item.run.metrics["correct"].ci95


def test_a_cell_whose_rows_failed_stands_as_the_comparison_has_it_and_one_without_scores_last():
    class Seconds:
        name, higher_is_better, worst, limits = "seconds", False, None, (0.0, math.inf)

    nan = math.nan
    fast, slow, broken, silent = [1.0] * 40, [2.0] * 40, [0.5] * 5 + [nan] * 35, [nan] * 40
    values = [slow, broken, silent, fast]

    order = _order(Seconds(), values)  # type: ignore[arg-type]
    names = ["slow", "broken", "silent", "fast"]
    pairs = _pairs(Seconds(), names, values, None, order)  # type: ignore[arg-type]

    assert order == [3, 1, 0, 2]
    assert {(pair["better"], pair["worse"]) for pair in pairs} == {
        ("fast", "slow"), ("broken", "slow"), ("broken", "fast"),
    }  # fmt: skip


def test_a_cell_is_not_ahead_for_real_where_it_is_so_only_by_the_other_ones_failures():
    nan = math.nan
    right, half, failed, few_failed = [1.0] * 40, [1.0, 0.0] * 20, [1.0] * 25 + [nan] * 15, [0.0, 1.0] * 19 + [nan] * 2
    primary = MadeUpScorer("right", limits=(0.0, 1.0))

    def real(values: list[list[float]]) -> bool:
        [pair] = _pairs(primary, ["one", "other"], values, None, _order(primary, values))
        assert pair["better"] == "one"
        assert pair["p_adjusted"] < 0.05
        return pair["real"]

    assert real([right, half]) is True
    assert real([right, few_failed]) is True
    assert real([right, failed]) is False
