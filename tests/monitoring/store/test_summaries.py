import base64
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.store.packed_summaries import WIDTH, bins_of, from_bytes, middle_of
from monitoring.store.rows import DescribedRows
from monitoring.store.summaries import (
    OTHER,
    FlagSummary,
    LabelSummary,
    NumberSummary,
    Summariser,
    Summary,
    SummaryMerge,
    summary_of_feedback,
)
from tests.monitoring.described import described_rows, described_set

SET = described_set()
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 10**10), st.none() | FLOATS, st.none() | st.sampled_from(["en", "de", "(other)", "\ud800\0"])
    ),
    max_size=30,
)
PARTS = st.lists(ROWS, min_size=1, max_size=6)


def rows_of(rows):
    return described_rows([at for at, _, _ in rows], [number for _, number, _ in rows], [label for *_, label in rows])


@settings(max_examples=50)
@given(PARTS, st.randoms())
def test_merged_parts_equal_the_summary_of_all_rows_in_whatever_order(parts, chance):
    whole = Summary.of(DescribedRows.concat([rows_of([row for part in parts for row in part])]), SET)
    summaries = [Summary.of(rows_of(part), SET) for part in parts]
    chance.shuffle(summaries)
    cut = chance.randint(0, len(summaries))
    assert Summary.merged(summaries) == whole
    assert Summary.merged([Summary.merged(summaries[:cut]), Summary.merged(summaries[cut:])]) == whole


@given(ROWS)
def test_a_summary_survives_its_bytes(rows):
    summary = Summary.of(rows_of(rows), SET)
    assert Summary.from_bytes(summary.to_bytes()) == summary


@settings(max_examples=50)
@given(ROWS, ROWS)
def test_summaries_of_other_descriptors_are_added_by_name(rows, others):
    feedback = summary_of_feedback([1.0, 0.5], ["good"])
    merged = Summary.merged([Summary.of(rows_of(rows), SET), feedback, Summary.of(rows_of(others), SET), feedback])
    assert merged.rows == len(rows) + len(others)
    assert merged.numbers["feedback.score"] == NumberSummary.of([1.0, 0.5, 1.0, 0.5])
    assert merged.labels["feedback.label"].counts == {"good": 2}
    assert merged.numbers["number"] == NumberSummary.of([row[1] for row in [*rows, *others] if row[1] is not None])
    assert set(merged.versions) == {"number", "flag", "label"}


@settings(max_examples=50)
@given(ROWS, st.data())
def test_groups_summarised_together_equal_each_group_alone(rows, data):
    groups = np.array([data.draw(st.integers(-1, 3)) for _ in rows], dtype=np.int64)
    described = rows_of(rows)
    together = Summariser(described, SET.descriptors).by_group(groups, 4)
    assert together == [Summary.of(described.select(groups == group), SET) for group in range(4)]


def test_hundreds_of_summaries_are_merged_as_a_few_are_and_two_versions_of_a_descriptor_told_apart():
    one, two = Summary(versions={"words": "b"}), Summary(versions={"words": "a"})
    assert Summary.merged([one, two, two]).versions == {"words": "a+b"}
    parts = [Summary.of(rows_of([(n, float(n), "en"), (n, None, None)]), SET) for n in range(300)]
    merge = SummaryMerge()
    for part in parts:
        merge.add(from_bytes(part.to_bytes()))
    assert merge.result() == Summary.of(
        rows_of([(n, float(n), "en") for n in range(300)] + [(0, None, None)] * 300), SET
    )


@given(st.lists(FLOATS, min_size=2, max_size=50))
def test_bins_keep_the_order_of_numbers_and_are_narrow(values):
    column = np.sort(np.array(values, dtype=np.float32))
    bins = bins_of(column)
    assert (np.diff(bins) >= 0).all()
    assert (np.abs(bins) <= WIDTH // 2).all()
    for value, found in zip(column.tolist(), bins.tolist(), strict=True):
        assert middle_of(found) == pytest.approx(value, rel=0.022, abs=0)


def test_whole_numbers_to_46_have_bins_of_their_own():
    assert len(set(bins_of(np.arange(-46, 47, dtype=np.float32)).tolist())) == 93
    assert [middle_of(int(bins_of(np.array([n], dtype=np.float32))[0])) for n in range(47)] == list(range(47))


@given(st.lists(FLOATS, min_size=2, max_size=40), st.integers(0, 40))
def test_moments_are_those_of_exact_arithmetic_whether_summed_at_once_or_merged(values, cut):
    column = [Fraction(float(value)) for value in np.array(values, dtype=np.float32)]
    mean, size = sum(column) / len(column), float(sum(map(abs, column)) / len(column))
    parts = [Summary(numbers={"n": NumberSummary.of(part)}) for part in (values[:cut], values[cut:])]
    for summary in (NumberSummary.of(values), Summary.merged(parts).numbers["n"]):
        assert summary.mean == pytest.approx(float(mean), rel=1e-12, abs=1e-12 * size)
        assert summary.total == pytest.approx(float(sum(column)), rel=1e-12, abs=1e-12 * size * len(column))
        assert (summary.n, summary.minimum, summary.maximum) == (len(column), min(column), max(column))


EXACT = base64.b85decode(
    "0eD{XU|?Wi0b)iVmIY!~24tY(0Hz$)J48n-<(1|pr4}j0>L^4jrR5~1gIQ3fj)IaQL?$OODK!U)57h+`h>Zo=1py8R7#I|tKzx`OGnCeS+omeP"
    "(7?b51l3RjtrV)2QuBb6G0>!xR3O8!wssv*F%u9kWr$&fup-j{K|UmO"
)
"""Stored by release 0.1, whose sums were whole numbers in units of 2^-176: NUMBERS, all in English but the second."""
WITH_SQUARES = base64.b85decode(
    "0(f5YU|?Wi0b)iVmIY!~24tY(0Hz$)J48n-<(1|pr4}j0>L^4jrR5~1gIQ3fj)IaQL?$OODK!U)57h+`h>Zo=1qTaUz~*oGFbPOI9AIEjbOOo4)G"
    "$M7-M4M35)2Itj6hHgwZKZDS}8RTNEri7PDuqa3~Orv>dYmV"
)
"""The same, stored with squared deviations from the mean after the sum, which nothing read."""
NUMBERS = [1.5, 2.5, 40.25, -3.0, None]


@pytest.mark.parametrize("stored", [EXACT, WITH_SQUARES], ids=["whole numbers", "squares"])
def test_what_an_older_release_stored_is_read_and_added_to_what_is_new(stored):
    same = Summary.of(described_rows([10, 20, 30, 4000, 50], NUMBERS, ["en", "de", "en", None, "en"]), SET)
    assert Summary.from_bytes(stored) == same
    merge = SummaryMerge()
    merge.add(from_bytes(stored))
    merge.add(same)
    assert merge.result() == Summary.merged([same, same])
    for length in range(1, len(stored)):
        with pytest.raises(ValueError, match="not a stored summary"):
            Summary.from_bytes(stored[:length])


def test_quantiles_are_those_of_the_rows_within_a_bin_and_what_is_no_number_is_left_out():
    values = np.random.default_rng(1).lognormal(5, 1, 5001).astype(np.float32)
    summary = NumberSummary.of(values)
    for q in (0.0, 0.01, 0.5, 0.9, 0.999, 1.0):
        assert summary.quantile(q) == pytest.approx(np.quantile(values, q, method="inverted_cdf"), rel=0.022)
    assert NumberSummary.of([12, 12, 13]).quantile(0.5) == 12
    assert math.isnan(NumberSummary().quantile(0.5))
    assert math.isnan(NumberSummary().mean)
    not_numbers = NumberSummary.of([1.0, math.nan, math.inf, -math.inf])
    assert (not_numbers.n, not_numbers.mean) == (1, 1.0)
    assert FlagSummary.of([1.0, 0.0, math.nan]) == FlagSummary(2, 1)


def test_the_rarest_labels_are_counted_together_when_stored():
    labels = LabelSummary({**{f"l{n:03}": n for n in range(1, 301)}, OTHER: 5})
    stored = labels.limited()
    assert len(stored.counts) == 201
    assert stored.n == labels.n
    assert "l100" not in stored.counts
    assert stored.counts["l101"] == 101
    assert stored.counts[OTHER] == 5 + sum(range(1, 101))


@pytest.mark.parametrize("data", [b"", b"\x03", b"\x04abc", b"\x03abc"])
def test_bytes_that_are_no_summary_are_refused(data):
    with pytest.raises(ValueError, match="not a stored summary"):
        Summary.from_bytes(data)


def test_an_hour_of_thirty_descriptors_takes_some_kilobytes():
    chance = np.random.default_rng(2)
    rows = described_rows(range(1400), np.round(chance.lognormal(4, 1, 1400), 3), ["en"] * 1400)
    assert len(Summary.of(rows, SET).to_bytes()) < 600
