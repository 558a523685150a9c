import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitoring.config import read_config
from monitoring.decide.drift import (
    NOT_TESTED,
    DriftTest,
    adjusted_in_family,
    compare,
    compare_flags,
    compare_labels,
    compare_numbers,
    examine_slice,
    label_counts,
    level,
)
from monitoring.decide.rules import DriftRules
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary
from tests.monitoring.described import share, shifted, window


def labels(**counts):
    return LabelSummary(dict(counts))


def numbers(values):
    return NumberSummary.of(np.asarray(values, dtype=np.float32))


WHOLE = st.lists(st.integers(0, 45), min_size=2, max_size=60)


@given(WHOLE, WHOLE)
def test_on_whole_numbers_with_bins_of_their_own_the_distance_is_that_of_the_values(before, after):
    found = compare_numbers(numbers(before), numbers(after))
    if found.testable:
        assert found.statistic == pytest.approx(stats.ks_2samp(before, after, method="asymp").statistic)
    if found.p_value < 0.2:
        assert found.p_value == pytest.approx(stats.ks_2samp(before, after, method="exact").pvalue)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=80), st.integers(1, 4))
def test_bins_only_lower_the_distance(values, parts):
    before, after = values[parts:], values[:parts]
    raw = stats.ks_2samp(np.float32(before), np.float32(after), method="asymp").statistic
    assert compare_numbers(numbers(before), numbers(after)).statistic <= raw + 1e-12


def test_numbers_get_the_distance_and_its_direction():
    chance = np.random.default_rng(1)
    low, high = chance.normal(size=200), chance.normal(1, size=150)
    found = compare_numbers(numbers(low), numbers(high))
    assert found.p_value == pytest.approx(2 * stats.mannwhitneyu(low, high).pvalue, rel=0.3)
    assert found.statistic == pytest.approx(stats.mannwhitneyu(high, low).statistic / (200 * 150), abs=0.01)
    assert found.effect == pytest.approx(stats.ks_2samp(low, high).statistic, abs=0.02)
    assert (found.direction, compare_numbers(numbers(high), numbers(low)).direction) == (1, -1)


@settings(max_examples=12)
@given(st.lists(st.integers(0, 9), min_size=100, max_size=200), st.lists(st.integers(0, 9), min_size=100, max_size=200))
def test_numbers_with_rows_enough_have_the_smaller_of_two_p_doubled(before, after):
    found = compare_numbers(numbers(before), numbers(after))
    values = np.concatenate([before, after])
    surest = [stats.ks_2samp(before, after, method="exact" if found.p_value < 0.2 else "asymp").pvalue]
    if np.unique(values, return_counts=True)[1].max() * 2 <= len(values):
        surest = [2 * surest[0], 2 * stats.mannwhitneyu(before, after, use_continuity=False).pvalue]
    if found.testable and found.p_value < 0.2:
        assert found.p_value >= min(surest) * (1 - 1e-9)
        assert found.p_value <= 1.3 * min(surest)


def test_a_shift_of_bell_shaped_numbers_is_surer_by_ranks_and_of_skewed_ones_by_distance():
    chance = np.random.default_rng(4)
    bell, skewed = chance.normal(10, 1, 1500), chance.exponential(1, 1500)
    assert compare_numbers(numbers(bell[:500]), numbers(bell[500:] + 0.3)).test == "rank-sum"
    assert compare_numbers(numbers(skewed[:500]), numbers(skewed[500:] + 0.2)).test == "ks"


def test_without_ties_the_rank_sum_is_wilcoxons():
    chance = np.random.default_rng(6)
    before, after = np.exp(chance.normal(size=150)), np.exp(chance.normal(0.4, size=130))
    found = compare_numbers(numbers(before), numbers(after))
    expected = stats.mannwhitneyu(*(middles_of(each) for each in (before, after)), method="asymptotic")
    assert (found.test, found.p_value) == ("rank-sum", pytest.approx(2 * expected.pvalue, rel=0.01))


def middles_of(values):
    summary = numbers(values)
    return np.repeat(summary.bins, summary.counts)


def test_quiet_windows_of_few_values_pass_no_oftener_than_their_level():
    # The chance of so small a p, added up over every way to draw 100 of these 200 rows.
    values, level, total = np.array([80, 60, 60]), 1e-3, 0.0
    every = [
        (low, middle, 100 - low - middle) for low in range(81) for middle in range(61) if 40 <= low + middle <= 100
    ]
    for drawn, chance in zip(every, stats.multivariate_hypergeom.pmf(every, values, 100), strict=True):
        if chance > 1e-7:
            rest = [np.repeat([1.0, 2.0, 3.0], counts) for counts in (values - drawn, drawn)]
            total += chance * (compare_numbers(*map(numbers, rest)).p_value <= level)
    assert 0 < total <= level


@pytest.mark.parametrize("sizes", [(400, 500), (1000, 1000), (1000, 1001), (300, 5000)])
@pytest.mark.parametrize("distance", [1.5, 2.0, 2.3])
def test_above_small_sizes_p_is_never_below_the_exact_one(sizes, distance):
    before, after = sizes
    high = round(distance * np.sqrt((before + after) / (before * after)) * after)
    one, other = np.ones(before), np.repeat([1.0, 2.0], [after - high, high])
    exact = stats.ks_2samp(one, other, method="exact")
    found = compare_numbers(numbers(one), numbers(other))
    assert found.statistic == pytest.approx(exact.statistic)
    assert exact.pvalue <= found.p_value <= exact.pvalue * 1.5


def test_a_change_of_spread_alone_is_seen_and_windows_that_hardly_differ_need_no_exact_p():
    chance, values = np.random.default_rng(2), np.arange(200.0)
    assert compare_numbers(numbers(chance.normal(size=500)), numbers(chance.normal(scale=3, size=500))).p_value < 1e-6
    assert compare_numbers(numbers(values), numbers(values + 0.5)).p_value == pytest.approx(1.0)


def test_flags_that_may_only_rise_are_tested_one_sided():
    many, few = FlagSummary(200, 30), FlagSummary(200, 5)
    assert compare_flags(many, few, only_rise=True).p_value > 0.99
    found = compare_flags(few, many, only_rise=True)
    assert found.p_value == pytest.approx(stats.fisher_exact([[30, 170], [5, 195]], alternative="greater").pvalue)
    assert found.effect == pytest.approx(0.125)
    assert compare_flags(many, few, only_rise=False).effect == pytest.approx(-0.125)
    assert np.isfinite(compare_flags(FlagSummary(50, 0), FlagSummary(50, 9), only_rise=True).statistic)
    millions = compare_flags(FlagSummary(30_000_000, 1_500_000), FlagSummary(1_000_000, 51_000), only_rise=True)
    assert 0 < millions.p_value < 1e-4


@pytest.mark.parametrize(
    ("test", "before", "after", "p_value", "effect"),
    [
        ("chi-square", [1600, 200, 200], [1000, 800, 200], lambda *of: stats.chi2_contingency(of).pvalue, 0.3),
        # Equal windows: both tails are the same, so that the doubled one is Fisher's two-sided p, here of the second.
        (
            "fisher-exact-each",
            [80, 10, 10],
            [50, 40, 10],
            lambda *_: 3 * stats.fisher_exact([[10, 90], [40, 60]]).pvalue,
            0.3,
        ),
        ("fisher-exact", [95, 5], [80, 20], lambda *of: stats.fisher_exact(of).pvalue, 0.15),
    ],
)
def test_labels_are_tested_by_chi_square_where_frequent_and_exactly_where_rarer(test, before, after, p_value, effect):
    found = compare_labels(*(LabelSummary(dict(enumerate(counts))) for counts in (before, after)))
    assert (found.test, found.p_value) == (test, pytest.approx(p_value(before, after)))
    assert found.effect == pytest.approx(effect)  # the total variation distance


def test_quiet_windows_of_few_labels_pass_no_oftener_than_their_level():
    # The chance of so small a p, added up over every outcome of the rare labels; chi-square's is 5 times the level.
    reference, level, total = labels(en=4700, de=150, fr=150), 8e-5, 0.0
    chances = stats.binom.pmf(np.arange(31), 200, 0.03)
    for de in range(31):
        for fr in range(31):
            chance = chances[de] * stats.binom.pmf(fr, 200 - de, 0.03 / 0.97)
            if chance > 1e-9 and compare_labels(reference, labels(en=200 - de - fr, de=de, fr=fr)).p_value <= level:
                total += chance
    assert 0 < total <= 1.5 * level  # this reference is one of many; over all of them it is at most the level


def test_a_handful_of_new_labels_is_no_certainty_and_labels_all_too_rare_cannot_be_tested():
    new = {f"l{number}": 1 for number in range(4)}
    assert compare_labels(labels(en=200), labels(en=196, **new)).p_value > 0.05
    many = {f"l{number}": 15 for number in range(4)}
    assert compare_labels(labels(en=200), labels(en=140, **many)).p_value < 1e-9
    rare = compare_labels(labels(a=1, b=1, c=1), labels(d=1, e=1, f=1))
    assert (rare.testable, rare.p_value) == (False, 1.0)
    assert label_counts(labels(b=2, a=1), labels(c=3, d=0)).tolist() == [[1, 2, 0], [0, 0, 3]]


@pytest.mark.parametrize(
    ("compare", "one", "other"),
    [
        (compare_numbers, numbers([1] * 30), numbers([1] * 40)),
        (compare_numbers, numbers([]), numbers([1, 2, 3])),
        (lambda a, b: compare_flags(a, b, only_rise=True), FlagSummary(30, 30), FlagSummary(40, 40)),
        (lambda a, b: compare_flags(a, b, only_rise=False), FlagSummary(0, 0), FlagSummary(40, 4)),
        (compare_labels, labels(en=30), labels(en=40)),
        (compare_labels, labels(), labels(en=40, de=3)),
    ],
)
def test_columns_that_never_vary_or_have_no_rows_have_p_one_and_leave_the_family(compare, one, other):
    found = compare(one, other)
    assert (found.p_value, found.effect, found.testable) == (1.0, 0.0, False)


def test_adjusted_p_values_are_benjamini_and_hochbergs_of_what_could_be_tested():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": 0.9}
    results = {name: DriftTest("ks", 0.0, value, 0.0) for name, value in p.items()}
    adjusted = adjusted_in_family({"constant": NOT_TESTED, **results})
    assert adjusted.pop("constant") == 1
    assert list(adjusted.values()) == pytest.approx(stats.false_discovery_control(list(p.values())).tolist())
    assert adjusted_in_family({}) == {}


RULES = DriftRules()
CONFIG = read_config()
DESCRIPTORS = CONFIG.descriptors.descriptors


def summary(rows, seed, **changed):
    return Summary.of(window(CONFIG, rows, seed, change=changed), CONFIG.descriptors)


def examine(reference, current, rules=RULES, alpha=None):
    alpha = rules.alpha(1) if alpha is None else alpha
    return examine_slice({"app": "assistant"}, reference, current, DESCRIPTORS, rules, alpha)


def test_quiet_windows_alarm_no_more_often_than_stated():
    # At one window in five: frequent enough to be measured; floors off.
    rules, windows, alpha = DriftRules(numeric_floor=0, label_floor=0, flag_floor=0, harmful_floor=0), 60, 0.2
    pairs = ((summary(150, 2 * number), summary(150, 2 * number + 1)) for number in range(windows))
    alarmed = sum(bool(examine(*pair, rules, alpha).drifted) for pair in pairs)
    assert 0 < alarmed <= stats.binom.ppf(0.999, windows, alpha)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({}, {"output.refusal": share(0.15)}, ["output.refusal"]),
        ({"output.refusal": share(0.2)}, {}, []),  # fewer refusals
        ({}, {"latency_ms": shifted(0.35)}, ["latency_ms"]),
    ],
)
def test_a_day_of_rows_shows_more_refusals_and_small_shifts_and_fewer_refusals_are_no_drift(before, after, found):
    drifts = examine(summary(3000, 0, **before), summary(1000, 1, **after))
    assert list(drifts.drifted) == found
    for name in found:
        told = drifts.to_json()["descriptors"][name]
        assert told["test"] in ("fisher-exact-greater", "rank-sum", "ks")
        if told["test"] == "fisher-exact-greater":
            assert told["effect"] == pytest.approx(told["after"] - told["before"])


def test_rows_whose_value_is_not_known_are_passed_over_and_counted():
    after = window(CONFIG, 400, 1)
    after.columns["tokens_in"][::2] = np.nan
    found = examine(summary(600, 0), Summary.of(after, CONFIG.descriptors)).to_json()["descriptors"]["tokens_in"]
    assert found["known"] == {"before": 600, "after": 200}
    assert found["after"] == pytest.approx(float(np.nanmean(after.columns["tokens_in"])), rel=1e-6)
    assert found["after"] > 1


def test_a_tiny_shift_at_a_huge_size_is_certain_but_no_drift():
    found = examine(summary(20_000, 0), summary(20_000, 1, latency_ms=shifted(0.08))).descriptors["latency_ms"]
    assert found.p_adjusted < RULES.alpha(1)
    assert 0 < found.result.effect < RULES.numeric_floor
    assert not found.drifted


@pytest.mark.parametrize("name", ["latency_ms", "output.refusal", "output.language"])
def test_a_descriptor_with_too_few_values_is_not_tested(name):
    def mostly_missing(column, _chance):
        column[5:] = None if column.dtype == object else np.nan
        return column

    found = examine(summary(100, 0), summary(100, 1, **{name: mostly_missing})).descriptors[name]
    assert (found.result.test, found.p_adjusted, found.drifted) == ("none", 1.0, False)


def test_levels_are_mean_share_and_commonest_label_and_a_summary_without_the_descriptor_has_none():
    for descriptor in DESCRIPTORS.values():
        assert not compare(descriptor, Summary(), summary(30, 1)).testable
        assert level(Summary().part(descriptor.name)) is None
    found = Summary(
        rows=4,
        numbers={"n": NumberSummary.of([1, 2, 3, 6])},
        flags={"f": FlagSummary(4, 1)},
        labels={"l": LabelSummary({"en": 2, "de": 2})},
    )
    assert [level(part) for part in (found.numbers["n"], found.flags["f"], found.labels["l"])] == [3.0, 0.25, "de"]
