import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from llmops.errors import CannotRun
from llmops.pages.rendering import environment, page, stream_page, write_page
from tests.pages.reading import Reading

quick = settings(max_examples=60, deadline=None)
SCRIPT = "llmops/evaluation/reports/page.js"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def base(**values):
    return page("llmops/pages/parts.html", **{"title": "title", **values})


def hash_of(text):
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def test_the_policy_lets_in_exactly_the_style_and_the_script_that_the_page_holds():
    whole = base(script=SCRIPT)
    (policy,) = [value for _, value in Reading(whole).attributes if value and "default-src" in value]
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", whole, re.DOTALL)[1] for tag in ("style", "script"))
    sources = f"style-src {hash_of(style)}; script-src {hash_of(script)}"
    assert policy == f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def test_a_page_without_a_script_forbids_all_scripts():
    assert "script" not in Reading(base()).tags
    assert any(value and "script-src 'none'" in value for _, value in Reading(base()).attributes)


def test_nothing_in_the_style_or_the_script_asks_for_anything_outside_the_file():
    asking = r"https?:|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacent|eval\("
    assert not re.search(asking, base(script=SCRIPT))


@quick
@given(st.text(), st.text())
def test_no_text_can_end_its_element_or_its_attribute(text, attribute):
    source = '<p title="{{ attribute }}">{{ text }}</p>'
    found = Reading(environment.from_string(source).render(text=text, attribute=attribute))
    assert found.tags == ["p"]
    assert [name for name, _ in found.attributes] == ["title"]


@quick
@given(JSON_VALUES)
def test_json_in_a_script_reads_back_as_it_was_and_holds_no_character_of_markup(value):
    block = environment.from_string("{{ value | tojson }}").render(value=value)
    assert json.loads(block) == value
    assert block.isascii()
    assert not set(block) & set("<>&")


def test_json_in_a_script_refuses_what_json_does_not_know():
    with pytest.raises(ValueError, match="not JSON compliant"):
        environment.from_string("{{ value | tojson }}").render(value=float("nan"))


def test_a_value_that_was_not_given_is_an_error_and_no_gap():
    with pytest.raises(UndefinedError):
        page("llmops/pages/parts.html")


def test_control_characters_stay_visible():
    assert "a\ufffdb\ufffd" in base(title="a\x1bb\ud800")


def test_a_table_has_a_caption_and_can_be_scrolled_by_keyboard():
    source = '{% from "llmops/pages/parts.html" import table %}{% call table(caption, ["one", "two#"]) %}{% endcall %}'
    made = Reading(environment.from_string(source).render(caption="Caption & more"))
    assert made.text("caption") == "Caption & more"
    assert {("tabindex", "0"), ("role", "region"), ("aria-label", "Caption & more")} <= set(made.attributes)
    assert made.texts["th"] == ["one", "two"]


def test_a_section_can_be_linked_to():
    source = '{% from "llmops/pages/parts.html" import section %}{% call section("place", "Heading") %}{% endcall %}'
    made = Reading(environment.from_string(source).render())
    assert made.text("h2") == "Heading"
    assert ("id", "place") in made.attributes


def test_a_page_comes_in_pieces_and_is_written_into_a_folder_that_is_made_for_it(tmp_path):
    path = tmp_path / "deep" / "page.html"
    write_page(stream_page("llmops/pages/parts.html", title="é"), path)
    assert path.read_bytes() == base(title="é").encode()


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(CannotRun, match="cannot write the report to"):
        write_page(["text"], tmp_path)
