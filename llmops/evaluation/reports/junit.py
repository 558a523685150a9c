"""A comparison as JUnit XML, which CI systems show as tests: the gate's checks, and the rows.

A check that is inconclusive is a failure: what the gate asks for is a pass. Rows are shown beside it, the ones that
lost most first; a row fails when the deciding metric got worse, and is an error when the challenger gave no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from llmops.evaluation.reports.contents import Check, Judged, Outcome, Report, Row, VerdictContents
from llmops.evaluation.reports.row_selection import Selection, select, worst_first
from llmops.evaluation.reports.wording import further_reasons, gain, primary_direction
from llmops.pages.numbers import printable, shortened, signed

MOST_ROWS = 1_000
_LONGEST_TEXT = 2_000


def junit(report: Report, *, most_rows: int = MOST_ROWS) -> str:
    """The XML document. most_rows: rows shown; the suite's properties say how many there are."""
    root = _element("testsuites", name=report["title"])
    if report["verdict"] is not None:
        _add_gate(root, report, report["verdict"])
    selection = select(report["rows"], most_rows, worst_first(primary_direction(report)))
    _add_rows(root, report, selection)
    return _document(root)


def verdict_junit(judged: Judged) -> str:
    """The XML document of a run that was compared with none: the gate's checks alone."""
    root = _element("testsuites", name=judged["title"])
    if judged["verdict"] is not None:
        _add_gate(root, judged, judged["verdict"])
    return _document(root)


def _document(root: Element) -> str:
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_gate(root: Element, report: Judged, verdict: VerdictContents) -> None:
    suite = _suite(root, report, "gate")
    for check in verdict.get("checks") or _verdict_as_check(report, verdict):
        case = _case(suite, f"{report['suite']}.gate", f"{check['name']} ({check['kind']})")
        if check["outcome"] != "pass":
            _problem(case, "failure", check["outcome"], check["detail"])
        else:
            _element("system-out", case).text = printable(check["detail"])
    if verdict.get("checks") and (further := further_reasons(verdict)):
        _element("system-out", suite).text = printable("\n".join(further))
    _count(suite)


def _verdict_as_check(report: Judged, verdict: VerdictContents) -> Sequence[Check]:
    detail = "; ".join(verdict["reasons"])
    outcome: Outcome = verdict["verdict"]
    return [{"name": "verdict", "kind": "gate", "metric": report["primary"], "outcome": outcome, "detail": detail}]


def _add_rows(root: Element, report: Report, selection: Selection) -> None:
    suite = _suite(root, report, "rows")
    properties = _element("properties", suite)
    told = report["comparison"].get("rows_told", "")
    shown = {"rows": selection.total, "rows_shown": len(selection.rows), "metric": report["primary"], "answers": told}
    for name, value in shown.items():
        _element("property", properties, name=name, value=str(value))
    higher = primary_direction(report)
    for row in selection.rows:
        _add_row(suite, report, row, higher)
    if cut := selection.sentence("those that lost most"):
        _element("system-out", suite).text = cut
    _count(suite)


def _add_row(suite: Element, report: Report, row: Row, higher_is_better: bool | None) -> None:
    case = _case(suite, f"{report['suite']}.rows", row["id"])
    change, error = row["change"], row.get("error_b")
    if error:
        _problem(case, "error", "no-answer", f"B gave no answer: {error}")
    elif (score := row["scores"].get(report["primary"])) is not None and score["b"] is None:
        _problem(case, "error", "no-score", f"{report['primary']} gave no score of B's answer")
    elif change is not None and (gain(change, higher_is_better) or 0.0) < 0:
        answers = f"A: {_answer(row['output_a'])}\nB: {_answer(row['output_b'])}"
        _problem(case, "failure", "worse", f"{report['primary']} changed by {signed(change)}", answers)


def _answer(text: str) -> str:
    return shortened(text, _LONGEST_TEXT)


def _suite(root: Element, report: Judged, name: str) -> Element:
    return _element("testsuite", root, name=f"{report['suite']}: {name}", timestamp=report["created"])


def _case(suite: Element, class_name: str, name: str) -> Element:
    return _element("testcase", suite, classname=class_name, name=name, time="0")


def _problem(case: Element, tag: str, kind: str, message: str, text: str = "") -> None:
    _element(tag, case, type=kind, message=_answer(message)).text = printable(text or message)


def _count(suite: Element) -> None:
    """The numbers that CI systems read first, from the cases that are there."""
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")


def _element(tag: str, parent: Element | None = None, **attributes: str) -> Element:
    """An element whose attributes hold nothing that XML forbids."""
    clean = {name: printable(value) for name, value in attributes.items()}
    return Element(tag, clean) if parent is None else SubElement(parent, tag, clean)
