"""The page in a real browser: what its script makes of the rows, and of rows that try to break out."""

import re
import shutil

import pytest

from tests.evaluation.reports.conftest import html, report, row
from tests.service.browser import chromium

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")]


@pytest.fixture(scope="module")
def browser():
    with chromium(BROWSER) as running:
        yield running


@pytest.fixture
def open_page(browser, tmp_path):
    """Loads a page and gives its elements as HTML again. act: what a reader does then, as script."""

    def load(page, act="document"):
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        browser.open((tmp_path / "page.html").as_uri())
        browser.run(f"{act}; new Promise(requestAnimationFrame)")
        # What the reader sees: without the block that the rows come from.
        return re.sub(r"<script\b.*?</script>", "", browser.run("document.documentElement.outerHTML"), flags=re.DOTALL)

    return load


def test_rows_are_listed_worst_first_and_a_few_at_a_time(open_page):
    rows = [row(number, -number / 100) for number in range(60)]
    shown = open_page(html(report(rows=rows)))
    assert re.findall(r"<h3>(row-\d+)</h3>", shown) == [f"row-{number}" for number in range(59, 34, -1)]
    assert "60 of 60 rows match; the first 25 are listed." in shown
    assert ">Show 25 more</button>" in shown


def test_the_button_lists_more_until_there_are_no_more(open_page):
    rows = [row(number) for number in range(30)]
    shown = open_page(html(report(rows=rows)), act='document.getElementById("more").click()')
    assert shown.count("<article") == 30
    assert re.search(r'<button[^>]*id="more"[^>]*hidden', shown)


def test_the_filters_narrow_the_rows_and_count_what_each_would_leave(open_page):
    act = """
      document.getElementById("slice").value = "topic=odd";
      document.getElementById("outcome").value = "worse";
      document.getElementById("search").value = "WHAT 17";
      document.getElementById("filters").dispatchEvent(new Event("input"));
    """
    shown = open_page(html(report()), act)
    assert re.findall(r"<h3>(row-\d+)</h3>", shown) == ["row-17"]
    assert "1 of 20 rows match" in shown
    assert ">got worse (1)</option>" in shown
    assert ">got better (0)</option>" in shown


def test_the_words_that_differ_are_marked_on_both_sides(open_page):
    changed = row(1, -1.0, output_a="It was the old red mill.", output_b="It was the new mill.")
    shown = open_page(html(report(rows=[changed])))
    assert re.findall(r"<del>(.*?)</del>", shown) == ["old red"]
    assert re.findall(r"<ins>(.*?)</ins>", shown) == ["new"]


def test_equal_answers_are_shown_once_and_missing_ones_with_their_reason(open_page):
    rows = [
        row(1, output_a="the same text", output_b="the same text"),
        row(2, output_b="", error_b="timed out"),
    ]
    shown = open_page(html(report(rows=rows)))
    assert shown.count("the same text") == 1
    assert "✕ no answer: timed out" in shown


def test_a_page_of_hostile_texts_shows_them_as_texts_and_runs_none(open_page, hostile_report):
    shown = open_page(html(hostile_report), act='document.querySelector("article details").open = true')
    assert shown.count("<article") == 1
    assert "<img" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert not re.search(r"<[^>]*\sonerror=", re.sub(r'"[^"]*"', '""', shown))
