import numpy as np
import pytest
from scipy import stats

from monitoring.two_sample import adjust_p_values, compare_flags, compare_labels, compare_numbers, label_counts


def labels(**counts):
    return np.array([label for label, count in counts.items() for _ in range(count)], dtype=object)


def flags(hits, of):
    return np.array([1.0] * hits + [0.0] * (of - hits), dtype=np.float32)


def test_numbers_get_the_distance_its_direction_and_scipys_p():
    chance = np.random.default_rng(1)
    low, high = chance.normal(size=200).astype(np.float32), chance.normal(1, size=150).astype(np.float32)
    found = compare_numbers(low, high)
    assert found.p_value == pytest.approx(stats.ks_2samp(low, high).pvalue)
    assert found.effect == found.statistic > 0.3
    assert (found.direction, compare_numbers(high, low).direction) == (1, -1)


def test_windows_that_hardly_differ_need_no_exact_p():
    values = np.arange(200.0)
    assert compare_numbers(values, values + 0.5).p_value == 1.0


def test_a_change_of_spread_alone_is_seen():
    chance = np.random.default_rng(2)
    assert compare_numbers(chance.normal(size=500), chance.normal(scale=3, size=500)).p_value < 1e-6


def test_flags_that_may_only_rise_are_tested_one_sided():
    fell, rose = (flags(30, 200), flags(5, 200)), (flags(5, 200), flags(30, 200))
    assert compare_flags(*fell, only_rise=True).p_value > 0.99
    found = compare_flags(*rose, only_rise=True)
    assert found.p_value == pytest.approx(stats.fisher_exact([[30, 170], [5, 195]], alternative="greater").pvalue)
    assert found.effect == pytest.approx(0.125)
    assert compare_flags(*fell, only_rise=False).effect == pytest.approx(-0.125)
    assert np.isfinite(compare_flags(flags(0, 50), flags(9, 50), only_rise=True).statistic)


def test_labels_get_chi_square_and_the_total_variation_distance():
    found = compare_labels(labels(en=80, de=10, fr=10), labels(en=50, de=40, fr=10))
    assert found.test == "chi-square"
    assert found.p_value == pytest.approx(stats.chi2_contingency([[80, 10, 10], [50, 40, 10]]).pvalue)
    assert found.effect == pytest.approx(0.3)


def test_two_labels_are_tested_exactly():
    found = compare_labels(labels(en=95, de=5), labels(en=80, de=20))
    assert found.test == "fisher-exact"
    assert found.p_value == pytest.approx(stats.fisher_exact([[95, 5], [80, 20]]).pvalue)


def test_a_handful_of_new_labels_is_no_certainty():
    new = {f"l{number}": 1 for number in range(4)}
    assert compare_labels(labels(en=200), labels(en=196, **new)).p_value > 0.05
    assert compare_labels(labels(en=200), labels(en=140, **{f"l{number}": 15 for number in range(4)})).p_value < 1e-9


def test_labels_all_too_rare_cannot_be_tested():
    found = compare_labels(labels(a=1, b=1, c=1), labels(d=1, e=1, f=1))
    assert (found.testable, found.p_value) == (False, 1.0)


def test_label_counts_cover_the_labels_of_either_window():
    assert label_counts(labels(b=2, a=1), labels(c=3)).tolist() == [[1, 2, 0], [0, 0, 3]]


@pytest.mark.parametrize("compare", [compare_numbers, lambda a, b: compare_flags(a, b, only_rise=True), compare_labels])
def test_columns_that_never_vary_have_p_one_and_leave_the_family(compare):
    found = compare(np.ones(30), np.ones(40))
    assert (found.p_value, found.effect, found.testable) == (1.0, 0.0, False)


def test_adjusted_p_values_are_benjamini_and_hochbergs():
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert adjust_p_values(p) == pytest.approx(stats.false_discovery_control(p, method="bh").tolist())
    assert adjust_p_values([]) == []
