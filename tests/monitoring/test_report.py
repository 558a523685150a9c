import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from llmops.errors import CannotRun
from monitoring import DriftRules, report, run_monitor, write_report
from monitoring.descriptors import DESCRIPTORS
from monitoring.report import verdict_section

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SINCE, UNTIL = START + 60 * MINUTE, START + 120 * MINUTE


@pytest.fixture
def logged(log, make_records):
    log.append([*make_records(60, refusals=0), *make_records(60, first=60, refusals=0.8, release="<b>@2")])
    log.append(make_records(60, first=60, refusals=0.8))


@pytest.mark.usefixtures("logged")
def test_the_report_shows_every_column_our_verdict_first_and_needs_no_network(settings, tmp_path):
    out = write_report(settings, "assistant", tmp_path / "deep" / "report.html", SINCE, UNTIL)
    page = out.read_text(encoding="utf-8")
    assert len(page) > 1_000_000
    assert all(name in page for name in DESCRIPTORS)
    assert "<body><section" in page
    assert page.index("alarm(s)") < page.index('<div id="root_metric')
    assert "adjusted p" in page
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="(?:https?:)?//', page)


@pytest.mark.usefixtures("logged")
def test_evidentlys_verdict_for_each_column_is_ours(settings):
    result = run_monitor(settings, "assistant", SINCE, UNTIL)
    thresholds = report._thresholds(result, DriftRules())
    for name, drift in result.slices[0].descriptors.items():
        assert (max(drift.result.p_value, report._SMALLEST_P) <= thresholds[name]) == drift.drifted, name


def test_large_windows_are_sampled_the_same_way_each_time(monkeypatch):
    monkeypatch.setattr(report, "SAMPLE_ROWS", 10)
    columns = {"latency_ms": np.arange(100, dtype=np.float32)}
    rows = report.DescribedRows([str(number) for number in range(100)], np.full(100, None, dtype=object), columns)
    first, second = report._sample(rows), report._sample(rows)
    assert len(first) == 10
    assert first.request_ids == second.request_ids == [str(int(value)) for value in first.columns["latency_ms"]]


@pytest.mark.usefixtures("logged")
def test_too_few_rows_are_said_in_the_report_and_texts_are_escaped(settings):
    result = run_monitor(settings, "assistant", SINCE, UNTIL, rules=DriftRules(minimum_rows=500))
    section = verdict_section(result)
    assert "Too few rows for a verdict" in section
    assert "of the 500 rows needed" in section
    assert "<b>" not in verdict_section(run_monitor(settings, "<b>", SINCE + MINUTE, UNTIL))


@pytest.mark.usefixtures("logged")
def test_a_report_that_cannot_be_written_is_a_plain_error(settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotRun, match="cannot write the report"):
        write_report(settings, "assistant", tmp_path / "file" / "report.html", SINCE, UNTIL)
