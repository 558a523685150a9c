"""A comparison as JUnit XML, which CI systems show as tests: the gate's checks, and the rows.

A check that is inconclusive is a failure: what the gate asks for is a pass. Rows are shown beside it, the ones that
lost most first; a row fails when the deciding metric got worse, and is an error when the challenger gave no answer.
"""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from llmops.evaluation.gate import GateCheck
from llmops.evaluation.reports.contents import Report, Row, RunReport
from llmops.evaluation.reports.wording import Selection, further_reasons, gain, select, worst_first
from llmops.pages.numbers import printable, shortened, signed

_MOST_ROWS = 1_000
_LONGEST_TEXT = 2_000


def junit(report: RunReport) -> str:
    """The XML document; of a run that was compared with none, the gate's checks alone."""
    root = _gate(report)
    if isinstance(report, Report):
        _add_rows(root, report, select(report.rows, _MOST_ROWS, worst_first(report.primary_direction)))
    # The numbers that CI systems read first, from the cases that are there.
    for suite in root:
        counts = {"tests": "testcase", "failures": "testcase/failure", "errors": "testcase/error"}
        for name, path in counts.items():
            suite.set(name, str(len(suite.findall(path))))
        suite.set("skipped", "0")
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _gate(report: RunReport) -> Element:
    """The document with the gate's checks, or its verdict where it names none; with none where no gate was asked."""
    root, verdict = _element("testsuites", name=report.title), report.verdict
    if verdict is None:
        return root
    suite = _suite(root, report, "gate")
    whole = GateCheck("verdict", "rows", report.primary, verdict.verdict, "; ".join(verdict.reasons))
    for check in verdict.checks or (whole,):
        kind = check.kind if verdict.checks else "gate"
        case = _case(suite, f"{report.suite}.gate", f"{check.name} ({kind})")
        if check.outcome != "pass":
            _problem(case, "failure", check.outcome, check.detail)
        else:
            _element("system-out", case).text = printable(check.detail)
    if verdict.checks and (further := further_reasons(verdict)):
        _element("system-out", suite).text = printable("\n".join(further))
    return root


def _add_rows(root: Element, report: Report, selection: Selection) -> None:
    suite, told = _suite(root, report, "rows"), report.comparison.rows_told()
    properties = _element("properties", suite)
    shown = {"rows": selection.total, "rows_shown": len(selection.rows), "metric": report.primary, "answers": told}
    for name, value in shown.items():
        _element("property", properties, name=name, value=str(value))
    for row in selection.rows:
        _add_row(_case(suite, f"{report.suite}.rows", row.id), report, row)
    if cut := selection.sentence("those that lost most"):
        _element("system-out", suite).text = cut


def _add_row(case: Element, report: Report, row: Row) -> None:
    primary, score = report.primary, row.b.scores.get(report.primary)
    if row.b.output.error:
        _problem(case, "error", "no-answer", f"B gave no answer: {row.b.output.error}")
    elif score is not None and score.value is None:
        _problem(case, "error", "no-score", f"{primary} gave no score of B's answer")
    elif row.change is not None and (gain(row.change, report.primary_direction) or 0.0) < 0:
        texts = [shortened(side.output.text, _LONGEST_TEXT) for side in (row.a, row.b)]
        answers = "A: {}\nB: {}".format(*texts)
        _problem(case, "failure", "worse", f"{primary} changed by {signed(row.change)}", answers)


def _suite(root: Element, report: RunReport, name: str) -> Element:
    return _element("testsuite", root, name=f"{report.suite}: {name}", timestamp=report.created)


def _case(suite: Element, class_name: str, name: str) -> Element:
    return _element("testcase", suite, classname=class_name, name=name, time="0")


def _problem(case: Element, tag: str, kind: str, message: str, text: str = "") -> None:
    _element(tag, case, type=kind, message=shortened(message, _LONGEST_TEXT)).text = printable(text or message)


def _element(tag: str, parent: Element | None = None, **attributes: str) -> Element:
    """An element whose attributes hold nothing that XML forbids."""
    clean = {name: printable(value) for name, value in attributes.items()}
    return Element(tag, clean) if parent is None else SubElement(parent, tag, clean)
