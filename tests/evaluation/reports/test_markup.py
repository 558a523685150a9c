import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.reports.markup import Markup, element, joined, json_block

quick = settings(max_examples=60, deadline=None)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", "<i>")
    assert inner == "<b>&lt;i&gt;</b>"
    assert element("p", inner, "&", None, 3) == "<p><b>&lt;i&gt;</b>&amp;3</p>"


def test_attributes_are_escaped_left_out_when_absent_and_bare_when_true():
    made = element("input", class_='a"b', aria_label="x<y", hidden=True, id=None, title=False)
    assert made == '<input class="a&quot;b" aria-label="x&lt;y" hidden>'


@quick
@given(st.text(), st.text())
def test_no_text_can_end_its_element_or_its_attribute(read, text, attribute):
    page = read(element("p", text, title=attribute))
    assert page.tags == ["p"]
    assert [name for name, _ in page.attributes] == ["title"]


@quick
@given(JSON_VALUES)
def test_a_json_block_reads_back_as_it_was_and_holds_no_character_of_markup(value):
    block = json_block(value)
    assert json.loads(block) == value
    assert block.isascii()
    assert not set(block) & set("<>&")


def test_a_json_block_refuses_what_json_does_not_know():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block(float("nan"))


def test_joined_parts_stay_markup():
    assert isinstance(joined(["<", Markup("<br>")]), Markup)
    assert joined(["<", Markup("<br>")]) == "&lt;<br>"
