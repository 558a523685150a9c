"""What is said of a judge: published examples, properties of any labels, and coverage measured by simulation."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmops.errors import UsageError
from llmops.evaluation.agreement import PlaceVerdict, cohen_kappa, confusion, length_bias, position_bias, weighted_kappa
from tests.evaluation.conftest import frequency, holds, most

ratings = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=60)


def labelled(counts: list[list[int]]) -> tuple[list[int], list[int]]:
    """Two columns of labels with that confusion."""
    cells = [(i, j) for i, row in enumerate(counts) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in cells], [j for _, j in cells]


def test_confusion_counts_people_by_row_and_judge_by_column():
    found = confusion(["good", "bad", "good"], ["good", "good", "unsure"])
    assert found.labels == ("bad", "good", "unsure")
    assert found.counts == ((0, 1, 0), (0, 1, 1), (0, 0, 0))
    assert found.to_json() == {"labels": list(found.labels), "counts": [[0, 1, 0], [0, 1, 1], [0, 0, 0]]}
    # Ratings are sorted as numbers, mixed labels as text.
    assert confusion([10, 2], [2, 9]).labels == (2, 9, 10)
    assert confusion(["b", 1], ["a", 1]).labels == (1, "a", "b")


def test_kappa_of_tables_worked_out_by_hand():
    # Agreement 0.70, 0.50 by chance (Cohen's κ, 50 grant proposals read by two readers).
    found = cohen_kappa(*labelled([[20, 5], [10, 15]]))
    assert (found.agreement, found.by_chance) == pytest.approx((0.7, 0.5))
    assert (found.kappa, found.n) == (pytest.approx(0.4), 50)
    # Squared distances: observed (2·1 + 1·4)/10 = 0.6; by chance, from the margins 0.4, 0.4, 0.2 and 0.3, 0.4, 0.3:
    # 0.4·(0.4 + 4·0.3) + 0.4·(0.3 + 0.3) + 0.2·(4·0.3 + 0.4) = 1.2.
    assert weighted_kappa(*labelled([[3, 0, 1], [0, 3, 1], [0, 1, 1]])).kappa == pytest.approx(1 - 0.6 / 1.2)
    by_chance, undefined = cohen_kappa(["good"] * 90 + ["bad"] * 10, ["good"] * 100), cohen_kappa(["good"], ["good"])
    assert (by_chance.kappa, by_chance.agreement) == (pytest.approx(0), pytest.approx(0.9))
    assert (undefined.kappa, undefined.ci95, undefined.agreement, undefined.by_chance) == (None, None, 1.0, 1.0)
    assert undefined.to_json()["ci95"] is None


@given(ratings)
def test_kappa_is_the_same_from_either_side_in_its_interval_and_weighted_on_any_scale(rows):
    people, judge = [a for a, _ in rows], [b for _, b in rows]
    moved = weighted_kappa([10 + 3.0 * a for a in people], [10 + 3.0 * b for b in judge])
    assert moved.kappa == pytest.approx(weighted_kappa(people, judge).kappa)
    for measure in (cohen_kappa, weighted_kappa):
        there, back = measure(people, judge), measure(judge, people)
        if there.kappa is None or there.ci95 is None:
            assert len({*people, *judge}) == 1
            continue
        assert back.kappa == pytest.approx(there.kappa)
        assert back.ci95 == pytest.approx(there.ci95)
        assert -1 <= there.ci95[0] <= there.kappa <= there.ci95[1] <= 1
        assert there.ci95[1] - there.ci95[0] > 0.01


@pytest.mark.parametrize(("rows", "below"), [(10, 0.5), (20, 0.7), (100, 0.95)])
def test_few_labels_in_perfect_agreement_prove_little(rows, below):
    labels = [True, False] * (rows // 2)
    for found in (cohen_kappa(labels, labels), weighted_kappa(labels, labels)):
        assert found.kappa == found.ci95[1] == 1
        assert found.ci95[0] < below


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize(
    ("margins", "kappa"),
    [([0.5, 0.5], 0.7), ([0.8, 0.2], 0.4), ([0.8, 0.2], 0.9), ([0.5, 0.3, 0.2], 0.0), ([0.1, 0.2, 0.3, 0.4], 0.7)],
)
@pytest.mark.parametrize("measure", [cohen_kappa, weighted_kappa])
def test_the_interval_of_kappa_covers_the_truth(measure, margins, kappa, n):
    """Both give labels in the same proportions and agree beyond chance in the share κ, weighted or not."""
    shares = np.array(margins)
    table = kappa * np.diag(shares) + (1 - kappa) * np.outer(shares, shares)

    def covers(generator) -> bool:
        labels = labelled(generator.multinomial(n, table.ravel()).reshape(table.shape).tolist())
        return holds(measure(*labels).ci95 or (-1.0, 1.0), kappa)

    assert frequency(250, n, covers) >= 0.91


def test_length_bias_is_spearmans_correlation_and_none_is_claimed_where_nothing_varies():
    people, judge, lengths = [1.0, 2.0, 3.0, 4.0, 5.0, 2.0], [1.5, 1.0, 3.0, 5.0, 5.0, 4.0], [10, 30, 20, 80, 20, 90]
    expected = stats.spearmanr(np.subtract(judge, people), lengths)
    found = length_bias(people, judge, lengths)
    assert (found.correlation, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.to_json() == {"correlation": found.correlation, "p_value": found.p_value, "n": 6}
    perfect = length_bias([0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], [1, 2, 3, 4, 50])
    assert (perfect.correlation, perfect.p_value) == (pytest.approx(1), pytest.approx(2 / 120))
    for same in (
        ([1.0, 2.0], [2.0, 2.0], [1, 2]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1, 2, 3]),
        ([1, 2, 3], [3, 2, 3], [5, 5, 5]),
    ):
        assert (length_bias(*same).correlation, length_bias(*same).p_value) == (None, 1.0)


@pytest.mark.parametrize("n", [12, 60])
def test_bias_by_length_is_found_in_5_percent_where_there_is_none(n):
    """A judge of truth values: its errors are −1, 0 and 1, with many ties."""

    def biased(generator) -> bool:
        people, judge = generator.random((2, n)) < 0.6
        return length_bias(people, judge, generator.lognormal(4, 1, n)).p_value < 0.05

    assert frequency(500, n, biased) <= most(500, 0.05)


@pytest.mark.parametrize(
    ("verdicts", "swapped", "flipped", "prefers_first", "p_value"),
    [
        (["first", "second", "tie", "first"], ["second", "first", "tie", "second"], 0.0, 0.5, 1.0),
        (["first"] * 16, ["first"] * 6 + ["second"] * 10, 6 / 16, 22 / 32, 2 / 2**6),
        # A tie in one order only counts as flipped towards the place named.
        (["first", "tie"] * 3, ["tie", "first"] * 3, 1.0, 1.0, 2 / 2**6),
        (["tie"] * 5, ["tie"] * 5, 0.0, None, 1.0),
    ],
)
def test_position_bias_is_a_preference_that_survives_the_swap(verdicts, swapped, flipped, prefers_first, p_value):
    found = position_bias(verdicts, swapped)
    assert (found.flipped, found.p_value, found.n) == (pytest.approx(flipped), pytest.approx(p_value), len(verdicts))
    assert found.prefers_first == (None if prefers_first is None else pytest.approx(prefers_first))
    assert flipped or found.flipped_ci95[1] > 0.3


@given(st.lists(st.tuples(*[st.sampled_from(["first", "second", "tie"])] * 2), min_size=1, max_size=40))
def test_the_order_judged_first_does_not_matter_and_places_mirror(rows):
    here, there = [a for a, _ in rows], [b for _, b in rows]
    other: dict[PlaceVerdict, PlaceVerdict] = {"first": "second", "second": "first", "tie": "tie"}
    found = position_bias(here, there)
    mirrored = position_bias([other[a] for a in here], [other[b] for b in there])
    assert position_bias(there, here) == found
    assert (mirrored.flipped, mirrored.p_value) == (found.flipped, pytest.approx(found.p_value))
    if found.prefers_first is not None:
        assert mirrored.prefers_first == pytest.approx(1 - found.prefers_first)


def test_results_go_through_json():
    results = [
        cohen_kappa([True, False, True], [True, False, False]),
        weighted_kappa([1, 2, 3], [1, 3, 3]),
        length_bias([1, 2, 3], [1, 3, 3], [5, 6, 7]),
        position_bias(["first", "tie"], ["second", "tie"]),
        confusion([True, False], [True, True]),
    ]
    for result in results:
        values = result.to_json()  # type: ignore[attr-defined]
        assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_what_cannot_be_compared_is_refused():
    for measure, labels in (
        (cohen_kappa, ([1], [1, 2])),
        (position_bias, ([], [])),
        (length_bias, ([1, 2], [1, 2], [3])),
    ):
        with pytest.raises(UsageError, match="same number of rows"):
            measure(*labels)
    with pytest.raises(UsageError, match="not 'left'"):
        position_bias(["left"], ["first"])
