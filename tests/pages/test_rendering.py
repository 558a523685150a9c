"""Pages and their charts: no text becomes markup, numbers read well, and drawings hold what they say."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from llmops.errors import CannotRun
from llmops.pages import numbers
from llmops.pages.rendering import Axis, environment, page, stream_page, write_page
from tests.pages.reading import Reading

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
    assert "script" not in Reading(base()).tags
    assert any(value and "script-src 'none'" in value for _, value in Reading(base()).attributes)
    asking = r"https?:|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacent|eval\("
    assert not re.search(asking, base(script=SCRIPT))


@given(st.text(), st.text())
def test_no_text_can_end_its_element_or_its_attribute(text, attribute):
    source = '<p title="{{ attribute }}">{{ text }}</p>'
    found = Reading(environment.from_string(source).render(text=text, attribute=attribute))
    assert found.tags == ["p"]
    assert [name for name, _ in found.attributes] == ["title"]


@given(JSON_VALUES)
def test_json_in_a_script_reads_back_as_it_was_and_holds_no_character_of_markup(value):
    block = environment.from_string("{{ value | tojson }}").render(value=value)
    assert json.loads(block) == value
    assert block.isascii()
    assert not set(block) & set("<>&")


def test_what_is_no_json_or_was_not_given_is_an_error_and_control_characters_stay_visible():
    with pytest.raises(ValueError, match="not JSON compliant"):
        environment.from_string("{{ value | tojson }}").render(value=float("nan"))
    with pytest.raises(UndefinedError):
        page("llmops/pages/parts.html")
    assert "a\ufffdb\ufffd" in base(title="a\x1bb\ud800")


def test_a_table_can_be_scrolled_by_keyboard_and_a_section_linked_to():
    source = '{% from "llmops/pages/parts.html" import table %}{% call table(caption, ["one", "two#"]) %}{% endcall %}'
    made = Reading(environment.from_string(source).render(caption="Caption & more"))
    assert made.text("caption") == "Caption & more"
    assert {("tabindex", "0"), ("role", "region"), ("aria-label", "Caption & more")} <= set(made.attributes)
    assert made.texts["th"] == ["one", "two"]
    source = '{% from "llmops/pages/parts.html" import section %}{% call section("place", "Heading") %}{% endcall %}'
    made = Reading(environment.from_string(source).render())
    assert made.text("h2") == "Heading"
    assert ("id", "place") in made.attributes


def test_a_page_comes_in_pieces_and_is_written_into_a_folder_that_is_made_for_it_or_says_why_not(tmp_path):
    path = tmp_path / "deep" / "page.html"
    write_page(stream_page("llmops/pages/parts.html", title="é"), path)
    assert path.read_bytes() == base(title="é").encode()
    with pytest.raises(CannotRun, match="cannot write the report to"):
        write_page(["text"], tmp_path)


def test_numbers_lose_decimals_as_they_grow_and_what_is_no_zero_is_not_shown_as_one():
    values = [0.12345, -0.5, 9.9996, 12.34, 1234.5, None]
    assert [numbers.number(value) for value in values] == ["0.123", "−0.500", "10.0", "12.3", "1,234", "–"]
    assert [numbers.number(value) for value in (0.00001, -0.0004, 0.0006)] == ["1e−05", "−0.0004", "0.001"]
    assert [numbers.signed(value) for value in (0.0001, -0.0001)] == ["+0.0001", "−0.0001"]
    assert [numbers.signed(value) for value in (0.05, -0.05, -1e-17, 0.0, 1500)] == [
        "+0.050", "−0.050", "0.000", "0.000", "+1,500",
    ]  # fmt: skip


def test_one_of_a_thing_is_singular_and_a_shortened_text_says_how_much_is_missing():
    assert [numbers.counted(amount, "row") for amount in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
    assert numbers.shortened("abcdef", 6) == "abcdef"
    assert numbers.shortened("abcdefg", 3) == "abc … (4 characters more)"


@given(st.text(st.characters(codec=None)))
def test_printable_texts_hold_nothing_that_xml_forbids_and_are_as_long_as_before(text):
    shown = numbers.printable(text)
    assert len(shown) == len(text)
    assert all(
        c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000" for c in shown
    )


@pytest.mark.parametrize(
    ("value", "share", "told"),
    [(1234.5, False, "1,234"), (0.0, True, "0.0%"), (0.0004, True, "0.04%"), (12.34, False, "12.3")],
)
def test_brief_numbers_are_short(value, share, told):
    assert numbers.brief(value, share) == told


NUMBERS = st.floats(-1e6, 1e6)
MACROS = environment.get_template("llmops/pages/charts.html").module
axis_labels, interval_plot, outcome_bar = MACROS.axis_labels, MACROS.interval_plot, MACROS.outcome_bar
histogram, paired_bars, level_line = MACROS.histogram, MACROS.paired_bars, MACROS.level_line


def parsed(drawing):
    return ElementTree.fromstring(drawing)  # noqa: S314 - ours


def shapes(drawing, tag, kind):
    return [shape for shape in parsed(drawing).iter(tag) if shape.get("class") == kind]


@pytest.mark.parametrize(
    ("values", "reach"), [([0.14, -0.009], 0.2), ([0.2], 0.2), ([-77.5, -35.8], 100), ([], 1), ([0.0, 0.0], 1)]
)
def test_an_axis_around_zero_ends_at_the_next_number_that_reads_well(values, reach):
    axis = Axis.around_zero(values)
    assert (axis.low, axis.high) == pytest.approx((-reach, reach))


@given(st.lists(NUMBERS, min_size=1))
def test_every_value_has_a_place_within_the_plot_in_its_order(values):
    for axis in (Axis.around_zero(values), Axis.around(values)):
        places = [axis.at(value) for value in sorted(values)]
        assert places == sorted(places)
        assert all(18 <= place <= 222 for place in places)


def test_an_interval_is_drawn_with_a_mark_of_its_standing_and_the_band_of_what_cannot_be_detected():
    axis = Axis(-0.4, 0.4)
    drawing = interval_plot(0.2, (0.1, 0.3), axis, "+0.2: better", "better")
    line = shapes(drawing, "line", "better")[0]
    assert (float(line.get("x1")), float(line.get("x2"))) == (axis.at(0.1), axis.at(0.3))
    triangle = shapes(drawing, "polygon", "better")[0].get("transform")
    assert triangle == f"translate({axis.at(0.2)} 13)"
    assert parsed(drawing).get("aria-label") == "+0.2: better"
    kinds = ("better", "worse", "changed", "undecided")
    drawn = {kind: interval_plot(0.2, (0.1, 0.3), Axis(-0.4, 0.4), kind, kind) for kind in kinds}
    marks = {re.search(r"<(?:polygon points|circle)[^>]*?(?= class)", drawing)[0] for drawing in drawn.values()}
    assert len(marks) == len(kinds)
    axis = Axis(-0.4, 0.4)
    assert not shapes(interval_plot(0.2, (0.1, 0.3), axis, "", "better"), "rect", "band")
    (band,) = shapes(interval_plot(0.2, (0.1, 0.3), axis, "", "better", 0.1), "rect", "band")
    assert float(band.get("x")) == axis.at(-0.1)
    assert float(band.get("width")) == pytest.approx(axis.at(0.1) - axis.at(-0.1))


def test_outcomes_and_changes_are_drawn_by_their_shares_whichever_direction_is_better():
    drawing = outcome_bar([("losses", 10), ("ties", 5), ("wins", 5)], "10 lost")
    widths = [float(shapes(drawing, "rect", kind)[0].get("width")) for kind in ("losses", "ties", "wins")]
    assert widths == [66, 33, 33]

    def tall(drawing, kind):
        return sum(float(bar.get("height")) for bar in shapes(drawing, "rect", kind))

    assert tall(histogram([-1.0, -0.5], higher_is_better=True), "losses") > 0
    assert tall(histogram([-1.0, -0.5], higher_is_better=True), "wins") == 0
    assert tall(histogram([-1.0, -0.5], higher_is_better=False), "wins") > 0
    assert tall(histogram([-1.0, -0.5], higher_is_better=False), "losses") == 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.sampled_from([True, False, None]))
def test_a_histogram_is_wellformed_and_says_how_many_went_where(changes, higher):
    label = parsed(histogram(changes, higher_is_better=higher)).get("aria-label")
    down, same, up = (int(part.replace(",", "")) for part in re.findall(r"[\d,]*\d", label))
    assert (down, same, up) == (
        sum(c < 0 for c in changes), sum(c == 0 for c in changes), sum(c > 0 for c in changes),
    )  # fmt: skip


def test_a_mean_says_what_it_is_and_without_an_interval_is_a_dot_on_a_labelled_axis():
    drawing = interval_plot(0.5, None, Axis(0, 1))
    assert len(shapes(drawing, "circle", "plain")) == 1
    assert not shapes(drawing, "line", "plain")
    drawing = parsed(axis_labels(Axis(-0.2, 0.2), differences=True))
    assert [text.text for text in drawing.iter("text")] == ["−0.2", "0", "+0.2"]
    assert parsed(interval_plot(0.5, (0.4, 0.6), Axis(0, 1))).get("aria-label") == "0.500, 95 % interval 0.400 to 0.600"


def test_before_and_after_stand_side_by_side_and_what_is_not_known_is_a_gap():
    drawing = paired_bars([0.25, 0.75], [0.5, 0.5], ["<0 to 1", "1 to 2"], "words")
    (left, _), (right, _) = shapes(drawing, "rect", "before"), shapes(drawing, "rect", "after")
    assert float(left.get("x")) + float(left.get("width")) <= float(right.get("x"))
    assert float(right.get("height")) == pytest.approx(2 * float(left.get("height")), abs=0.1)
    assert [title.text for title in parsed(drawing).iter("title")][:2] == ["<0 to 1: 25.0%", "<0 to 1: 50.0%"]
    points = [(hour, level, f"{hour}") for hour, level in enumerate([1.0, 2.0, float("nan"), 3.0, 4.0])]
    drawing = level_line(points, 2, "words over time")
    assert len(list(parsed(drawing).iter("polyline"))) == 2
    assert [len(shapes(drawing, "circle", kind)) for kind in ("before", "after")] == [2, 2]
