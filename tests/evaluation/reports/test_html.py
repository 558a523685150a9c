"""HTML pages of comparisons and leaderboards, as a browser's parser takes them."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import CannotRun
from llmops.evaluation.reports.html import (
    LONGEST_TEXT,
    leaderboard_html,
    prompt_diff,
    prompt_lines,
    report_html,
    showable,
)
from llmops.evaluation.reports.markdown import leaderboard_markdown
from llmops.evaluation.reports.wording import FAILED_IN_DIFFERENCES
from llmops.pages.numbers import printable
from llmops.pages.rendering import write_page
from tests.evaluation.reports.conftest import GateCheck, Metric, difference, html, report, row, side, verdict
from tests.pages.reading import Reading

quick = settings(max_examples=25)

OWN_TAGS = {
    "a", "article", "b", "bdi", "body", "button", "caption", "circle", "del", "details", "div", "figcaption", "figure",
    "form", "h1", "h2", "head", "header", "html", "input", "ins", "label", "li", "line", "main", "mark", "meta",
    "noscript", "optgroup", "option", "p", "polygon", "rect", "script", "section", "select", "small", "span", "strong",
    "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip


def block(page):
    return re.search(r'<script type="application/json" id="contents">(.*?)</script>', page, re.DOTALL)[1]


def test_nothing_from_outside_becomes_an_element_an_attribute_or_a_script(hostile_report):
    found = Reading(html(hostile_report))
    assert set(found.tags) <= OWN_TAGS
    assert "img" not in found.tags
    assert found.tags.count("script") == 2
    assert not any(name.startswith("on") for name, _ in found.attributes)


def test_the_page_says_what_the_gate_checked_became_of_the_rows_was_compared_and_was_used():
    check = GateCheck("rows", "rows", "correct", "inconclusive", "40 failed")
    found_wanting = verdict("inconclusive", "40 failed", "looser than an earlier gate", checks=[check])
    macro, failed = {"correct/macro_f1": Metric(0.25, 20, 0, None)}, {"correct": Metric(0.5, 18, 2, None)}
    page = html(report(verdict=found_wanting, a=side("1", metrics=macro), b=side("2", metrics=failed)))
    found = Reading(page)
    assert "40 failed" in found.texts["td"]
    assert "looser than an earlier gate" in found.texts["li"]
    assert any(text.startswith("20 rows are in both runs; ") for text in found.texts["p"])
    assert found.texts["caption"][1:4] == [
        "Metrics from 0 to 1", "Metrics each on a scale of its own", "correct in each slice"
    ]  # fmt: skip
    assert "decides; higher is better; no score in 2 rows of B" in found.texts["small"]
    # Metrics of whole runs stand beside what the runs used.
    assert "correct/macro_f1" in found.texts["th"]
    assert "0.250" in found.texts["bdi"]
    # Filters offer the slices and the metrics of the rows; every control has a label, every table a caption.
    assert ("value", "topic=even") in found.attributes
    assert "even (10)" in found.texts["option"]
    assert "words" in found.texts["option"]
    assert {value for name, value in found.attributes if name == "for"} == {"search", "slice", "metric", "outcome"}
    assert found.tags.count("caption") == found.tags.count("table")
    plain = Reading(html(report()))
    assert "✓ pass" in plain.texts["td"]
    assert "superiority · correct" in plain.texts["small"]


@quick
@given(text=st.text(st.characters(codec=None), max_size=60))
def test_any_text_anywhere_leaves_the_page_with_the_same_elements(text):
    def page(name):
        return html(report(
            title=name, suite=name, a=side("1", name=name, model=name), rows=[row(1, id=name, output_a=name)],
            verdict=verdict("fail", name),
        ))  # fmt: skip

    assert Reading(page(text)).tags == Reading(page("plain")).tags


def test_a_page_is_written_as_it_is_returned_the_same_every_time_or_the_failure_says_where(board, tmp_path):
    write_page(report_html(report()), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html(report())
    with pytest.raises(CannotRun, match="cannot write the report to"):
        write_page([leaderboard_html(board)], tmp_path)


@pytest.mark.parametrize(
    ("outcome", "heading"),
    [("pass", "✓ Pass"), ("fail", "✕ Fail"), ("inconclusive", "? Inconclusive"), (None, "No verdict")],
)
def test_the_verdict_comes_first_in_words_and_sign(outcome, heading):
    found = Reading(html(report(verdict=outcome and verdict(outcome, "because <so>"))))
    assert found.texts["h2"][0] == heading
    assert outcome is None or found.text("li") == "because <so>"


def test_the_slices_of_a_tag_stand_worst_first_and_parameters_that_differ_are_marked():
    slices = {
        f"topic={name}": {"correct": difference(difference=gap, higher_is_better=False)}
        for name, gap in (("good", -0.2), ("bad", 0.3), ("even", 0.0))
    }
    other = side("2", params={"temperature": 0.7, "max_tokens": 16})
    page = html(report(comparison={"slices": slices}, b=other))
    shown = [text for text in Reading(page).texts["bdi"] if text.startswith("topic=")]
    assert shown == ["topic=bad", "topic=even", "topic=good"]
    assert page.index("≠ </span>temperature") < page.index(">max_tokens<")
    assert "≠ </span>max_tokens" not in page


def test_the_prompts_are_compared_when_both_texts_are_known():
    sides = [
        side(n, prompt_text=[{"role": "system", "content": f"Be {w}."}]) for n, w in (("1", "brief"), ("2", "exact"))
    ]
    found = Reading(html(report(a=sides[0], b=sides[1])))
    assert found.texts["mark"] == ["brief", "exact"]
    same = Reading(html(report(a=sides[0], b=sides[0])))
    assert "Both runs used the same text." in same.texts["p"]
    assert "The prompt’s text" not in Reading(html(report())).texts["h2"]


def test_rows_beyond_the_limit_are_left_out_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr("llmops.evaluation.reports.html._MOST_ROWS", 3)
    page = html(report())
    assert [row["change"] for row in json.loads(block(page))["rows"]] == [-1.0, 1.0, -1.0]
    sentence = "3 of 20 rows are shown, those that changed most first; 7 changed rows are left out."
    assert sentence in Reading(page).texts["p"]
    assert len(json.loads(block(html(report(rows=iter([row(1), row(2)])))))["rows"]) == 2  # they may be an iterator


def test_changes_of_numbers_are_drawn_and_those_of_truth_values_are_not():
    moved = row(1, scores={"rouge": {"a": 0.1, "b": 0.4}, "correct": {"a": True, "b": False}})
    assert Reading(html(report(rows=[moved]))).tags.count("figure") == 1
    assert "figure" not in Reading(html(report())).tags


# Rows for the script


@quick
@given(text=st.text(st.characters(codec=None)))
def test_any_text_reads_back_as_far_as_it_is_printable_and_none_ends_the_block(text):
    rows = [row(1, output_a=text, output_b=f"</script><!--{text}", tags={text: text})]
    contents = block(html(report(rows=rows)))
    assert "<" not in contents
    (read,) = json.loads(contents)["rows"]
    shown = printable(text)
    assert (read["output_a"], read["output_b"], read["tags"]) == (shown, f"</script><!--{shown}", {shown: shown})


def test_the_block_holds_what_the_script_needs_long_texts_cut_and_numbers_that_json_lacks_named():
    about = json.loads(block(html(report())))["about"]
    assert (about["primary"], about["directions"]) == ("correct", {"correct": True, "words": None})
    assert about["names"] == {"a": "qa@1,tiny@1", "b": "qa@2,tiny@1"}
    shown = showable({"text": "x" * (LONGEST_TEXT + 5), "scores": (float("nan"), float("inf"), 1.5, None, True)})
    assert shown["text"].endswith("x … (5 characters more)")
    assert shown["scores"] == ["nan", "inf", 1.5, None, True]


# The prompt's text

TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": st.text("ab \n")}))


def turns(*contents):
    return [{"role": "user", "content": content} for content in contents]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (
            "Answer the question briefly.",
            "Answer the question at once.",
            [
                ("a", (("Answer the question ", False), ("briefly", True), (".", False))),
                ("b", (("Answer the question ", False), ("at once", True), (".", False))),
            ],
        ),
        (  # nothing in common
            "Short.",
            "Something else entirely, and long",
            [("a", (("Short.", False),)), ("b", (("Something else entirely, and long", False),))],
        ),
    ],
)
def test_a_line_that_changed_a_little_has_its_words_marked_and_others_are_whole(before, after, shown):
    found = [(line.side, line.parts) for line in prompt_diff(turns(before), turns(after))]
    assert found == [("both", (("# user", False),)), *shown]


def test_long_stretches_that_both_share_are_folded_and_short_ones_are_not():
    shared = "\n".join(f"line {number}" for number in range(20))
    found = prompt_diff(turns("old", shared), turns("new", shared))
    (gap,) = [part for part in found if isinstance(part, list)]
    assert gap[-1] == "line 19"
    assert len(gap) == 19
    assert not any(isinstance(part, list) for part in prompt_diff(turns("old", "x"), turns("new", "x")))


@quick
@given(TURNS, TURNS)
def test_both_prompts_can_be_read_back_from_the_diff(a, b):
    sides = {"a": [], "b": []}
    for part in prompt_diff(a, b):
        for letter, lines in sides.items():
            if isinstance(part, list):
                lines.extend(part)
            elif part.side in ("both", letter):
                lines.append("".join(text for text, _ in part.parts))
    assert sides == {"a": prompt_lines(a), "b": prompt_lines(b)}


# The leaderboard


def test_cells_stand_with_rank_range_mean_and_interval_and_each_difference_from_both_cells(board):
    found = Reading(leaderboard_html(board))
    assert [text for text in found.texts["td"] if "–" in text and text[0].isdigit()] == ["2–3", "2–3"]
    assert "0.700 to 0.900" in found.texts["small"]
    assert "1 without a score" in found.texts["small"]
    assert {"1 (5.0 %)", "9 (45.0 %)", "0"} <= set(found.texts["td"])
    assert found.tags.count("svg") == 4
    fields = [text for text in found.texts["td"] if text[0] in "▲▼○"]
    assert fields == ["▲ +0.200", "▲ +0.250", "▼ −0.200", "○ +0.050", "▼ −0.250", "○ −0.050"]
    # Names are escaped, and the page runs no script.
    assert not {"b", "script"} & set(found.tags)
    assert "<b>small</b>" in found.texts["bdi"]


def test_a_leaderboard_says_how_many_rows_failed_and_how_they_count_in_differences(board):
    assert FAILED_IN_DIFFERENCES in Reading(leaderboard_html(board)).texts["p"]
    assert "a mean of one run alone is that of its scored rows" in leaderboard_markdown(board)
    whole = {**board, "cells": [cell | {"n_failed": 0} for cell in board["cells"]]}
    assert FAILED_IN_DIFFERENCES not in Reading(leaderboard_html(whole)).texts["p"]
    assert "scored rows" not in leaderboard_markdown(whole)
    # Rows that only the scorer failed on stand as failed too.
    board["cells"][0] |= {"n_scored": 16, "n_failed": 4, "mean": 0.8}
    assert board["cells"][0]["answers"]["failed"] == 0
    assert "4 (20.0 %)" in Reading(leaderboard_html(board)).texts["td"]
    assert "| 16 | 4 (20.0 %) |" in leaderboard_markdown(board)


def test_a_cell_without_any_score_has_no_plot_and_a_single_one_nothing_to_differ_from(board):
    alone = {**board, "cells": board["cells"][:1], "pairs": []}
    assert Reading(leaderboard_html(alone)).texts["h2"] == ["Standings"]
    board["cells"][0] |= {"mean": None, "ci95": None}
    assert Reading(leaderboard_html(board)).tags.count("svg") == 3
