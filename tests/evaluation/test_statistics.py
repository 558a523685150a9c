"""The statistics do what their names promise: properties for any data, and error rates measured by simulation.

Seeds are fixed, so a rate is the same on every run; the bounds allow for the binomial error of the repetitions.
"""

import functools
import json
import math
import time
import tracemalloc
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from benchmarks.evaluation.statistics import clustered_numbers, clustered_truths, exponential, much_lost, rare, thirds
from llmops.evaluation import statistics
from llmops.evaluation.paired_tests import PairedTest, paired_test, sign_flips
from llmops.evaluation.results import Metric
from llmops.evaluation.statistics import (
    difference_interval,
    holm,
    mean_interval,
    no_interval,
    sign_test_interval,
    sign_test_p,
    wilson_interval,
)
from tests.evaluation.conftest import few_losses, frequency, holds, least, most

Pairs = tuple[list[Any], list[Any]]
RESAMPLES = 199

scores = st.floats(0, 1)
measures = st.floats(-1e9, 1e9)
truths = st.booleans()
rated = st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0])


def pairs_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Pairs]:
    both = st.lists(st.tuples(values, values), min_size=1, max_size=40)
    return both.map(lambda found: ([a for a, _ in found], [b for _, b in found]))


any_pairs = st.one_of(map(pairs_of, (scores, measures, truths, rated)))


def compared(pairs: Pairs) -> PairedTest:
    return paired_test(*pairs, resamples=RESAMPLES)


@given(any_pairs)
@example(([0.0, 0.0, 0.0], [0.0, 0.0, 1e-300]))
@example(([0.0], [0.25]))
@example(([True], [False]))
@example(([0.1, 0.7, 1.0], [0.3, 0.9, 1.2]))  # differences that are equal but for rounding
@example(([0.0] * 20, [0.0] * 19 + [0.5]))
@example(([0.0] * 40, [1e9] + [0.0] * 39))
def test_p_is_a_probability_the_interval_holds_the_difference_and_a_comparison_repeats_exactly(pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, with_itself = compared(pairs), compared((pairs[0], pairs[0]))
    assert 0 < found.p_value <= 1
    assert found.ci95 is not None or found.note
    if found.ci95 is not None:
        assert found.ci95[0] <= found.difference <= found.ci95[1]
        assert found.ci95[0] < found.ci95[1]
        assert np.isfinite(found.ci95).all()
    assert (with_itself.difference, with_itself.p_value) == (0, 1)
    assert with_itself.ci95 is None or with_itself.ci95[0] < 0 < with_itself.ci95[1]
    assert compared(pairs) == found
    clusters_of_one = [f"row {number}" for number in range(len(pairs[0]))]
    assert paired_test(*pairs, clusters=clusters_of_one, resamples=RESAMPLES) == found
    assert mean_interval(pairs[0], clusters_of_one) == mean_interval(pairs[0])


clustered_pairs = any_pairs.flatmap(
    lambda pairs: st.tuples(st.just(pairs), st.lists(st.integers(0, 9), min_size=len(pairs[0]), max_size=len(pairs[0])))
)


@given(st.one_of(clustered_pairs, any_pairs.map(lambda pairs: (pairs, None))))
@settings(max_examples=120)
@example((([True] * 4, [True] * 4), [0, 0, 0, 0]))
@example((([7.0] * 4, [7.0] * 4), [0, 0, 1, 1]))
@example((([0.0, 1.0], [1.0, 0.0]), [0, 0]))
def test_swapping_the_samples_negates_everything_but_p_and_names_of_clusters_do_not_matter(found):
    (a, b), clusters = found
    there = paired_test(a, b, clusters=clusters, resamples=RESAMPLES)
    back = paired_test(b, a, clusters=clusters, resamples=RESAMPLES)
    assert back.difference == -there.difference
    assert back.p_value == pytest.approx(there.p_value)
    assert 0 < there.p_value <= 1
    assert (there.ci95 is None) == (back.ci95 is None)
    if there.ci95 is not None and back.ci95 is not None:
        reach = max(map(abs, there.ci95))
        assert (-back.ci95[1], -back.ci95[0]) == pytest.approx(there.ci95, abs=1e-6 * reach)
        assert there.ci95[0] <= there.difference <= there.ci95[1]
    names = None if clusters is None else [f"passage {number}" for number in clusters]
    assert paired_test(a, b, clusters=names, resamples=RESAMPLES) == there
    assert mean_interval(a, clusters) == mean_interval(a, names)


@given(pairs_of(measures), st.sampled_from([1e-6, 0.5, 3.0, 1e6]))
def test_numbers_may_be_measured_in_any_unit(pairs, unit):
    if pairs[0] == pairs[1]:
        return
    plain, scaled = compared(pairs), compared(([unit * a for a in pairs[0]], [unit * b for b in pairs[1]]))
    assert scaled.difference == pytest.approx(unit * plain.difference, rel=1e-6, abs=1e-6 * unit)
    assert scaled.p_value == pytest.approx(plain.p_value, abs=0.05)


def test_samples_that_are_no_pairs_and_cluster_names_that_do_not_match_the_rows_are_refused():
    for a, b in (([], []), ([1.0], []), ([1.0, 2.0], [1.0]), ([True], [True, False])):
        with pytest.raises(ValueError, match="same number of values"):
            paired_test(a, b)
    for clusters in ([], ["a"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="a name for each row"):
            paired_test([1.0, 2.0], [2.0, 3.0], clusters=clusters)
        with pytest.raises(ValueError, match="a name for each row"):
            mean_interval([1.0, 2.0], clusters)


@pytest.mark.parametrize(
    ("a", "b", "binary"),
    [
        ([True, False], [True, True], True),
        ([1, 0.0], [True, 1.0], True),
        ([1.0, 0.0], [1.0, 0.5], False),
        ([True, False], [1.0, 0.5], False),
    ],
)
def test_truth_values_are_tested_by_mcnemar_and_numbers_by_permutation(a, b, binary):
    assert (statistics.is_binary(a) and statistics.is_binary(b)) == binary
    assert paired_test(a, b).test == ("mcnemar-exact" if binary else "paired-permutation")


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (3, 3, 1.0),
        (8, 2, 2 * 56 / 1024),
        (1, 9, 2 * 11 / 1024),
    ],
)
def test_mcnemar_is_the_exact_binomial_test_of_the_pairs_that_differ(gained, lost, p_value):
    a = [False] * gained + [True] * lost + [True, False] * 10
    b = [True] * gained + [False] * lost + [True, False] * 10
    found = paired_test(a, b)
    assert found.p_value == pytest.approx(p_value)
    assert found.difference == pytest.approx((gained - lost) / len(a))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 10])
def test_the_permutation_test_of_few_pairs_counts_every_flip(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    means = np.array([np.mean(differences * signs) for signs in product([1, -1], repeat=n)])
    expected = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    found = sign_flips(differences, np.ones(n), resamples=4999, generator=np.random.default_rng(0))
    assert found.p_value == pytest.approx(expected)
    assert paired_test([0.0] * n, differences.tolist()).p_value >= expected - 1e-12


def test_differences_that_are_all_the_same_have_the_p_of_all_signs_alike():
    for n in (1, 2, 6, 30):
        assert paired_test([0.0] * n, [0.25] * n).p_value == 2.0 ** (1 - n)


@pytest.mark.parametrize(
    ("values", "limits", "end"),
    [
        ([0.25, 0.5, 1.0] * 10, statistics.UNLIMITED, 0.1135),  # as far as Wilson's interval of 0 in 30 goes
        ([True] * 30, statistics.UNLIMITED, 0.1135),
        ([0.25, 0.5, 1.0] * 10, (0.0, 2.0), 0.2270),
        ([0.5] * 200, statistics.UNLIMITED, 0.0188),  # more pairs say more
        ([100.0, 200.0, 300.0] * 10, statistics.UNLIMITED, 22.70),  # the scale is their own spread
        ([7.0] * 30, (1.0, 9.0), 0.908),
    ],
)
def test_no_pair_that_differs_does_not_show_that_none_would(values, limits, end):
    assert paired_test(values, values, limits=limits).ci95 == pytest.approx((-end, end), rel=0.005)


@pytest.mark.parametrize(
    ("a", "b", "p_value", "note"),
    [
        ([7.0] * 30, [7.0] * 30, 1.0, "every row has the same value, of unknown scale"),
        ([True], [False], 1.0, "one pair says nothing about others"),
    ],
)
def test_where_there_can_be_no_interval_of_a_difference_the_reason_is_told(a, b, p_value, note):
    found = paired_test(a, b)
    assert (found.ci95, found.p_value, found.note) == (None, p_value, note)


RATED = st.sampled_from([0.0, 0.5, 1.0])
ANY_SAMPLE = st.one_of(
    st.tuples(st.lists(st.one_of(scores, measures), min_size=2, max_size=40), st.just(statistics.UNLIMITED)),
    st.tuples(st.lists(st.one_of(scores, RATED), min_size=2, max_size=60), st.just((0.0, 1.0))),
    st.tuples(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=12), st.just((0.0, math.inf))),
    st.tuples(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=12), st.just((0.0, 3.0))),
    st.tuples(st.lists(truths, min_size=2, max_size=200), st.just((0.0, 1.0))),
)


@given(ANY_SAMPLE, st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=150)
@example(([1.0] * 30, (0.0, 1.0)), False, None)
@example(([0.5] * 30, (0.0, 1.0)), False, None)
@example(([1.0] * 29 + [0.99], (0.0, 1.0)), False, None)
def test_an_interval_of_a_mean_holds_it_within_the_limits_and_is_never_a_point(sample, in_clusters, chance):
    values, limits = sample
    clusters = [chance.randrange(10) for _ in values] if in_clusters else None
    found = mean_interval(values, clusters, limits)
    assert (found is None) == (no_interval(values, clusters, limits) != "")
    if found is not None:
        rounding = 1e-12 * max(map(abs, values), default=1.0) + 1e-12
        assert limits[0] - rounding <= found[0] <= float(np.mean(values)) + rounding
        assert float(np.mean(values)) - rounding <= found[1] <= limits[1] + rounding
        assert found[0] < found[1]
        assert not isinstance(values[0], bool) or found[1] - found[0] > 0.01  # certain of nothing


def test_rows_that_all_have_one_value_leave_room_for_those_not_seen_and_ones_on_a_scale_from_1_to_5_are_no_shares():
    # Of 30 rows without another value, up to 11.4 % could have one (Wilson), at the end of the scale.
    assert mean_interval([3.0] * 30, limits=(1.0, 5.0)) == pytest.approx((3 - 0.1135 * 2, 3 + 0.1135 * 2), abs=0.001)
    assert mean_interval([1.0] * 30, limits=(0.0, 1.0)) == mean_interval([True] * 30)
    assert mean_interval([1.0] * 30, limits=(1.0, 5.0)) == pytest.approx((1.0, 1 + 0.1135 * 4), abs=0.001)
    same = paired_test([1.0] * 30, [1.0] * 30, limits=(1.0, 5.0))
    assert same.test != "mcnemar-exact"
    assert same.ci95 == pytest.approx((-0.1135 * 4, 0.1135 * 4), abs=0.001)


def test_clusters_that_agree_on_the_mean_do_not_make_it_certain():
    values, clusters = [1.0, 5.0, 3.0, 2.0, 4.0] * 4, [*"aabcc"] * 4
    low, high = mean_interval(values, clusters, limits=(1.0, 5.0)) or (0, 0)
    assert 1 <= low < 3 < high <= 5
    assert mean_interval(values, clusters) is None
    assert no_interval(values, clusters) == "every cluster has the same mean, of unknown scale"


@pytest.mark.parametrize("written", [float, int, bool])
def test_values_of_0_and_1_have_wilsons_interval_however_they_are_written(written):
    for hits, rows in ((0, 20), (3, 20), (20, 20), (60, 120)):
        found = mean_interval([written(i < hits) for i in range(rows)])
        assert found == pytest.approx(stats.binomtest(hits, rows).proportion_ci(method="wilson"))


@pytest.mark.parametrize(
    ("values", "clusters", "reason"),
    [
        ([0.3], None, "one row says nothing about others"),
        ([True], None, "one row says nothing about others"),
        ([True, False, True], ["x"] * 3, "one cluster says nothing about others"),
        ([0.1, 0.2, 0.6], ["x"] * 3, "one cluster says nothing about others"),
        ([5.0, 5.0], None, "every row has the same value, of unknown scale"),
    ],
)
def test_where_there_can_be_no_interval_of_a_mean_the_reason_is_told(values, clusters, reason):
    assert mean_interval(values, clusters) is None
    assert statistics.no_interval(values, clusters) == reason
    told = Metric.of(values, 0, clusters)
    assert (told.ci95, told.note) == (None, reason)
    assert Metric.from_json(json.loads(json.dumps(told.to_json()))) == told


@given(st.lists(st.floats(0, 1), max_size=12))
@example([0.2, 0.001, 0.04, 0.04, 0.9, 0.012, 1.0, 0.0])
def test_holm_is_the_largest_multiple_of_a_p_value_up_to_its_rank(p_values):
    ranked = sorted(p_values)
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        multiples = [(len(ranked) - rank) * each for rank, each in enumerate(ranked) if each <= p]
        assert adjusted == pytest.approx(min(1.0, max(multiples)))


# Simulations


def rouge_like(generator: Any, n: int) -> Pairs:
    """Two answers to questions of very different difficulty; neither cell is better."""
    difficulty = generator.beta(0.5, 0.8, n)
    return tuple(np.clip(difficulty + generator.normal(0, 0.15, n), 0, 1).tolist() for _ in range(2))  # type: ignore[return-value]


def tied(generator: Any, n: int) -> Pairs:
    """Shares of three fields, the same in 85 % of the rows."""
    a = generator.choice([0, 1 / 3, 2 / 3, 1], n, p=[0.1, 0.1, 0.3, 0.5])
    b = generator.choice([0, 1 / 3, 2 / 3, 1], n, p=[0.1, 0.1, 0.3, 0.5])
    changed = generator.random(n) < 0.15
    return a.tolist(), np.where(changed, b, a).tolist()


def seconds_like(generator: Any, n: int) -> Pairs:
    """Latencies: heavy tails."""
    return tuple(generator.lognormal(3, 1, n).tolist() for _ in range(2))  # type: ignore[return-value]


def gains(drawn: Callable[[Any, int], Any]) -> Callable[[Any, int], Pairs]:
    return lambda generator, n: ([0.0] * n, drawn(generator, n).tolist())


def truths_of(changing: float) -> Callable[[Any, int], Pairs]:
    def drawn(generator: Any, n: int) -> Pairs:
        a, b = generator.random((2, n)) < 0.5
        return a.tolist(), np.where(generator.random(n) < changing, b, a).tolist()

    return drawn


@pytest.mark.parametrize(
    ("drawn", "n", "repetitions"),
    [
        *((drawn, n, 300) for drawn in (rouge_like, tied, seconds_like) for n in (20, 50, 120)),
        *((drawn, n, 300) for drawn in (gains(exponential), gains(much_lost)) for n in (40, 120)),
        *((truths_of(changing), n, 500) for changing in (0.05, 0.4, 1.0) for n in (20, 50, 120)),
    ],
)
def test_no_more_than_5_percent_are_found_where_nothing_is(drawn, n, repetitions):
    found = frequency(repetitions, n, lambda generator: compared(drawn(generator, n)).p_value < 0.05)
    assert found <= most(repetitions, 0.05)


def small_gains(generator: Any, n: int) -> Any:
    """Every score gains, most by little."""
    return generator.beta(0.7, 5, n)


def slower(generator: Any, n: int) -> Any:
    return generator.lognormal(3, 0.8, n) - generator.lognormal(3.2, 0.8, n)


@pytest.mark.parametrize("n", [30, 120])
@pytest.mark.parametrize("drawn", [few_losses, rare, thirds, small_gains, slower])
def test_the_interval_of_a_difference_of_numbers_covers_the_truth(drawn, n):
    truth = float(drawn(np.random.default_rng(0), 1_000_000).mean())
    assert (
        frequency(300, n, lambda generator: holds(compared(([0.0] * n, drawn(generator, n).tolist())).ci95, truth))
        >= 0.92
    )


@pytest.mark.parametrize("n", [30, 60, 120])
@pytest.mark.parametrize("shape", [(0.5, 0.8), (4.0, 1.0), (0.4, 1.2)])
def test_the_interval_of_a_mean_covers_the_truth(shape, n):
    truth = shape[0] / sum(shape)
    assert frequency(1000, n, lambda generator: holds(mean_interval(generator.beta(*shape, n).tolist()), truth)) >= 0.92


# Clusters


def test_the_clustered_test_counts_every_flip_of_whole_clusters():
    differences, clusters = [0.3, 0.1, 0.2, -0.4, 0.5, 0.05], ["a", "a", "b", "c", "d", "d"]
    sums = np.array([0.4, 0.2, -0.4, 0.55])
    flipped = np.array([abs(sums @ signs) for signs in product([1, -1], repeat=4)])
    sizes, generator = np.array([2, 1, 1, 2]), np.random.default_rng(0)
    found = sign_flips(sums, sizes, resamples=4999, generator=generator)
    assert found.p_value == pytest.approx(np.mean(flipped >= sums.sum() - 1e-9))
    tested = paired_test([0.0] * 6, differences, clusters=clusters)
    assert tested.difference == pytest.approx(sums.sum() / 6)
    assert tested.p_value >= found.p_value
    # One passage gained, whatever its number of rows: no evidence. As independent rows p would be 2/64.
    a, b = [False] * 12, [True] * 6 + [False] * 6
    one_gained = paired_test(a, b, clusters=[0] * 6 + list(range(1, 7)))
    assert (one_gained.test, one_gained.p_value) == ("paired-permutation", 1.0)
    assert paired_test(a, b).p_value == pytest.approx(2 / 64)


def test_the_clustered_error_is_the_textbooks_and_rows_that_agree_count_as_many_as_their_clusters():
    values, clusters = [1.0, 2.0, 4.0, 6.0, 3.0, 8.0], [0, 0, 1, 1, 2, 2]
    reach = float(stats.t.ppf(0.975, 2)) * float(np.std([1.5, 5.0, 5.5], ddof=1)) / 3**0.5
    assert mean_interval(values, clusters) == pytest.approx((4 - reach, 4 + reach))
    by_cluster = mean_interval([True] * 60, [number // 6 for number in range(60)])
    assert mean_interval([True] * 60)[0] > 0.9
    assert 0.55 < by_cluster[0] < 0.75
    assert by_cluster[1] == 1


@pytest.mark.parametrize(("rows", "seconds"), [(1_000, 0.3), (100_000, 2.0)])
def test_many_rows_are_compared_fast_and_in_little_memory(rows, seconds):
    generator = np.random.default_rng(0)
    a, b = generator.random((2, rows)).tolist()
    paired_test(a[:30], b[:30])  # loads what is loaded at first use
    start = time.process_time()
    plain = paired_test(a, b)
    assert time.process_time() - start < seconds
    clusters = generator.integers(0, rows // 5, rows).tolist()
    tracemalloc.start()
    paired_test(a, b, clusters=clusters)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 * 2**20
    assert plain.p_value > 0.001


def test_the_test_of_very_many_rows_agrees_with_the_normal_distribution_and_with_flipping_each():
    differences = np.random.default_rng(4).normal(0, 0.5, 20_000)
    differences += 1.9 * 0.5 / 20_000**0.5 - differences.mean()
    z = float(differences.sum() / (differences**2).sum() ** 0.5)
    found = paired_test([0.0] * 20_000, differences.tolist())
    assert found.p_value == pytest.approx(2 * stats.norm.sf(z), abs=0.012)
    generator = np.random.default_rng(5)  # with heavy tails
    differences = generator.lognormal(0, 2.5, 6000) * np.where(generator.random(6000) < 0.5, 1, -1)
    flipped = np.array([differences @ generator.choice([-1, 1], 6000) for _ in range(3000)])
    found = paired_test([0.0] * 6000, differences.tolist())
    assert 0.02 < found.p_value < 0.98
    assert found.p_value == pytest.approx(float((np.abs(flipped) >= abs(differences.sum())).mean()), abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [clustered_truths(25), clustered_numbers(25)])
def test_clustered_tests_find_5_percent_where_nothing_is_and_tests_of_single_rows_too_much(drawn):
    generator, repetitions = np.random.default_rng(6), 2000
    clustered = alone = 0
    for number in range(repetitions):
        a, b, clusters = drawn(generator, 0.0)
        clustered += paired_test(a, b, clusters=clusters, resamples=RESAMPLES, seed=number).p_value <= 0.05
        alone += number < 200 and paired_test(a, b, resamples=RESAMPLES).p_value <= 0.05
    assert least(repetitions, 0.04) <= clustered / repetitions <= most(repetitions, 0.05)
    assert alone / 200 > 0.08


@pytest.mark.parametrize("count", [20, 40])
@pytest.mark.parametrize("drawn", [clustered_truths, clustered_numbers])
def test_the_interval_of_a_clustered_difference_covers_the_truth(drawn, count):
    def covers(generator) -> bool:
        a, b, clusters = drawn(count)(generator, 0.0)
        return holds(paired_test(a, b, clusters=clusters, resamples=RESAMPLES).ci95, 0)

    assert 0.93 <= frequency(500, count, covers) <= 0.99


@pytest.mark.parametrize("drawn", [clustered_truths(20), clustered_numbers(20)])
def test_the_clustered_interval_of_a_mean_covers_the_truth(drawn):
    def covers(generator) -> bool:
        _, values, clusters = drawn(generator, 0.5)
        return holds(mean_interval(values, clusters), 0.5)

    assert 0.93 <= frequency(1000, 2, covers) <= 0.97


# Shares


SIDES = range(25)


def test_the_interval_of_a_difference_leaves_out_0_exactly_when_mcnemars_p_is_below_5_percent():
    for gained, lost in product(SIDES, SIDES):
        for pairs in {max(gained + lost, 2), 2 * (gained + lost) + 3, 20 * (gained + lost) + 50}:
            low, high = difference_interval(gained, lost, pairs)
            assert (low > 0 or high < 0) == (sign_test_p(gained, lost) < 0.05), (gained, lost, pairs)
            assert -1 <= low < high <= 1
            assert low <= (gained - lost) / pairs <= high


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


def test_without_a_pair_that_differs_it_ends_where_wilsons_interval_of_no_success_does():
    for pairs in (2, 30, 120):
        end = wilson_interval(0.0, pairs, 1.959964)[1]
        assert difference_interval(0, 0, pairs) == pytest.approx((-end, end), abs=1e-6)


@pytest.mark.parametrize(("n", "at_least"), [(20, 0.95), (30, 0.945), (80, 0.945)])
def test_the_interval_of_a_difference_covers_the_truth(n, at_least):
    """Exact: every outcome of gains and losses, weighted by its probability."""
    interval = functools.cache(difference_interval)
    outcomes = np.array(
        [(gained, lost, n - gained - lost) for gained in range(n + 1) for lost in range(n + 1 - gained)]
    )
    for gain, loss in ((0.1, 0.1), (0.02, 0.02), (0.15, 0.03), (0.01, 0.08), (0.0, 0.05)):
        weights = stats.multinomial.pmf(outcomes, n, [gain, loss, 1 - gain - loss])
        likely = weights >= 1e-6
        low, high = np.array([interval(gained, lost, n) for gained, lost, _ in outcomes[likely].tolist()]).T
        covered = (low <= gain - loss) & (gain - loss <= high)
        assert weights[likely] @ covered / weights[likely].sum() >= at_least, (gain, loss)


def test_the_interval_of_a_majority_leaves_out_a_half_exactly_when_the_sign_test_is_below_5_percent():
    for gained, lost in product(SIDES, SIDES):
        if gained + lost:
            low, high = sign_test_interval(gained, lost)
            assert (low > 0.5 or high < 0.5) == (sign_test_p(gained, lost) < 0.05), (gained, lost)
            assert 0 <= low <= gained / (gained + lost) <= high <= 1
    for gained, lost in ((0, 5), (5, 0), (8, 2), (40, 60)):
        clopper_pearson = stats.binomtest(gained, gained + lost).proportion_ci(method="exact")
        assert sign_test_interval(gained, lost) == pytest.approx((clopper_pearson.low, clopper_pearson.high))
