import re
from base64 import b64encode
from hashlib import sha256

import pytest

from llmops.errors import CannotRun
from llmops.evaluation.reports.page import page, section, table, write_page


def hash_of(text):
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def test_the_policy_lets_in_exactly_the_style_and_the_script_that_the_page_holds(read):
    whole = "".join(page("title", ["<p>body</p>"], script=True))
    (policy,) = [value for _, value in read(whole).attributes if value and "default-src" in value]
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", whole, re.DOTALL)[1] for tag in ("style", "script"))
    sources = f"style-src {hash_of(style)}; script-src {hash_of(script)}"
    assert policy == f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def test_a_page_without_a_script_forbids_all_scripts(read):
    whole = "".join(page("title", [], script=False))
    assert "script" not in read(whole).tags
    assert any(value and "script-src 'none'" in value for _, value in read(whole).attributes)


def test_nothing_in_the_style_or_the_script_asks_for_anything_outside_the_file():
    whole = "".join(page("title", [], script=True))
    assert not re.search(
        r"https?:|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacent|eval\(", whole
    )


def test_a_table_has_a_caption_and_can_be_scrolled_by_keyboard(read):
    made = read(table("Caption & more", ["one"], []))
    assert made.text("caption") == "Caption & more"
    assert {("tabindex", "0"), ("role", "region"), ("aria-label", "Caption & more")} <= set(made.attributes)


def test_a_section_can_be_linked_to(read):
    made = read(section("Heading", "text", name="place"))
    assert made.text("h2") == "Heading"
    assert ("id", "place") in made.attributes


def test_a_page_is_written_into_a_folder_that_is_made_for_it(tmp_path):
    path = tmp_path / "deep" / "page.html"
    write_page(["é", "\n"], path)
    assert path.read_bytes() == "é\n".encode()


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(CannotRun, match="cannot write the report to"):
        write_page(["text"], tmp_path)
