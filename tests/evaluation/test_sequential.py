"""The sequential test keeps its promise whenever one looks: simulated with a look after every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.evaluation.sequential import SequentialTest
from tests.evaluation.samples import most

quick = settings(max_examples=25, deadline=None)
within_one = st.lists(st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1)), min_size=1, max_size=60)


def after(differences: Any, **bounds: float) -> SequentialTest:
    test = SequentialTest(**bounds)
    test.update(differences)
    return test


@given(within_one, st.lists(st.integers(1, 20), min_size=1, max_size=5))
@quick
def test_how_rows_are_cut_into_calls_does_not_matter(differences: list[float], cuts: list[int]) -> None:
    whole, pieces, start = after(differences), SequentialTest(), 0
    for cut in cuts:
        pieces.update(differences[start : start + cut])
        start += cut
    pieces.update(differences[start:])
    assert pieces.n == whole.n == len(differences)
    assert pieces.mean == pytest.approx(whole.mean)
    assert pieces.p_value == pytest.approx(whole.p_value)
    assert pieces.interval == pytest.approx(whole.interval)


@given(within_one)
@example([0.25, -1.0])  # two rows with the same evidence, but for the last bits
@quick
def test_swapping_the_releases_mirrors_everything_but_p(differences: list[float]) -> None:
    there, back = after(differences), after([-value for value in differences])
    assert back.mean == pytest.approx(-there.mean)
    assert back.p_value == pytest.approx(there.p_value)
    assert (-back.interval[1], -back.interval[0]) == pytest.approx(there.interval, abs=1e-9)


@given(within_one, st.sampled_from([0.01, 5.0, 1e6]))
@quick
def test_the_unit_of_the_differences_does_not_matter(differences: list[float], unit: float) -> None:
    plain, scaled = after(differences), after([unit * value for value in differences], low=-unit, high=unit)
    assert scaled.p_value == pytest.approx(plain.p_value)
    assert scaled.interval == pytest.approx(tuple(unit * end for end in plain.interval), rel=1e-6, abs=1e-9 * unit)


@given(within_one)
@quick
def test_p_never_rises_and_a_decision_stands(differences: list[float]) -> None:
    test, before = SequentialTest(), 1.0
    for difference in differences:
        was_decided = test.decided
        test.update([difference])
        assert 0 < test.p_value <= before
        assert test.decided >= was_decided
        assert test.decided == (test.p_value <= 0.05)
        before = test.p_value


@given(within_one)
@quick
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


def test_before_the_first_row_everything_is_open() -> None:
    test = SequentialTest(low=-2, high=3)
    test.update([])
    assert (test.n, test.mean, test.p_value, test.interval, test.decided) == (0, 0.0, 1.0, (-2, 3), False)


def test_rows_at_a_bound_decide_soon_and_rows_without_a_difference_narrow_the_interval_around_0():
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
    for bounds in ({"low": 0.0}, {"high": -0.1}, {"alpha": 0.0}, {"alpha": 1.0}, {"high": float("inf")}):
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
def test_with_a_look_after_every_row_5_percent_are_found_where_nothing_is(drawn: Draw) -> None:
    """`update` looks after every row of a call: p is the least of them, so `decided` is the outcome of 500 looks."""
    assert decided_share(drawn, 2000, 0.0) <= most(2000, 0.05)


@pytest.mark.parametrize(("drawn", "gain"), [(often_discordant, 0.15), (skewed, 0.05), (always_discordant, 0.3)])
def test_a_real_gain_is_found(drawn: Draw, gain: float) -> None:
    assert decided_share(drawn, 200, gain) >= 0.9


@pytest.mark.parametrize(("drawn", "gain"), [(rarely_discordant, 0.03), (often_discordant, 0.1), (skewed, 0.02)])
def test_the_true_mean_is_held_at_all_looks_together(drawn: Draw, gain: float) -> None:
    """The interval leaves a mean out when the test of that mean, of the rows moved by it, has decided."""
    generator, paths, lost = np.random.default_rng(7), 600, 0
    for path in drawn(generator, (paths, 500), gain):
        lost += after(path - gain, low=-1 - gain, high=1 - gain).decided
    assert lost / paths <= most(paths, 0.05)


@given(within_one, st.floats(-0.9, 0.9))
@quick
def test_the_interval_holds_the_means_whose_test_has_not_decided(differences: list[float], mean: float) -> None:
    low, high = after(differences).interval
    moved = after([value - mean for value in differences], low=-1 - mean - 1e-12, high=1 - mean + 1e-12)
    if mean < low - 1e-6 or mean > high + 1e-6:
        assert moved.decided


def test_the_interval_looked_at_now_and_then_holds_the_truth() -> None:
    generator, paths, gain, lost = np.random.default_rng(7), 60, 0.1, 0
    for path in often_discordant(generator, (paths, 300), gain):
        test, held = SequentialTest(), True
        for piece in np.split(path, 4):
            test.update(piece)
            low, high = test.interval
            held = held and low <= gain <= high
        lost += not held
    assert lost / paths <= most(paths, 0.05)


def test_a_fixed_test_looked_at_after_every_row_would_find_far_too_much() -> None:
    """Why there is a sequential test at all."""
    paths = often_discordant(np.random.default_rng(1), (500, 500), 0.0)
    sums, squares = paths.cumsum(axis=1)[:, 20:], (paths**2).cumsum(axis=1)[:, 20:]
    assert float((np.abs(sums) > 1.96 * squares**0.5).any(axis=1).mean()) > 0.25
