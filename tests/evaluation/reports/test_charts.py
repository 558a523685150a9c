import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.reports.charts import Axis, axis_labels, difference_plot, histogram, mean_plot, outcome_bar
from llmops.evaluation.reports.wording import Standing

quick = settings(max_examples=40, deadline=None)

NUMBERS = st.floats(-1e6, 1e6)


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


def test_an_interval_is_drawn_from_its_low_to_its_high_end_and_the_mark_stands_for_the_standing(make_difference):
    axis = Axis(-0.4, 0.4)
    drawing = difference_plot(make_difference(), axis, Standing.BETTER)
    line = shapes(drawing, "line", "better")[0]
    assert (float(line.get("x1")), float(line.get("x2"))) == (axis.at(0.1), axis.at(0.3))
    triangle = shapes(drawing, "polygon", "better")[0].get("points")
    assert float(triangle.split(",")[0]) == axis.at(0.2)
    assert "better" in parsed(drawing).get("aria-label")


def test_each_standing_has_a_shape_of_its_own(make_difference):
    axis = Axis(-0.4, 0.4)
    drawn = {found: difference_plot(make_difference(), axis, found) for found in Standing}
    marks = {re.search(r"<(?:polygon points|circle)[^>]*?(?= class)", drawing)[0] for drawing in drawn.values()}
    assert len(marks) == len(Standing)


def test_the_band_of_undetectable_differences_is_drawn_when_it_is_known(make_difference):
    axis = Axis(-0.4, 0.4)
    assert not shapes(difference_plot(make_difference(), axis, Standing.BETTER), "rect", "band")
    (band,) = shapes(difference_plot(make_difference(detectable=0.1), axis, Standing.BETTER), "rect", "band")
    assert float(band.get("x")) == axis.at(-0.1)
    assert float(band.get("width")) == pytest.approx(axis.at(0.1) - axis.at(-0.1))


def test_the_parts_of_the_outcome_bar_are_the_shares_of_the_rows(make_difference):
    drawing = outcome_bar(make_difference(wins=5, losses=10, ties=5, n=20))
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
    drawing = mean_plot(0.5, None, Axis(0, 1))
    assert len(shapes(drawing, "circle", "plain")) == 1
    assert not shapes(drawing, "line", "plain")


def test_the_axis_is_labelled_at_its_ends_and_its_middle():
    drawing = parsed(axis_labels(Axis(-0.2, 0.2), differences=True))
    assert [text.text for text in drawing.iter("text")] == ["−0.2", "0", "+0.2"]
