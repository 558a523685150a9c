from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import CannotRun
from llmops.factsheet.contents import Factsheet
from llmops.factsheet.rendering import html, write_html
from tests.factsheet.conftest import evaluation, gate, sheet, tabular_sheet

EVIL = "</style></table><script>alert('x')</script><img src=//evil onerror=alert(1)>&lt;"
NAMED = {"kind", "lasts", "state", "verdict", "at", "since", "until", "made_at"}


class Page(HTMLParser):
    """Elements with their attributes, and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


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
    before, after = Page(html(made)), Page(html(evil(made, EVIL)))
    assert set(after.tags()) <= set(before.tags())
    assert not {"script", "img", "a", "iframe", "link"} & set(after.tags())
    assert EVIL in after.text


@given(st.text(max_size=30))
@settings(max_examples=25)
def test_any_text_keeps_the_page_whole(text):
    tags = Page(html(evil(sheet(), text))).tags()
    assert tags.count("main") == tags.count("h1") == 1
    assert not {"script", "img", "a"} & set(tags)


def test_the_page_asks_nothing_of_any_network_and_follows_light_and_dark():
    text = html(sheet())
    page = Page(text)
    metas = [attributes for tag, attributes in page.elements if tag == "meta"]
    policy = next(str(meta["content"]) for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src 'none'" in policy
    assert any(meta.get("name") == "color-scheme" and meta["content"] == "light dark" for meta in metas)
    assert not [attributes for _, attributes in page.elements if "src" in attributes or "href" in attributes]


def test_every_interval_is_drawn_and_said():
    page = Page(html(sheet()))
    labels = [attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"]
    assert "0.610, 95 % interval 0.550 to 0.670" in labels
    assert "0.400, 95 % interval 0.200 to 0.600" in labels
    assert not [label for label in labels if label and label.startswith("8.500")], "of another scale than 0 to 1"


def test_the_gate_colours_the_head():
    for verdicts, standing in (
        (("pass",), "pass"), (("pass", "fail"), "fail"), (("pass", "inconclusive"), "none"), ((), "none"),
    ):  # fmt: skip
        made = sheet(gates=tuple(gate(verdict=verdict) for verdict in verdicts))
        classes = [attributes.get("class") for tag, attributes in Page(html(made)).elements if tag == "section"]
        assert classes[0] == f"verdict {standing}"


def test_metrics_of_other_scales_have_no_plot():
    (words,) = [metric for metric in evaluation().metrics if metric.name == "words"]
    page = Page(html(sheet(evaluations=(evaluation(metrics=(words,), slices=()),))))
    assert "svg" not in page.tags()


def test_the_page_is_written_to_a_file(tmp_path):
    made = sheet()
    write_html(made, tmp_path / "deep" / "sheet.html")
    assert (tmp_path / "deep" / "sheet.html").read_text(encoding="utf-8") == html(made)
    with pytest.raises(CannotRun, match="cannot write"):
        write_html(made, tmp_path)
