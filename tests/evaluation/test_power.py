"""A planned comparison finds what it was planned to find: power by enumeration, by publication and by simulation."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.evaluation.statistics import equal_clusters, even, thirds, truths
from llmops.errors import UsageError
from llmops.evaluation.paired_tests import paired_test
from llmops.evaluation.power import Discordance, Power, Spread, power_of, rows_needed
from llmops.evaluation.sequential import SequentialTest
from tests.evaluation.conftest import frequency, least, most


@pytest.mark.parametrize(("rows", "share", "gap"), [(20, 0.4, 0.3), (20, 0.1, 0.08), (12, 0.9, 0.7), (7, 1.0, 1.0)])
def test_power_for_truth_values_is_that_of_every_outcome_of_the_exact_test(rows, share, gap):
    expected = 0.0
    for pairs in range(1, rows + 1):
        for gained in range(pairs + 1):
            if stats.binomtest(gained, pairs, 0.5).pvalue < 0.05:
                gain = (share + gap) / (2 * share)
                expected += stats.binom.pmf(pairs, rows, share) * stats.binom.pmf(gained, pairs, gain)
    assert Discordance(share).power(rows, gap) == pytest.approx(expected, abs=1e-9)
    assert Discordance(share).power(rows, -gap) == pytest.approx(expected, abs=1e-9)


def test_power_is_close_to_the_textbooks_and_goes_on_without_a_jump_above_the_table():
    # n = (z₁₋α/₂ √ψ + z₁₋β √(ψ − δ²))² / δ² (Connor), here with ψ = 0.1, δ = 0.02, 80 % power.
    connor = (1.95996 * 0.1**0.5 + 0.84162 * (0.1 - 0.02**2) ** 0.5) ** 2 / 0.02**2
    assert connor < rows_needed(0.02, Discordance(0.1)) < 1.05 * connor
    below, above = (Discordance(0.2).power(rows, 0.009) for rows in (20_400, 20_500))
    assert above == pytest.approx(below, abs=0.01)
    # A paired t test of a difference of half a standard deviation at 80 % power needs 34 pairs.
    assert rows_needed(0.5, Spread(1.0)) in (34, 35, 36)
    assert rows_needed(0.5, Spread(2.0**0.5, rows_each=2.0)) in (68, 70, 72)


@given(st.floats(0.02, 1), st.integers(10, 2000), st.floats(0.02, 0.3))
def test_the_detectable_difference_and_the_rows_needed_have_the_power_asked_for_and_less_has_less(share, rows, gap):
    for noise in (Discordance(share), Spread(share)):
        seen = noise.detectable(rows)
        assert noise.power(rows, seen) == pytest.approx(0.8, abs=0.02) or isinstance(noise, Discordance)
        assert noise.power(rows, seen) >= 0.8 - 1e-9
        assert noise.power(rows, 0.95 * seen) < 0.8
    for noise in (Discordance(share / 2), Spread(share / 2)):
        needed = rows_needed(gap, noise)
        assert noise.power(needed, gap) >= 0.8
        assert noise.power(needed // 2, gap) < 0.8


@pytest.mark.parametrize(("rows", "share"), [(40, 0.5), (100, 0.15), (400, 0.05)])
def test_truth_values_differ_significantly_as_often_as_predicted(rows, share):
    noise, drawn = Discordance(share), truths(rows, share)
    gap = noise.detectable(rows)
    rate = noise.power(rows, gap)
    found = frequency(1000, rows, lambda generator: paired_test(*drawn(generator, gap)[:2]).p_value < 0.05)
    assert least(1000, rate) <= found <= most(1000, rate)


@pytest.mark.parametrize("rows", [40, 150])
@pytest.mark.parametrize("drawn", [thirds, even])
def test_numbers_differ_significantly_as_often_as_predicted(drawn, rows):
    generator, repetitions, found = np.random.default_rng(rows), 600, 0
    gap = Spread(float(drawn(generator, 100_000).std())).detectable(rows)
    for number in range(repetitions):
        shifted = drawn(generator, rows) + gap
        found += paired_test([0.0] * rows, shifted.tolist(), resamples=199, seed=number).p_value <= 0.05
    assert least(repetitions, 0.8) - 0.02 <= found / repetitions <= most(repetitions, 0.8) + 0.02


def test_clustered_numbers_differ_significantly_as_often_as_predicted():
    generator, repetitions, found, planned, drawn = np.random.default_rng(0), 500, 0, [], equal_clusters(40)
    for _ in range(40):
        a, b, clusters = drawn(generator, 0.0)
        planned.append(power_of(a, b, clusters=clusters))
    gap = float(np.mean([plan.detectable for plan in planned]))
    for number in range(repetitions):
        a, b, clusters = drawn(generator, gap)
        found += paired_test(a, b, clusters=clusters, resamples=199, seed=number).p_value <= 0.05
    # Of five rows with half their variance in common, design effect 1 + 4 · 0.5.
    assert float(np.mean([plan.design_effect for plan in planned])) == pytest.approx(3.0, abs=0.3)
    assert least(repetitions, 0.8) - 0.02 <= found / repetitions <= most(repetitions, 0.8) + 0.02


def test_power_is_planned_from_the_pairs_that_differ_whatever_the_order_of_samples_and_clusters_of_one_row():
    a, b = [False] * 10 + [True] * 90, [True] * 10 + [False] * 5 + [True] * 85
    found = power_of(a, b, targets=(0.05,))
    assert found.detectable == pytest.approx(Discordance(0.15).detectable(100))
    assert found.rows_for == {0.05: rows_needed(0.05, Discordance(0.15))}
    assert (found.rows, found.design_effect) == (100, 1.0)
    a, b = np.random.default_rng(3).random((2, 50)).tolist()
    assert power_of(a, b) == power_of(b, a) == power_of(a, b, clusters=list(range(50)))


def test_clusters_make_small_differences_harder_to_see():
    a, b = [False] * 120, ([True] * 6 + [False] * 24) * 4
    alone = power_of(a, b, targets=(0.05,))
    together = power_of(a, b, clusters=[number // 6 for number in range(120)], targets=(0.05,))
    assert together.design_effect == pytest.approx(6, abs=0.5)
    assert together.detectable > 1.5 * alone.detectable
    assert together.rows_for[0.05] > 4 * alone.rows_for[0.05]


def test_where_no_pair_differs_the_rule_of_three_says_how_many_could():
    found = power_of([True] * 100, [True] * 100)
    assert found.detectable == pytest.approx(Discordance(1 - 0.05 ** (1 / 100)).detectable(100))
    assert found.note == "no pair differed; up to 3 % could, by the rule of three; the baseline's mean (a) cannot rise"
    assert found.sentence.endswith(f"({found.note})")
    assert power_of([0.5] * 100, [0.5] * 100).detectable == pytest.approx(0.2837 * 0.171, rel=0.05)
    assert power_of([True] * 100, [True] * 100, clusters=[0, 1] * 50).detectable == math.inf


def test_a_difference_that_the_limits_of_a_score_do_not_leave_room_for_is_not_stated_as_one_to_be_seen():
    generator = np.random.default_rng(5)
    a = np.clip(generator.normal(4.7, 0.3, 12), 1, 5)
    b = np.clip(a + generator.normal(0, 0.5, 12), 1, 5)
    near_the_top = power_of(a.tolist(), b.tolist(), limits=(1.0, 5.0))
    open_ended = power_of(a.tolist(), b.tolist())
    assert near_the_top.detectable == open_ended.detectable > 5 - a.mean()
    assert near_the_top.note == f"the baseline's mean (a) can rise by {5 - a.mean():.2g} at most"
    assert near_the_top.sentence.endswith(f"({near_the_top.note})")
    assert open_ended.note == ""
    apart = power_of([1.0, 5.0] * 4, [5.0, 1.0] * 4, limits=(1.0, 5.0))
    assert apart.detectable == math.inf
    assert apart.sentence == "with 8 rows no difference can be seen, however large"


def test_rows_that_are_tied_make_a_difference_harder_to_see_than_their_deviation_says():
    """Of 20 rows of which 5 differ, no sign-flip test can find anything: it takes six."""
    generator = np.random.default_rng(1)
    differences = np.where(np.arange(20) % 4 == 0, generator.normal(0, 0.4, 20), 0.0)
    deviation = float(differences.std(ddof=1))
    tied = power_of([0.5] * 20, (0.5 + differences).tolist(), limits=(0.0, 2.0))
    assert tied.detectable > 1.2 * Spread(deviation).detectable(20)
    assert Spread(deviation, moved=0.25).power(20, Spread(deviation).detectable(20)) < 0.6
    many = Spread(deviation, moved=0.25).detectable(4000)
    assert many == pytest.approx(Spread(deviation).detectable(4000), rel=0.02)


def test_clusters_whose_sum_is_0_but_for_rounding_are_tied():
    clusters = [number // 3 for number in range(72)]
    assert 0.1 + 0.2 - 0.3 != 0
    rounded = power_of([0.0] * 72, [0.1, 0.2, -0.3, 0.1, 0.1, 0.1] * 12, clusters=clusters)
    exact = power_of([0.0] * 72, [0.25, 0.25, -0.5, 0.1, 0.1, 0.1] * 12, clusters=clusters)
    assert rounded.detectable == pytest.approx(exact.detectable, rel=1e-3)


def test_too_few_rows_and_scores_of_one_unknown_scale_see_nothing_however_large():
    found = power_of([True] * 5, [True] * 4 + [False])
    assert found.detectable == math.inf
    assert found.sentence == "with 5 rows no difference can be seen, however large"
    assert power_of([0.1], [0.4]).sentence == "with 1 row no difference can be seen, however large"
    unknown = power_of([7.0] * 30, [7.0] * 30)
    assert unknown.detectable == math.inf
    assert "of unknown scale" in unknown.sentence


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            Power(100, 0.09, {0.04: 420}),
            "with 100 rows a difference of 9 points can be seen; for 4 points you need 420 rows",
        ),
        (
            Power(100, 0.092, {0.04: 420, 0.01: 6000}),
            "with 100 rows a difference of 9.2 points can be seen; for 4 points you need 420 rows, for 1 point 6000",
        ),
        (
            Power(20, 1234.5, {200.0: 900}, in_points=False),
            "with 20 rows a difference of 1234 can be seen; for 200 you need 900 rows",
        ),
        (Power(20, 1.0, {}), "with 20 rows a difference of 100 points can be seen"),
    ],
)
def test_the_sentence_says_what_a_reader_asks(plan, sentence):
    assert plan.sentence == sentence


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(UsageError, match="same number of values"):
        power_of([True], [])
    with pytest.raises(UsageError, match="cluster names"):
        power_of([True, False], [True, True], clusters=["a"])
    with pytest.raises(UsageError, match="above 0"):
        power_of([True] * 20, [False] * 20, targets=(0.0,))
    with pytest.raises(UsageError, match="more than 1e\\+12 rows"):
        rows_needed(1e-9, Spread(1.0))


# The sequential test keeps its promise whenever one looks: simulated with a look after every row


within_one = st.lists(st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1)), min_size=1, max_size=60)


def after(differences: Any, **bounds: float) -> SequentialTest:
    test = SequentialTest(**bounds)
    test.update(differences)
    return test


@given(within_one, st.lists(st.integers(1, 20), min_size=1, max_size=5), st.sampled_from([0.01, 5.0, 1e6]))
@example([0.25, -1.0], [1], 5.0)  # two rows with the same evidence, but for the last bits
def test_neither_calls_nor_units_matter_and_swapping_the_releases_mirrors_everything_but_p(differences, cuts, unit):
    whole, pieces, start = after(differences), SequentialTest(), 0
    for cut in (*cuts, len(differences)):
        pieces.update(differences[start : start + cut])
        start += cut
    back = after([-value for value in differences])
    scaled = after([unit * value for value in differences], low=-unit, high=unit)
    for other in (pieces, back, scaled):
        assert other.p_value == pytest.approx(whole.p_value)
    assert pieces.n == whole.n == len(differences)
    assert pieces.mean == pytest.approx(whole.mean)
    assert back.mean == pytest.approx(-whole.mean)
    assert pieces.interval == pytest.approx(whole.interval)
    assert (-back.interval[1], -back.interval[0]) == pytest.approx(whole.interval, abs=1e-9)
    assert scaled.interval == pytest.approx(tuple(unit * end for end in whole.interval), rel=1e-6, abs=1e-9 * unit)


@given(within_one)
def test_p_never_rises_and_a_decision_stands(differences):
    test, before = SequentialTest(), 1.0
    for difference in differences:
        was_decided = test.decided
        test.update([difference])
        assert 0 < test.p_value <= before
        assert test.decided >= was_decided
        assert test.decided == (test.p_value <= 0.05)
        before = test.p_value


@given(within_one)
def test_the_interval_leaves_0_out_exactly_when_the_test_has_decided(differences):
    test = after(differences)
    low, high = test.interval
    assert -1 <= low <= high <= 1
    # An interval is moved outwards by a billionth of its range.
    if abs(test.p_value - 0.05) > 1e-6:
        assert test.decided == (test.p_value < 0.05)
    # A reversed stream may leave no mean that fits both; the interval is then that of all the rows.
    if not test.decided:
        assert low <= 0 <= high
    elif np.ptp(np.sign(differences)) < 2:
        assert low > 0 or high < 0


def test_before_the_first_row_everything_is_open_rows_at_a_bound_decide_soon_and_ties_narrow_the_interval_around_0():
    test = SequentialTest(low=-2, high=3)
    test.update([])
    assert (test.n, test.mean, test.p_value, test.interval, test.decided) == (0, 0.0, 1.0, (-2, 3), False)
    test = after([1.0] * 10)
    assert test.decided
    assert test.interval[1] == 1
    assert test.interval[0] > 0
    few, many = after([0.0] * 50), after([0.0] * 500)
    assert few.p_value == many.p_value == 1
    assert many.interval[1] < few.interval[1] / 5
    assert many.interval[0] == pytest.approx(-many.interval[1])


def test_a_difference_out_of_bounds_is_refused_and_nothing_is_taken_and_bounds_must_hold_0():
    test = SequentialTest()
    for wrong in (1.01, -2.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="outside -1 to 1"):
            test.update([0.5, wrong])
        assert test.n == 0
    for bounds in ({"low": 0.0}, {"high": -0.1}, {"high": float("inf")}):
        with pytest.raises(UsageError, match="low < 0 < high"):
            SequentialTest(**bounds)


# Simulations: `paths` streams of up to 500 rows each, with a look after every row.

Draw = Callable[[Any, tuple[int, int], float], Any]


def rarely_discordant(generator: Any, shape: tuple[int, int], gain: float) -> Any:
    """Truth values, 5 % of which differ."""
    return generator.choice([1.0, -1.0, 0.0], shape, p=[0.025 + gain / 2, 0.025 - gain / 2, 0.95])


def often_discordant(generator: Any, shape: tuple[int, int], gain: float) -> Any:
    return generator.choice([1.0, -1.0, 0.0], shape, p=[0.2 + gain / 2, 0.2 - gain / 2, 0.6])


def skewed(generator: Any, shape: tuple[int, int], gain: float) -> Any:
    """Mostly small losses, now and then a large gain."""
    return generator.beta(0.3, 2.7, shape) - 0.1 + gain


def always_discordant(generator: Any, shape: tuple[int, int], gain: float) -> Any:
    return generator.choice([1.0, -1.0], shape, p=[0.5 + gain / 2, 0.5 - gain / 2])


def decided_share(drawn: Draw, paths: int, gain: float) -> float:
    generator = np.random.default_rng(5)
    return sum(after(path).decided for path in drawn(generator, (paths, 500), gain)) / paths


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [rarely_discordant, often_discordant, skewed, always_discordant])
def test_with_a_look_after_every_row_5_percent_are_found_where_nothing_is(drawn):
    """`update` looks after every row of a call: p is the least of them, so `decided` is the outcome of 500 looks."""
    assert decided_share(drawn, 2000, 0.0) <= most(2000, 0.05)


@pytest.mark.parametrize(("drawn", "gain"), [(often_discordant, 0.15), (skewed, 0.05), (always_discordant, 0.3)])
def test_a_real_gain_is_found_in_sequence(drawn, gain):
    assert decided_share(drawn, 200, gain) >= 0.9


@pytest.mark.parametrize(("drawn", "gain"), [(rarely_discordant, 0.03), (often_discordant, 0.1), (skewed, 0.02)])
def test_the_true_mean_is_held_at_all_looks_together(drawn, gain):
    """The interval leaves a mean out when the test of that mean, of the rows moved by it, has decided."""
    generator, paths, lost = np.random.default_rng(7), 600, 0
    for path in drawn(generator, (paths, 500), gain):
        lost += after(path - gain, low=-1 - gain, high=1 - gain).decided
    assert lost / paths <= most(paths, 0.05)


@given(within_one, st.floats(-0.9, 0.9))
def test_the_interval_holds_the_means_whose_test_has_not_decided(differences, mean):
    low, high = after(differences).interval
    moved = after([value - mean for value in differences], low=-1 - mean - 1e-12, high=1 - mean + 1e-12)
    if mean < low - 1e-6 or mean > high + 1e-6:
        assert moved.decided
