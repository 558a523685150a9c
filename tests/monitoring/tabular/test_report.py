"""The report of a window: our verdict first, Evidently's view beside it, and nothing that runs or loads."""

import re

import numpy as np
import pytest

from llmops.errors import CannotRun
from monitoring.tabular.checking import check
from monitoring.tabular.observed import observe
from monitoring.tabular.report import verdict_section, write_report
from monitoring.tabular.settings import TabularSettings
from tests.monitoring.tabular.windows import CLASSIFICATION, REGRESSION, hours, kinds

SETTINGS = TabularSettings(estimate=False)


def page_of(reference, current, folder, schema=REGRESSION, **title):
    verdict = check(reference, current, schema, SETTINGS, windows_in_budget=12)
    out = write_report(reference, current, schema, verdict, folder / "deep" / "report.html", **title)
    return out.read_text(encoding="utf-8")


def test_the_report_of_a_regression_has_our_verdict_first_and_needs_no_network(tmp_path):
    current = hours(10, seed=1, error=60.0, warmer=3.0)
    # One row alone is a class of the truth: Evidently computes R² of ten classes, and scikit-learn would warn of it.
    current.loc[0, "truth"] = 2 * current["truth"].max()
    page = page_of(hours(20), current, tmp_path, title="bike@2 in <January>")
    assert page.index('<section class="llmops">') < page.index('<div id="root_metric')
    assert re.search(r"<body>\s*<style>", page)
    head = page.split('<div id="root_metric')[0]
    for told in ("bike@2 in &lt;January&gt;", ">Alarm</span>", "the error (rmse) rose by", "Columns that drifted"):
        assert told in head
    assert "llmops: adjusted p of all rows" in page
    assert "Regression Model Performance" in page
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="(?:https?:)?//', page)


def test_the_report_of_a_classifier_has_its_classes(tmp_path):
    page = page_of(kinds(60), kinds(40, seed=1), tmp_path, CLASSIFICATION)
    assert "error rate" in page.split('<div id="root_metric')[0]
    assert "Confusion Matrix" in page


def test_a_report_before_labels_leaves_performance_out(tmp_path):
    page = page_of(hours(20), hours(10, seed=1).assign(truth=np.nan), tmp_path)
    assert "labels have not come yet" in page
    assert "Regression Model Performance" not in page


def test_a_report_of_no_rows_is_the_verdict_alone(tmp_path):
    page = page_of(hours(5), hours(5).head(0), tmp_path)
    assert "Too few rows" in page
    assert "root_metric" not in page


def test_a_report_that_cannot_be_written_is_a_plain_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotRun, match="cannot write the report"):
        page_of(hours(5), hours(5), tmp_path / "file")


def test_the_verdict_tells_faults_estimates_and_what_was_not_tested():
    reference, current = hours(60), hours(10, seed=1, warmer=0.5)
    current = current.assign(sky="<hail>", truth=current["truth"].where(current.index < 5))
    verdict = check(reference, current, REGRESSION, TabularSettings(), windows_in_budget=12)
    seen = observe(reference, REGRESSION, "reference"), observe(current, REGRESSION, "current")
    page = verdict_section("bike", verdict, *seen)
    for told in ("5 labelled rows in the window", "before labels, not trusted", "Faults of rows", "<b>broken</b>",
                 "&lt;hail&gt;", "in 12 windows"):  # fmt: skip
        assert told in page, told
    assert "<hail>" not in page
