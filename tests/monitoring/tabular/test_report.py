"""The report of a window: our verdict first, Evidently's view beside it, and nothing that runs or loads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from llmops.errors import CannotRun
from monitoring.tabular import TabularSettings, check, write_report
from monitoring.tabular.observed import observe
from monitoring.tabular.report import verdict_section
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds

SETTINGS = TabularSettings(estimate=False)


def test_the_report_of_a_regression_has_our_verdict_first_and_needs_no_network(tmp_path: Path) -> None:
    reference, current = hours(20), hours(10, seed=1, error=25.0, warmer=3.0)
    verdict = check(reference, current, REGRESSION, SETTINGS, windows_in_budget=12)
    out = write_report(reference, current, REGRESSION, verdict, tmp_path / "deep" / "bike.html", "bike@2 in <January>")
    page = out.read_text(encoding="utf-8")
    assert page.index('<section class="llmops">') < page.index('<div id="root_metric')
    assert re.search(r"<body>\s*<style>", page)
    head = page.split('<div id="root_metric')[0]
    assert "bike@2 in &lt;January&gt;" in head
    assert ">Alarm</span>" in head
    assert "the error (rmse) rose by" in head
    assert "Columns that drifted" in head
    assert "llmops: adjusted p of all rows" in page
    assert "Regression Model Performance" in page
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="(?:https?:)?//', page)


def test_the_report_of_a_classifier_has_its_classes(tmp_path: Path) -> None:
    reference, current = kinds(60), kinds(40, seed=1)
    verdict = check(reference, current, CLASSIFICATION, SETTINGS, windows_in_budget=12)
    page = write_report(reference, current, CLASSIFICATION, verdict, tmp_path / "wine.html").read_text("utf-8")
    assert "error rate" in page.split('<div id="root_metric')[0]
    assert "Confusion Matrix" in page


def test_a_report_before_labels_leaves_performance_out(tmp_path: Path) -> None:
    reference, current = hours(20), hours(10, seed=1).assign(truth=np.nan)
    verdict = check(reference, current, REGRESSION, SETTINGS, windows_in_budget=12)
    page = write_report(reference, current, REGRESSION, verdict, tmp_path / "late.html").read_text("utf-8")
    assert "labels have not come yet" in page
    assert "Regression Model Performance" not in page


def test_a_report_of_no_rows_is_the_verdict_alone(tmp_path: Path) -> None:
    empty = hours(5).head(0)
    verdict = check(hours(5), empty, REGRESSION, SETTINGS, windows_in_budget=12)
    page = write_report(hours(5), empty, REGRESSION, verdict, tmp_path / "empty.html").read_text("utf-8")
    assert "Too few rows" in page
    assert "root_metric" not in page


def test_a_report_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    verdict = check(hours(5), hours(5), REGRESSION, SETTINGS, windows_in_budget=12)
    with pytest.raises(CannotRun, match="cannot write the report"):
        write_report(hours(5), hours(5), REGRESSION, verdict, tmp_path / "file" / "report.html")


def test_the_verdict_tells_faults_estimates_and_what_was_not_tested() -> None:
    reference, current = hours(60), hours(10, seed=1, warmer=0.5)
    current = current.assign(sky="<hail>", truth=current["truth"].where(current.index < 5))
    verdict = check(reference, current, REGRESSION, TabularSettings(), windows_in_budget=12)
    seen = observe(reference, REGRESSION, "reference"), observe(current, REGRESSION, "current")
    page = verdict_section("bike", verdict, *seen)
    for told in ("5 labelled rows in the window", "before labels, not trusted", "Faults of rows", "<b>broken</b>",
                 "&lt;hail&gt;", "in 12 windows"):  # fmt: skip
        assert told in page, told
    assert "<hail>" not in page
