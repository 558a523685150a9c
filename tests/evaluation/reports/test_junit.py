from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.reports.junit import junit
from tests.evaluation.reports.conftest import ROWS_TOLD, Check, report, row, verdict

quick = settings(max_examples=40, deadline=None)


def parsed(report, **options):
    return ElementTree.fromstring(junit(report, **options).encode())  # noqa: S314 - ours


def cases(root, suite):
    return root.find(f"testsuite[@name='qa: {suite}']").findall("testcase")


@pytest.mark.parametrize(("outcome", "failures"), [("pass", 0), ("fail", 1), ("inconclusive", 1)])
def test_a_check_that_is_not_passed_is_a_failure_of_its_kind(outcome, failures):
    check = Check("floor of correct", "floor", "correct", outcome, "0.4 < 0.5")
    (case,) = cases(parsed(report(verdict=verdict(outcome, checks=[check]))), "gate")
    assert case.get("name") == "floor of correct (floor)"
    found = case.findall("failure")
    assert [(each.get("type"), each.get("message")) for each in found] == [(outcome, "0.4 < 0.5")] * failures
    assert case[0].text == "0.4 < 0.5"


def test_a_verdict_without_checks_is_one_case():
    (case,) = cases(parsed(report(verdict=verdict("fail", "one", "two"))), "gate")
    assert case.find("failure").get("message") == "one; two"


def test_what_became_of_the_rows_stands_in_the_case_that_checks_them():
    check = Check("rows", "rows", "correct", "inconclusive", ROWS_TOLD)
    root = parsed(report(verdict=verdict("inconclusive", ROWS_TOLD, checks=[check])))
    (case,) = cases(root, "gate")
    assert (case.get("name"), case.find("failure").get("message")) == ("rows (rows)", ROWS_TOLD)
    assert root.get("failures") != "0"


def test_without_a_gate_there_are_only_the_rows():
    assert [suite.get("name") for suite in parsed(report(verdict=None))] == ["qa: rows"]


def test_a_row_fails_when_the_deciding_metric_got_worse():
    rows = [row(1), row(2, 1.0), row(3, -1.0), row(4, None), row(5, -1.0, error_b="timed out")]
    found = {case.get("name"): [problem.tag for problem in case] for case in cases(parsed(report(rows=rows)), "rows")}
    assert found == {"row-1": [], "row-2": [], "row-3": ["failure"], "row-4": [], "row-5": ["error"]}


def test_a_row_whose_answer_has_no_score_is_an_error_even_where_the_other_sides_was_the_worst():
    unscored = row(1, 0.0, scores={"correct": {"a": False, "b": None}})
    (case,) = cases(parsed(report(rows=[unscored])), "rows")
    assert [(problem.tag, problem.get("type")) for problem in case] == [("error", "no-score")]


def test_a_row_that_got_worse_shows_both_answers():
    (case,) = cases(parsed(report(rows=[row(3, -1.0)])), "rows")
    assert case.find("failure").get("message") == "correct changed by −1.000"
    assert case.find("failure").text == "A: It is 3.\nB: It was 3."


def test_no_row_fails_by_a_metric_of_which_neither_direction_is_better():
    root = parsed(report(primary="words"))
    assert not root.findall("testsuite[@name='qa: rows']/testcase/failure")


def test_the_counts_are_those_of_the_cases():
    rows = [row(1), row(3, -1.0), row(5, 0.0, error_b="timed out")]
    root = parsed(report(rows=rows))
    assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "4", "failures": "1", "errors": "1",
    }  # fmt: skip
    for suite in root:
        assert int(suite.get("tests")) == len(suite.findall("testcase"))


def test_rows_beyond_the_limit_are_left_out_the_greatest_losses_are_kept_and_it_is_said():
    rows = [row(number, -number / 100) for number in range(50)]
    root = parsed(report(rows=rows), most_rows=3)
    assert [case.get("name") for case in cases(root, "rows")] == ["row-49", "row-48", "row-47"]
    properties = {found.get("name"): found.get("value") for found in root.iter("property")}
    assert properties == {"rows": "50", "rows_shown": "3", "metric": "correct", "answers": ROWS_TOLD}
    assert root.find("testsuite[@name='qa: rows']/system-out").text == (
        "3 of 50 rows are shown, those that lost most first; 46 changed rows are left out."
    )


@quick
@given(text=st.text(st.characters(codec=None), max_size=40))
def test_any_text_gives_a_document_that_parses_with_the_same_cases(text):
    check = Check(text, "floor", text, "fail", text)
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
