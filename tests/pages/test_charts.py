import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.pages.rendering import Axis, environment

quick = settings(max_examples=40, deadline=None)

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


@quick
@given(st.lists(NUMBERS, min_size=1))
def test_every_value_has_a_place_within_the_plot_in_its_order(values):
    for axis in (Axis.around_zero(values), Axis.around(values)):
        places = [axis.at(value) for value in sorted(values)]
        assert places == sorted(places)
        assert all(18 <= place <= 222 for place in places)


def test_an_interval_is_drawn_from_its_low_to_its_high_end_and_the_mark_stands_for_the_standing():
    axis = Axis(-0.4, 0.4)
    drawing = interval_plot(0.2, (0.1, 0.3), axis, "+0.2: better", "better")
    line = shapes(drawing, "line", "better")[0]
    assert (float(line.get("x1")), float(line.get("x2"))) == (axis.at(0.1), axis.at(0.3))
    triangle = shapes(drawing, "polygon", "better")[0].get("transform")
    assert triangle == f"translate({axis.at(0.2)} 13)"
    assert parsed(drawing).get("aria-label") == "+0.2: better"


def test_each_standing_has_a_shape_of_its_own():
    kinds = ("better", "worse", "changed", "undecided")
    drawn = {kind: interval_plot(0.2, (0.1, 0.3), Axis(-0.4, 0.4), kind, kind) for kind in kinds}
    marks = {re.search(r"<(?:polygon points|circle)[^>]*?(?= class)", drawing)[0] for drawing in drawn.values()}
    assert len(marks) == len(kinds)


def test_the_band_of_undetectable_differences_is_drawn_when_it_is_known():
    axis = Axis(-0.4, 0.4)
    assert not shapes(interval_plot(0.2, (0.1, 0.3), axis, "", "better"), "rect", "band")
    (band,) = shapes(interval_plot(0.2, (0.1, 0.3), axis, "", "better", 0.1), "rect", "band")
    assert float(band.get("x")) == axis.at(-0.1)
    assert float(band.get("width")) == pytest.approx(axis.at(0.1) - axis.at(-0.1))


def test_the_parts_of_the_outcome_bar_are_the_shares_of_the_rows():
    drawing = outcome_bar([("losses", 10), ("ties", 5), ("wins", 5)], "10 lost")
    widths = [float(shapes(drawing, "rect", kind)[0].get("width")) for kind in ("losses", "ties", "wins")]
    assert widths == [66, 33, 33]


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.sampled_from([True, False, None]))
def test_a_histogram_is_wellformed_and_says_how_many_went_where(changes, higher):
    label = parsed(histogram(changes, higher_is_better=higher)).get("aria-label")
    down, same, up = (int(part.replace(",", "")) for part in re.findall(r"[\d,]*\d", label))
    assert (down, same, up) == (
        sum(c < 0 for c in changes), sum(c == 0 for c in changes), sum(c > 0 for c in changes),
    )  # fmt: skip


def test_a_loss_is_drawn_as_a_loss_whichever_direction_is_better():
    def tall(drawing, kind):
        return sum(float(bar.get("height")) for bar in shapes(drawing, "rect", kind))

    assert tall(histogram([-1.0, -0.5], higher_is_better=True), "losses") > 0
    assert tall(histogram([-1.0, -0.5], higher_is_better=True), "wins") == 0
    assert tall(histogram([-1.0, -0.5], higher_is_better=False), "wins") > 0
    assert tall(histogram([-1.0, -0.5], higher_is_better=False), "losses") == 0


def test_a_mean_without_an_interval_is_a_dot():
    drawing = interval_plot(0.5, None, Axis(0, 1))
    assert len(shapes(drawing, "circle", "plain")) == 1
    assert not shapes(drawing, "line", "plain")


def test_the_axis_is_labelled_at_its_ends_and_its_middle():
    drawing = parsed(axis_labels(Axis(-0.2, 0.2), differences=True))
    assert [text.text for text in drawing.iter("text")] == ["−0.2", "0", "+0.2"]


def test_a_mean_says_what_it_is():
    assert parsed(interval_plot(0.5, (0.4, 0.6), Axis(0, 1))).get("aria-label") == "0.500, 95 % interval 0.400 to 0.600"


def test_bars_of_before_and_after_stand_side_by_side_and_say_their_range():
    drawing = paired_bars([0.25, 0.75], [0.5, 0.5], ["<0 to 1", "1 to 2"], "words")
    (left, _), (right, _) = shapes(drawing, "rect", "before"), shapes(drawing, "rect", "after")
    assert float(left.get("x")) + float(left.get("width")) <= float(right.get("x"))
    assert float(right.get("height")) == pytest.approx(2 * float(left.get("height")), abs=0.1)
    assert [title.text for title in parsed(drawing).iter("title")][:2] == ["<0 to 1: 25.0%", "<0 to 1: 50.0%"]


def test_a_level_that_is_not_known_is_a_gap_in_its_line_and_no_zero():
    points = [(hour, level, f"{hour}") for hour, level in enumerate([1.0, 2.0, float("nan"), 3.0, 4.0])]
    drawing = level_line(points, 2, "words over time")
    assert len(list(parsed(drawing).iter("polyline"))) == 2
    assert [len(shapes(drawing, "circle", kind)) for kind in ("before", "after")] == [2, 2]
