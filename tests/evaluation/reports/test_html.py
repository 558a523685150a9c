import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.reports.html import html, write_html

quick = settings(max_examples=25, deadline=None)

OWN_TAGS = {
    "a", "article", "b", "bdi", "body", "button", "caption", "circle", "del", "details", "div", "figcaption", "figure",
    "form", "h1", "h2", "head", "header", "html", "input", "ins", "label", "li", "line", "main", "mark", "meta",
    "noscript", "optgroup", "option", "p", "polygon", "rect", "script", "section", "select", "small", "span", "strong",
    "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip


def block(page):
    return json.loads(re.search(r'<script type="application/json" id="contents">(.*?)</script>', page, re.DOTALL)[1])


def test_nothing_from_outside_becomes_an_element_an_attribute_or_a_script(read, hostile_report):
    found = read(html(hostile_report))
    assert set(found.tags) <= OWN_TAGS
    assert "img" not in found.tags
    assert found.tags.count("script") == 2
    assert not any(name.startswith("on") for name, _ in found.attributes)


def test_what_became_of_the_rows_and_every_reason_stand_on_the_page(read, make_report):
    check = {"name": "rows", "kind": "rows", "metric": "correct", "outcome": "inconclusive", "detail": "40 failed"}
    verdict = {"verdict": "inconclusive", "reasons": ["40 failed", "looser than an earlier gate"], "checks": [check]}
    found = read(html(make_report(verdict=verdict)))
    assert "40 failed" in found.texts["td"]
    assert "looser than an earlier gate" in found.texts["li"]
    assert any(text.startswith("20 rows are in both runs; ") for text in found.texts["p"])


@quick
@given(text=st.text(st.characters(codec=None), max_size=60))
def test_any_text_anywhere_leaves_the_page_with_the_same_elements(read, make_report, make_row, make_side, text):
    def page(name):
        return html(make_report(
            title=name, suite=name, a=make_side("1", name=name, model=name), rows=[make_row(1, id=name, output_a=name)],
            verdict={"verdict": "fail", "reasons": [name]},
        ))  # fmt: skip

    assert read(page(text)).tags == read(page("plain")).tags


def test_the_same_report_gives_the_same_page(make_report):
    assert html(make_report()) == html(make_report())


def test_the_page_is_written_as_it_is_returned(make_report, tmp_path):
    write_html(make_report(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html(make_report())


@pytest.mark.parametrize(
    ("outcome", "heading"), [("pass", "✓ Pass"), ("fail", "✕ Fail"), ("inconclusive", "? Inconclusive")]
)
def test_the_verdict_comes_first_in_words_and_sign(read, make_report, outcome, heading):
    found = read(html(make_report(verdict={"verdict": outcome, "reasons": ["because <so>"]})))
    assert found.texts["h2"][0] == heading
    assert found.text("li") == "because <so>"


def test_without_a_gate_the_page_says_that_there_is_no_verdict(read, make_report):
    assert read(html(make_report(verdict=None))).texts["h2"][0] == "No verdict"


def test_the_checks_of_the_gate_are_listed_with_what_they_found(read, make_report):
    found = read(html(make_report()))
    assert "✓ pass" in found.texts["td"]
    assert "superiority · correct" in found.texts["small"]


def test_metrics_on_other_scales_have_a_table_of_their_own(read, make_report):
    captions = read(html(make_report())).texts["caption"]
    assert captions[1:4] == ["Metrics from 0 to 1", "Metrics each on a scale of its own", "correct in each slice"]


def test_the_slices_of_a_tag_stand_worst_first(read, make_report, make_difference):
    slices = {
        f"topic={name}": {"correct": make_difference(difference=gap, higher_is_better=False)}
        for name, gap in (("good", -0.2), ("bad", 0.3), ("even", 0.0))
    }
    found = read(html(make_report(comparison={"slices": slices})))
    assert [text for text in found.texts["bdi"] if text.startswith("topic=")] == [
        "topic=bad",
        "topic=even",
        "topic=good",
    ]


def test_rows_without_a_score_are_said_of_the_side_they_are_on(read, make_report, make_side):
    failed = {"correct": {"mean": 0.5, "n_scored": 18, "n_failed": 2, "ci95": None}}
    notes = read(html(make_report(b=make_side("2", metrics=failed)))).texts["small"]
    assert "decides; higher is better; no score in 2 rows of B" in notes


def test_parameters_that_differ_come_first_and_are_marked(make_report, make_side):
    page = html(make_report(b=make_side("2", params={"temperature": 0.7, "max_tokens": 16})))
    assert page.index("≠ </span>temperature") < page.index(">max_tokens<")
    assert "≠ </span>max_tokens" not in page


def test_metrics_of_whole_runs_are_shown_beside_what_the_runs_used(read, make_report, make_side):
    macro = {"correct/macro_f1": {"mean": 0.25, "n_scored": 20, "n_failed": 0, "ci95": None}}
    found = read(html(make_report(a=make_side("1", metrics=macro))))
    assert "correct/macro_f1" in found.texts["th"]
    assert "0.250" in found.texts["bdi"]


def test_the_prompts_are_compared_when_both_texts_are_known(read, make_report, make_side):
    sides = [
        make_side(n, prompt_text=[{"role": "system", "content": f"Be {w}."}])
        for n, w in (("1", "brief"), ("2", "exact"))
    ]
    found = read(html(make_report(a=sides[0], b=sides[1])))
    assert found.texts["mark"] == ["brief", "exact"]
    same = read(html(make_report(a=sides[0], b=sides[0])))
    assert "Both runs used the same text." in same.texts["p"]
    assert "The prompt’s text" not in read(html(make_report())).texts["h2"]


def test_rows_beyond_the_limit_are_left_out_and_the_page_says_so(read, make_report):
    page = html(make_report(), most_rows=3)
    assert [row["change"] for row in block(page)["rows"]] == [-1.0, 1.0, -1.0]
    sentence = "3 of 20 rows are shown, those that changed most first; 7 changed rows are left out."
    assert sentence in read(page).texts["p"]


def test_rows_may_come_from_an_iterator(make_report, make_row):
    assert len(block(html(make_report(rows=iter([make_row(1), make_row(2)]))))["rows"]) == 2


def test_the_filters_offer_the_slices_and_the_metrics_of_the_rows(read, make_report):
    found = read(html(make_report()))
    assert ("value", "topic=even") in found.attributes
    assert "even (10)" in found.texts["option"]
    assert "words" in found.texts["option"]


def test_changes_of_numbers_are_drawn_and_those_of_truth_values_are_not(read, make_report, make_row):
    moved = make_row(1, scores={"rouge": {"a": 0.1, "b": 0.4}, "correct": {"a": True, "b": False}})
    assert read(html(make_report(rows=[moved]))).tags.count("figure") == 1
    assert "figure" not in read(html(make_report())).tags


def test_every_control_has_a_label_and_every_table_a_caption(read, make_report):
    found = read(html(make_report()))
    labelled = {value for name, value in found.attributes if name == "for"}
    assert labelled == {"search", "slice", "metric", "outcome"}
    assert found.tags.count("caption") == found.tags.count("table")
