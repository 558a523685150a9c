"""Markdown comments and JUnit XML, and the words that every report uses."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.reports import wording
from llmops.evaluation.reports.junit import junit
from llmops.evaluation.reports.markdown import escaped, leaderboard_markdown, markdown
from llmops.evaluation.reports.wording import Effect, effect, most_changed, select, worst_first
from tests.evaluation.reports.conftest import ROWS_TOLD, GateCheck, difference, report, row, verdict


def rendered(text):
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


def test_the_verdict_is_the_first_line_and_checks_reasons_noise_and_power_are_told():
    text = markdown(report())
    assert text.splitlines()[0] == "**✓ pass**: qa&#64;2 against qa&#64;1"
    assert "noise alone would change about 0.4" in text
    assert "20 rows show a difference of 0.3" in text
    check = GateCheck("rows", "rows", "correct", "inconclusive", "40 failed")
    found_wanting = verdict("inconclusive", "40 failed", "looser than an earlier gate", checks=[check])
    assert "- ? rows: 40 failed\n- looser than an earlier gate\n" in markdown(report(verdict=found_wanting))
    assert "- too few rows" in markdown(report(verdict=verdict("fail", "too few rows")))
    without = markdown(report(verdict=None))
    assert without.startswith("**no verdict**: ")
    assert "20 rows are in both runs" in without


def test_significant_metrics_are_bold_and_others_are_not():
    lines = markdown(report()).splitlines()
    figures = "| correct | 0.500 | 0.700 | **▲ +0.200** | +0.100 to +0.300 | p = 0.004 | **better** |"
    assert f"{figures} 2 lost · 12 tied · 6 won |" in lines
    assert any(line.startswith("| words | 9.000 | 9.000 | ○ 0.000 |") for line in lines)


def test_only_the_slices_that_moved_are_listed_and_of_many_the_worst():
    text = markdown(report())
    assert "| topic&#61;" not in text
    assert "| topic=even: correct |" in text
    assert "topic=odd" not in text
    still = {"topic=odd": {"correct": difference(p_adjusted=0.5)}}
    assert "No slice moved significantly." in markdown(report(comparison={"slices": still}))
    slices = {f"n={number}": {"correct": difference(difference=number / 100)} for number in range(1, 31)}
    many = markdown(report(comparison={"slices": slices}))
    assert "The 20 worst of 30." in many
    assert "| n=1: correct |" in many
    assert "| n=21: correct |" not in many


def test_at_most_ten_of_the_rows_that_got_worse_are_shown_and_all_are_counted():
    rows = [*(row(number, -number / 100) for number in range(39)), row(39, -0.39, output_b="", error_b="timed out")]
    text = markdown(report(rows=rows))
    assert "<summary>39 rows got worse in correct: the 10 worst of them</summary>" in text
    assert re.findall(r"<code>row-(\d+)</code>", text) == [str(number) for number in range(39, 29, -1)]
    assert "<code>failed: timed out</code>" in text
    metrics = {"correct": difference(higher_is_better=False)}  # a gain is then a regression
    text = markdown(report(comparison={"metrics": metrics}, rows=[row(1, -1.0), row(2, 1.0)]))
    assert re.findall(r"<code>(row-\d+)</code>", text) == ["row-2"]


@given(st.text(max_size=80))
def test_a_text_in_a_table_stays_itself_whatever_it_holds(text):
    page = rendered(f"| a | b |\n| --- | --- |\n| {escaped(text)} | end |\n")
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert len(cells) == 2
    assert cells[1] == "end"
    assert "<" not in cells[0]


def test_a_text_starts_no_block_mentions_nobody_and_links_nowhere():
    for text in ("# head", "- item", "+ item", "1. item", "2) item", "> quote", "=== ", "***", "```"):
        assert re.fullmatch(r"<p>[^<]*</p>\n", rendered(f"{escaped(text)}\n")), text
    shown = escaped("@all see #12, https://evil.example and www.evil.example :+1: ![x](y)")
    assert not re.search(r"@|#(?!\d+;)|://|www\.|!\[|:\+", shown)


def test_nothing_from_outside_becomes_markup_and_a_comment_fits_into_what_github_takes(hostile_report):
    page = rendered(markdown(hostile_report))
    own = {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "sub", "details", "summary", "code"}
    assert set(re.findall(r"</?([a-z0-9]+)", page)) <= own
    long = "*[" * 5000
    rows = [row(n, -1.0, id=long, inputs={"q": long}, output_a=long, output_b=long) for n in range(50)]
    assert len(markdown(report(rows=rows))) < 65_536


def test_the_leaderboard_gives_rank_ranges_and_only_the_differences_that_are_real(board):
    text = leaderboard_markdown(board)
    assert "| 2–3 | middle | 0.600 | 0.500 to 0.700 | 19 | 1 (5.0 %) | 9 (45.0 %) | 0 | 1,234 | – | 41 |" in text
    assert "Differences that are real (2 of 3):" in text
    assert "| large | middle | +0.200 | +0.150 to +0.250 | p &#60; 0.001 |" in text
    assert "<b>" not in text
    pairs = [{**pair, "real": False} for pair in board["pairs"]]
    assert "None of the 3 differences is real" in leaderboard_markdown({**board, "pairs": pairs})


# JUnit XML, which CI systems show as tests


def parsed(report):
    return ElementTree.fromstring(junit(report).encode())  # noqa: S314 - ours


def cases(root, suite):
    return root.find(f"testsuite[@name='qa: {suite}']").findall("testcase")


@pytest.mark.parametrize(("outcome", "failures"), [("pass", 0), ("fail", 1), ("inconclusive", 1)])
def test_a_check_that_is_not_passed_is_a_failure_of_its_kind(outcome, failures):
    check = GateCheck("floor of correct", "floor", "correct", outcome, "0.4 < 0.5")
    (case,) = cases(parsed(report(verdict=verdict(outcome, checks=[check]))), "gate")
    assert case.get("name") == "floor of correct (floor)"
    found = case.findall("failure")
    assert [(each.get("type"), each.get("message")) for each in found] == [(outcome, "0.4 < 0.5")] * failures
    assert case[0].text == "0.4 < 0.5"


def test_a_verdict_without_checks_is_one_case_and_without_a_gate_there_are_only_the_rows():
    (case,) = cases(parsed(report(verdict=verdict("fail", "one", "two"))), "gate")
    assert case.find("failure").get("message") == "one; two"
    assert [suite.get("name") for suite in parsed(report(verdict=None))] == ["qa: rows"]
    assert not parsed(report(primary="words")).findall("testsuite[@name='qa: rows']/testcase/failure")


def test_a_row_fails_when_the_deciding_metric_got_worse_and_is_an_error_without_answer_or_score():
    unscored = {"correct": {"a": False, "b": None}}
    rows = [row(1), row(2, 1.0), row(3, -1.0), row(4, None), row(5, -1.0, error_b="timed out"), row(6, scores=unscored)]
    root = parsed(report(rows=rows))
    assert {case.get("name"): [problem.get("type") for problem in case] for case in cases(root, "rows")} == {
        "row-1": [], "row-2": [], "row-3": ["worse"], "row-4": [], "row-5": ["no-answer"], "row-6": ["no-score"]
    }  # fmt: skip
    assert {problem.tag for problem in root.iterfind(".//testcase[@name='row-6']/*")} == {"error"}
    worse = root.find(".//testcase[@name='row-3']/failure")
    assert (worse.get("message"), worse.text) == ("correct changed by −1.000", "A: It is 3.\nB: It was 3.")
    assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "7", "failures": "1", "errors": "2"
    }  # fmt: skip
    for suite in root:
        assert int(suite.get("tests")) == len(suite.findall("testcase"))


def test_rows_beyond_the_limit_are_left_out_the_greatest_losses_are_kept_and_it_is_said(monkeypatch):
    monkeypatch.setattr("llmops.evaluation.reports.junit._MOST_ROWS", 3)
    rows = [row(number, -number / 100) for number in range(50)]
    root = parsed(report(rows=rows))
    assert [case.get("name") for case in cases(root, "rows")] == ["row-49", "row-48", "row-47"]
    properties = {found.get("name"): found.get("value") for found in root.iter("property")}
    assert properties == {"rows": "50", "rows_shown": "3", "metric": "correct", "answers": ROWS_TOLD}
    assert root.find("testsuite[@name='qa: rows']/system-out").text == (
        "3 of 50 rows are shown, those that lost most first; 46 changed rows are left out."
    )


@given(text=st.text(st.characters(codec=None), max_size=40))
def test_any_text_gives_a_document_that_parses_with_the_same_cases(text):
    check = GateCheck(text, "floor", text, "fail", text)
    root = parsed(report(
        title=text, rows=[row(1, -1.0, id=text, output_a=text, output_b=text), row(2, error_b=text or "x")],
        verdict=verdict("fail", text, checks=[check]),
    ))  # fmt: skip
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "2", "1")


def test_hostile_texts_give_one_failure_each_and_no_element(hostile_report):
    root = parsed(hostile_report)
    assert {found.tag for found in root.iter()} == {
        "testsuites", "testsuite", "testcase", "failure", "properties", "property",
    }  # fmt: skip


# Words: standings, intervals, and which rows are shown


@pytest.mark.parametrize(
    ("changed", "beforehand", "expected"),
    [
        ({}, True, Effect.BETTER),
        ({"difference": -0.2}, True, Effect.WORSE),
        ({"difference": -0.2, "higher_is_better": False}, True, Effect.BETTER),
        ({"higher_is_better": None}, True, Effect.CHANGED),
        ({"p_value": 0.05, "p_adjusted": 0.05}, True, Effect.UNDECIDED),
        # Only the metric chosen beforehand goes by its unadjusted p-value.
        ({"p_value": 0.03, "p_adjusted": 0.06}, True, Effect.BETTER),
        ({"p_value": 0.03, "p_adjusted": 0.06}, False, Effect.UNDECIDED),
    ],
)
def test_a_standing_needs_significance_and_knows_which_direction_is_better(changed, beforehand, expected):
    assert effect(difference(**changed), chosen_beforehand=beforehand) is expected


def test_rows_of_a_metric_without_a_better_direction_go_up_and_down_and_noise_is_set_against_what_changed():
    assert wording.outcomes(difference()) == "2 lost · 12 tied · 6 won"
    assert wording.outcomes(difference(higher_is_better=None)) == "2 down · 12 the same · 6 up"
    sentence = wording.sentences(report().comparison)[0]
    assert "2.1 % of the rows differently (95 % interval 1.3 % to 3.2 %)" in sentence
    assert sentence.startswith("8 answers changed; noise alone would change about 0.4: ")


@pytest.mark.parametrize(
    ("ci95", "note", "told"),
    [
        ([-0.1, 0.2], "", "−0.100 to +0.200"),
        ([-1.0, 1.0], "3 clusters are too few", "−1.000 to +1.000 (3 clusters are too few)"),
        (None, "one pair says nothing about others", "none (one pair says nothing about others)"),
        (None, "", "–"),
    ],
)
def test_an_interval_is_told_with_what_limits_it(ci95, note, told):
    assert wording.interval_told(difference(ci95=ci95, note=note)) == told
    assert told in wording.summary("correct", difference(ci95=ci95, note=note), chosen_beforehand=True)


def test_differences_that_count_failed_rows_say_so():
    def told(**failed):
        return wording.sentences(Comparison("a", "b", 1, {"correct": difference(**failed)}, {}, []))

    assert told() == told(failed_a=0, failed_b=0) == []
    assert told(failed_b=1) == told(failed_a=2) == [wording.FAILED_IN_DIFFERENCES]


# Which rows are shown


def ids(selection):
    return [each.id for each in selection.rows]


def test_the_rows_that_changed_most_or_lost_most_come_first_then_failed_ones_then_the_order_of_the_set():
    rows = [row(1), row(2, 0.3), row(3, error_b="timeout"), row(4, -1.0), row(5, None)]
    assert ids(select(rows, 10, most_changed)) == ["row-4", "row-2", "row-3", "row-1", "row-5"]
    rows = [row(1, 0.5), row(2, -0.5), row(3)]
    assert ids(select(rows, 10, worst_first(True))) == ["row-2", "row-3", "row-1"]
    assert ids(select(rows, 10, worst_first(False))) == ["row-1", "row-3", "row-2"]
    assert ids(select(rows, 10, worst_first(None))) == ["row-1", "row-2", "row-3"]


def test_rows_are_read_once_and_counted_beyond_those_that_are_kept_and_only_a_cut_is_told():
    selection = select((row(number, 1.0 if number < 30 else 0.0) for number in range(1000)), 20, most_changed)
    assert (len(selection.rows), selection.total, selection.changed) == (20, 1000, 30)
    assert selection.sentence("the changed") == (
        "20 of 1,000 rows are shown, the changed first; 10 changed rows are left out."
    )
    assert select([row(1)], 1, most_changed).sentence("any") == ""
    cut = select([row(1, 1.0), row(2)], 1, most_changed)
    assert cut.sentence("any").endswith("every changed row is among them.")


def test_changes_are_kept_for_numbers_scored_on_both_sides_only():
    scores = {"rouge": {"a": 0.5, "b": 0.75}, "correct": {"a": True, "b": False}, "half": {"a": None, "b": 1.0}}
    selection = select([row(1, scores=scores), row(2, scores=scores)], 1, most_changed)
    assert {name: list(changes) for name, changes in selection.changes.items()} == {"rouge": [0.25, 0.25]}
