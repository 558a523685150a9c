"""Shares: exact tests, and intervals that agree with them."""

from __future__ import annotations

from itertools import product

import pytest
from scipy import optimize, stats

from llmops.evaluation.paired_tests import paired_test
from llmops.evaluation.statistics import (
    difference_interval,
    sign_test_interval,
    sign_test_p,
    wilson_interval,
)

SIDES = range(41)


def test_the_interval_of_a_difference_leaves_out_0_exactly_when_mcnemars_p_is_below_5_percent() -> None:
    for gained, lost in product(SIDES, SIDES):
        for pairs in {max(gained + lost, 2), 2 * (gained + lost) + 3, 20 * (gained + lost) + 50}:
            low, high = difference_interval(gained, lost, pairs)
            assert (low > 0 or high < 0) == (sign_test_p(gained, lost) < 0.05), (gained, lost, pairs)
            assert -1 <= low < high <= 1
            assert low <= (gained - lost) / pairs <= high


def test_the_interval_of_a_difference_turns_round_with_the_sides() -> None:
    low, high = difference_interval(7, 2, 60)
    assert difference_interval(2, 7, 60) == pytest.approx((-high, -low))


@pytest.mark.parametrize("lost", [4, 14, 40])
def test_without_a_correction_its_ends_are_1_96_standard_errors_away_at_the_likeliest_shares(lost):
    # Where gains equal losses, p is 1 and nothing has to be taken off: then it is Tango's own interval.
    pairs = 101
    _, high = difference_interval(lost, lost, pairs)

    def unlikely(share: float) -> float:
        return -float(
            stats.multinomial.logpmf([lost, lost, pairs - 2 * lost], pairs, [share + high, share, 1 - 2 * share - high])
        )

    share = float(optimize.minimize_scalar(unlikely, bounds=(1e-9, (1 - high) / 2 - 1e-9), method="bounded").x)
    error = (pairs * (2 * share + high - high**2)) ** 0.5
    assert pairs * high / error == pytest.approx(1.96, abs=0.001)


@pytest.mark.parametrize("pairs", [2, 30, 120])
def test_without_a_pair_that_differs_it_ends_where_wilsons_interval_of_no_success_does(pairs: int) -> None:
    end = wilson_interval(0.0, pairs, 1.959964)[1]
    assert difference_interval(0, 0, pairs) == pytest.approx((-end, end), abs=1e-6)


@pytest.mark.parametrize(("n", "at_least"), [(20, 0.95), (30, 0.945), (80, 0.945)])
@pytest.mark.parametrize(("gain", "loss"), [(0.1, 0.1), (0.02, 0.02), (0.15, 0.03), (0.01, 0.08), (0.0, 0.05)])
def test_the_interval_of_a_difference_covers_the_truth(gain: float, loss: float, n: int, at_least: float) -> None:
    """Exact: every outcome of gains and losses, weighted by its probability."""
    covered = seen = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            weight = stats.multinomial.pmf([gained, lost, n - gained - lost], n, [gain, loss, 1 - gain - loss])
            if weight < 1e-6:
                continue
            low, high = difference_interval(gained, lost, n)
            seen += weight
            covered += weight * (low <= gain - loss <= high)
    assert covered / seen >= at_least


def test_one_pair_has_no_interval_and_says_why() -> None:
    found = paired_test([True], [False])
    assert (found.ci95, found.p_value, found.note) == (None, 1.0, "one pair says nothing about others")


def test_the_interval_of_a_majority_leaves_out_a_half_exactly_when_the_sign_test_is_below_5_percent() -> None:
    for gained, lost in product(SIDES, SIDES):
        if gained + lost:
            low, high = sign_test_interval(gained, lost)
            assert (low > 0.5 or high < 0.5) == (sign_test_p(gained, lost) < 0.05), (gained, lost)
            assert 0 <= low <= gained / (gained + lost) <= high <= 1


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (5, 0), (8, 2), (40, 60)])
def test_the_interval_of_a_majority_is_clopper_and_pearsons(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).proportion_ci(method="exact")
    assert sign_test_interval(gained, lost) == pytest.approx((expected.low, expected.high))
