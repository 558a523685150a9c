"""The report: our verdict first and readable, Evidently's view beside it, and nothing that runs or loads."""

import re

import pytest

from llmops.errors import CannotRun
from llmops.pages.rendering import environment
from llmops.production_log import LogRecord
from monitoring.run import list_references, write_report
from monitoring.show.history import HOUR, Levels
from monitoring.show.verdict_page import (
    EXCERPT,
    PageContents,
    distribution,
    over_time,
    rows_to_show,
    verdict_page,
    verdict_section,
)
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary
from tests.moments import MINUTE, START

SINCE, UNTIL = START + 60 * MINUTE, START + 120 * MINUTE


@pytest.fixture
def logged(log, make_records):
    log.append([*make_records(60, refusals=0), *make_records(60, first=60, refusals=0.8, release="<b>@2")])
    log.append(make_records(60, first=60, refusals=0.8))


def verdict(**changed):
    drift = {"effect": 0.07, "p_adjusted": 1e-6, "drifted": True, "before": 0.03, "after": 0.1, "test": "fisher-exact"}
    window = {"since": SINCE.isoformat(), "until": UNTIL.isoformat(), "rows": 60}
    alarm = {"what": "output.refusal", "why": "it <i>rose</i>", "rows": ["r1", "r2", "gone"], "in": "output",
             "slices": [{"app": "assistant"}], "kind": "drift", "severity": "high"}  # fmt: skip
    return {
        "app": "assistant", "state": "alarm", "note": "", "window": window,
        "reference": {**window, "why": "a good week", "not_compared": ["input.words"]},
        "slices": [{"slice": {"app": "assistant"}, "alpha": 0.001, "descriptors": {"output.refusal": drift}}],
        "alarms": [alarm], "drift_in": ["output"], "cure": {"rollback": True, "why": "the questions did not change"},
        "canary": [], "limits": [{"limit": {"descriptor": "x"}, "share": 0.25, "broken": True}], "failures": {"x": 3},
        "feedback": {"scores": 2, "mean_score": 0.5, "labels": {"up": 1}}, "expected_false_alarms_per_month": 0.1,
        **changed,
    }  # fmt: skip


def summary(hits):
    """Of a window with so many refusals; NaN for unknown."""
    if hits != hits:
        return Summary(rows=60)
    return Summary(rows=60, flags={"output.refusal": FlagSummary(60, int(hits))})


@pytest.mark.usefixtures("logged")
def test_the_report_has_our_verdict_first_every_column_and_needs_no_network(few_descriptors, tmp_path):
    out = write_report(few_descriptors, "assistant", tmp_path / "deep" / "report.html", SINCE, UNTIL)
    page = out.read_text(encoding="utf-8")
    assert len(page) > 1_000_000
    assert all(name in page for name in ("output.refusal", "input.length", "latency_ms"))
    assert page.index('<section class="llmops">') < page.index('<div id="root_metric')
    assert re.search(r"<body>\s*<style>", page)
    assert "cannot help with that request" in page.split('<div id="root_metric')[0]
    assert "llmops: adjusted p of all rows" in page
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="(?:https?:)?//', page)
    assert list_references(few_descriptors) == [], "a report pins nothing"


def test_too_few_rows_are_said_in_the_report():
    page = verdict_page(verdict(state="too-few-rows", note="the window has 60 of the 500 rows needed"))
    assert "Too few rows for a verdict" in page
    assert "of the 500 rows needed" in page


@pytest.mark.usefixtures("logged")
def test_a_report_that_cannot_be_written_is_a_plain_error(few_descriptors, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotRun, match="cannot write the report"):
        write_report(few_descriptors, "assistant", tmp_path / "file" / "report.html", SINCE, UNTIL)


def test_texts_are_escaped_cut_and_said_to_be_deleted():
    texts = {
        "r1": LogRecord("r1", SINCE, 200, "ok", "<script>alert(1)</script>", "x" * 5000 + "\0", "a@<2>"),
        "r2": LogRecord("r2", SINCE, 200, "ok", text_deleted_at=UNTIL),
    }
    page = verdict_section(PageContents(verdict(), summary(2), summary(6), texts=texts))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "it &lt;i&gt;rose" in page
    assert "x" * (EXCERPT + 1) not in page
    assert page.count("deleted</span>") == 4  # r2, and the one that is gone from the log


def test_the_verdict_says_what_to_do_and_what_could_not_be_compared():
    page = verdict_section(PageContents(verdict(), summary(2), summary(6)))
    for told in ("1 alarm<", "A rollback can help", "the questions did not change", "x on 3 rows", "input.words",
                 "2 scores, mean 0.5", "Limits: 1 looked at", "10.0% (6 of 60)", "a good week"):  # fmt: skip
        assert told in page, told


def test_a_page_for_the_store_holds_nothing_that_users_wrote():
    page = verdict_page(verdict())
    assert "1 alarm<" in page
    assert "r1" not in page
    assert rows_to_show(verdict()) == ["r1", "r2", "gone"]


@pytest.mark.parametrize(
    ("values", "points", "lines"),
    [([0.0, 1.0, 2.0, 3.0, 4.0], 5, 1), ([1.0, 2.0, float("nan"), 3.0, 4.0], 4, 2)],
    ids=["each known", "one unknown: a gap, and no zero"],
)
def test_the_history_of_an_alarm_is_drawn_beside_it(values, points, lines):
    days = [Levels(START + HOUR * n, START + HOUR * (n + 1), summary(value)) for n, value in enumerate(values)]
    page = verdict_section(PageContents(verdict(), summary(2), summary(6), history=days))
    assert (page.count("<circle"), page.count("<polyline"), "each hour" in page) == (points, lines, True)


def test_a_single_level_is_no_history():
    assert over_time([(START, 0.5)], SINCE, True) is None
    assert over_time([(START, 0.5), (START + HOUR, float("nan"))], SINCE, True) is None


def test_distributions_are_drawn_for_every_kind_and_said_to_be_missing():
    before = Summary(
        numbers={"n": NumberSummary.of([1, 2, 2, 3]), "skewed": NumberSummary.of([1.0] * 50 + [9000.0] * 50)},
        labels={"l": LabelSummary({"en": 3, "<de>": 1})},
    )
    after = Summary(
        numbers={"n": NumberSummary.of([3, 3, 4]), "skewed": NumberSummary.of([2.0] * 9)},
        labels={"l": LabelSummary({"en": 1})},
    )
    same = Summary(numbers={"n": NumberSummary.of([5.0] * 9)})

    def drawn(name, before, after, unit=""):
        source = '{% from "monitoring/show/parts.html" import distribution %}{{ distribution(chart) }}'
        return environment.from_string(source).render(chart=distribution(before.part(name), after.part(name), unit))

    assert drawn("n", before, after, "words").count("<rect") == 8
    assert "each step a multiple" in drawn("skewed", before, after)
    assert "&lt;de&gt;" in drawn("l", before, after)
    assert "no values" in drawn("other", before, after)
    assert "<rect" in drawn("n", same, same)
