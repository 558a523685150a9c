import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llmops.evaluation.reports.markdown import escaped, leaderboard_markdown, markdown
from tests.evaluation.reports.conftest import Check, difference, report, row, verdict

quick = settings(max_examples=60, deadline=None)


def rendered(text):
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


def test_the_verdict_is_the_first_line():
    assert markdown(report()).splitlines()[0] == "**✓ pass**: qa&#64;2 against qa&#64;1"
    assert markdown(report(verdict=None)).startswith("**no verdict**: ")


def test_what_became_of_the_rows_is_said_with_a_verdict_and_without():
    check = Check("rows", "rows", "correct", "inconclusive", "40 failed")
    found_wanting = verdict("inconclusive", "40 failed", "looser than an earlier gate", checks=[check])
    text = markdown(report(verdict=found_wanting))
    assert "- ? rows: 40 failed\n- looser than an earlier gate\n" in text
    assert "20 rows are in both runs" in markdown(report(verdict=None))


def test_significant_metrics_are_bold_and_others_are_not():
    lines = markdown(report()).splitlines()
    figures = "| correct | 0.500 | 0.700 | **▲ +0.200** | +0.100 to +0.300 | p = 0.004 | **better** |"
    assert f"{figures} 2 lost · 12 tied · 6 won |" in lines
    assert any(line.startswith("| words | 9.000 | 9.000 | ○ 0.000 |") for line in lines)


def test_only_the_slices_that_moved_are_listed():
    text = markdown(report())
    assert "| topic&#61;" not in text
    assert "| topic=even: correct |" in text
    assert "topic=odd" not in text
    still = {"topic=odd": {"correct": difference(p_adjusted=0.5)}}
    assert "No slice moved significantly." in markdown(report(comparison={"slices": still}))


def test_of_many_slices_that_moved_the_worst_are_kept_and_the_cut_is_said():
    slices = {f"n={number}": {"correct": difference(difference=number / 100)} for number in range(1, 31)}
    text = markdown(report(comparison={"slices": slices}))
    assert "The 20 worst of 30." in text
    assert "| n=1: correct |" in text
    assert "| n=21: correct |" not in text


def test_at_most_ten_of_the_rows_that_got_worse_are_shown_and_all_are_counted():
    rows = [row(number, -number / 100) for number in range(40)]
    text = markdown(report(rows=rows))
    assert "<summary>39 rows got worse in correct: the 10 worst of them</summary>" in text
    assert re.findall(r"<code>row-(\d+)</code>", text) == [str(number) for number in range(39, 29, -1)]


def test_a_gain_of_a_metric_that_should_be_low_is_a_regression():
    metrics = {"correct": difference(higher_is_better=False)}
    text = markdown(report(comparison={"metrics": metrics}, rows=[row(1, -1.0), row(2, 1.0)]))
    assert re.findall(r"<code>(row-\d+)</code>", text) == ["row-2"]


def test_a_row_without_an_answer_says_why():
    text = markdown(report(rows=[row(1, -1.0, output_b="", error_b="timed out")]))
    assert "<code>failed: timed out</code>" in text


def test_the_noise_and_the_power_of_the_comparison_are_told():
    assert "noise alone would change about 0.4" in markdown(report())
    assert "20 rows show a difference of 0.3" in markdown(report())


def test_a_verdict_without_checks_gives_its_reasons():
    assert "- too few rows" in markdown(report(verdict=verdict("fail", "too few rows")))


@quick
@given(st.text(max_size=80))
def test_a_text_in_a_table_stays_itself_whatever_it_holds(text):
    page = rendered(f"| a | b |\n| --- | --- |\n| {escaped(text)} | end |\n")
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert len(cells) == 2
    assert cells[1] == "end"
    assert "<" not in cells[0]


@pytest.mark.parametrize("text", ["# head", "- item", "+ item", "1. item", "2) item", "> quote", "=== ", "***", "```"])
def test_a_text_at_the_beginning_of_a_line_starts_no_block(text):
    assert re.fullmatch(r"<p>[^<]*</p>\n", rendered(f"{escaped(text)}\n"))


def test_a_text_mentions_nobody_and_links_nowhere():
    shown = escaped("@all see #12, https://evil.example and www.evil.example :+1: ![x](y)")
    assert not re.search(r"@|#(?!\d+;)|://|www\.|!\[|:\+", shown)


def test_nothing_from_outside_becomes_markup(hostile_report):
    page = rendered(markdown(hostile_report))
    own = {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "sub", "details", "summary", "code"}
    assert set(re.findall(r"</?([a-z0-9]+)", page)) <= own


def test_a_comment_fits_into_what_github_takes():
    long = "*[" * 5000
    rows = [row(n, -1.0, id=long, inputs={"q": long}, output_a=long, output_b=long) for n in range(50)]
    assert len(markdown(report(rows=rows))) < 65_536


def test_the_leaderboard_gives_rank_ranges_and_only_the_differences_that_are_real(board):
    text = leaderboard_markdown(board)
    assert "| 2–3 | middle | 0.600 | 0.500 to 0.700 | 19 | 1 (5.0 %) | 9 (45.0 %) | 0 | 1,234 | – | 41 |" in text
    assert "Differences that are real (2 of 3):" in text
    assert "| large | middle | +0.200 | +0.150 to +0.250 | p &#60; 0.001 |" in text
    assert "<b>" not in text


def test_a_leaderboard_without_real_differences_says_so(board):
    pairs = [{**pair, "real": False} for pair in board["pairs"]]
    assert "None of the 3 differences is real" in leaderboard_markdown({**board, "pairs": pairs})
