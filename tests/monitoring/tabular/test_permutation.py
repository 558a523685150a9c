"""Permuting blocks: exact where blocks are exchangeable, at its level where a day is like the day before."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.tabular.permutation import (
    BlockDraws,
    BlockTable,
    compare_blocks,
    design_effect,
    inflation,
    kolmogorov_smirnov,
    neighbour_correlation,
    rise_of_mean,
)

DRAWS = BlockDraws(60, 30, 1_999)


def days(blocks, correlation, chance):
    steps, fresh = chance.standard_normal(blocks), math.sqrt(1 - correlation**2)
    for day in range(1, blocks):
        steps[day] = correlation * steps[day - 1] + fresh * steps[day]
    return steps


def table(values, reference):
    return BlockTable(np.asarray(values, dtype=float)[:, None], np.ones(len(values)), reference)


def test_a_few_blocks_are_tested_exactly():
    seen = compare_blocks(table([1, 2, 3, 4, 9, 8], 4), rise_of_mean, BlockDraws(4, 2, 5_999), neighbours_alike=False)
    assert seen.statistic == pytest.approx(6.0)
    assert seen.p_value == pytest.approx(1 / math.comb(6, 2), rel=0.3)  # stops after forty as extreme


def test_a_fall_is_no_rise_and_blocks_of_more_rows_count_for_more():
    fall = compare_blocks(table([5.0] * 30 + [1.0] * 20, 30), rise_of_mean, BlockDraws(30, 20, 999))
    assert fall.p_value > 0.9
    cells, sizes = np.array([[10.0], [10.0], [1.0], [90.0]]), np.array([10.0, 10.0, 1.0, 10.0])
    seen = compare_blocks(BlockTable(cells, sizes, 2), rise_of_mean, BlockDraws(2, 2, 99))
    assert seen.statistic == pytest.approx(91 / 11 - 1)


def test_empty_blocks_are_left_out():
    empty = BlockTable(np.array([[1.0], [0.0], [2.0], [0.0]]), np.array([1.0, 0.0, 1.0, 0.0]), 2)
    assert compare_blocks(empty, rise_of_mean, BlockDraws(2, 2, 99)).blocks == (1, 1)
    none = BlockTable(np.array([[1.0], [0.0]]), np.array([1.0, 0.0]), 1)
    assert compare_blocks(none, rise_of_mean, BlockDraws(1, 1, 99)).p_value == 1.0


def test_the_same_question_has_the_same_answer():
    values = table(days(90, 0.3, np.random.default_rng(1)), 60)
    first, again = (compare_blocks(values, rise_of_mean, BlockDraws(60, 30, 999)) for _ in range(2))
    assert first == again


@given(correlation=st.floats(0, 0.9), blocks=st.integers(2, 60))
def test_the_design_effect_is_that_of_an_ar1_process(correlation, blocks):
    lags = np.abs(np.subtract.outer(np.arange(blocks), np.arange(blocks)))
    assert inflation(correlation, blocks) == pytest.approx((correlation**lags).sum() / blocks)
    assert design_effect(0.0, blocks, blocks) == pytest.approx(1.0)


def test_the_correlation_of_neighbours_is_found_and_never_taken_too_low_on_average():
    chance = np.random.default_rng(2)
    found = [neighbour_correlation(table(days(90, 0.6, chance), 60)) for _ in range(60)]
    assert 0.6 < float(np.mean(found)) < 0.75


def test_a_slow_season_is_change_and_not_noise():
    """What moves more slowly than a window must not make every difference look like chance."""
    chance = np.random.default_rng(3)
    season = 3 * np.sin(np.arange(390) * 2 * np.pi / 365)
    assert neighbour_correlation(table(chance.standard_normal(390) + season, 360)) < 0.4
    assert neighbour_correlation(table(np.ones(90), 60)) == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_quiet_windows_pass_at_the_level_whether_days_are_alike_or_not(correlation):
    chance = np.random.default_rng(4)
    skewed = [np.exp(0.7 * days(90, correlation, chance)) for _ in range(400)]
    alarms = sum(compare_blocks(table(each, 60), rise_of_mean, DRAWS).p_value <= 0.05 for each in skewed)
    assert alarms <= 32  # at 5 % as many or more come once in 1,000 times


def test_without_the_stretch_days_that_are_alike_would_alarm_too_often():
    chance = np.random.default_rng(5)
    alike = [table(days(90, 0.6, chance), 60) for _ in range(150)]
    tested = [compare_blocks(each, rise_of_mean, DRAWS, neighbours_alike=False).p_value for each in alike]
    assert sum(p <= 0.05 for p in tested) > 20


def test_distributions_are_compared_by_their_largest_distance():
    counts = np.array([[4.0, 0.0]] * 8 + [[0.0, 4.0]] * 8)
    cumulative = BlockTable(np.cumsum(counts, axis=1)[:, :-1], counts.sum(axis=1), 8)
    seen = compare_blocks(cumulative, kolmogorov_smirnov, BlockDraws(8, 8, 1_999), neighbours_alike=False)
    assert seen.statistic == 1.0
    assert seen.p_value < 0.002
