import numpy as np
import pytest
from scipy import stats

from monitoring.config import read_config
from monitoring.decide.drift import compare, examine_slice, level
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary
from tests.monitoring.in_memory import share, shifted, window

RULES = DriftRules()
CONFIG = read_config()
DESCRIPTORS = CONFIG.descriptors.descriptors


def summary(rows, seed, **changed):
    return Summary.of(window(CONFIG, rows, seed, change=changed), CONFIG.descriptors)


def examine(reference, current, rules=RULES, alpha=None):
    alpha = rules.alpha(1) if alpha is None else alpha
    return examine_slice({"app": "assistant"}, reference, current, DESCRIPTORS, rules, alpha)


def drifted(found):
    return [name for name, drift in found.descriptors.items() if drift.drifted]


def test_quiet_windows_alarm_no_more_often_than_stated():
    # At one window in five: frequent enough to be measured; floors off.
    rules, windows, alpha = DriftRules(numeric_floor=0, label_floor=0, flag_floor=0, harmful_floor=0), 60, 0.2
    pairs = ((summary(150, 2 * number), summary(150, 2 * number + 1)) for number in range(windows))
    alarmed = sum(bool(drifted(examine(*pair, rules, alpha))) for pair in pairs)
    assert 0 < alarmed <= stats.binom.ppf(0.999, windows, alpha)


def test_with_the_default_rules_a_month_of_quiet_windows_raises_no_alarm():
    reference = summary(300, 1_000_003)
    assert [name for seed in range(30) for name in drifted(examine(reference, summary(100, seed)))] == []


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
    assert drifted(drifts) == found
    for name in found:
        told = drifts.to_json()["descriptors"][name]
        assert told["test"] in ("fisher-exact-greater", "rank-sum", "ks")
        if told["test"] == "fisher-exact-greater":
            assert told["effect"] == pytest.approx(told["after"] - told["before"])


def test_rows_whose_value_is_not_known_are_passed_over_and_counted():
    def half(rows):
        rows.columns["tokens_in"][::2] = np.nan

    after = window(CONFIG, 400, 1)
    half(after)
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


def test_a_summary_without_the_descriptor_is_not_tested_and_has_no_level():
    for descriptor in DESCRIPTORS.values():
        assert not compare(descriptor, Summary(), summary(30, 1)).testable
        assert level(descriptor, Summary()) is None


def test_levels_are_mean_share_and_commonest_label():
    found = Summary(
        rows=4,
        numbers={"n": NumberSummary.of([1, 2, 3, 6])},
        flags={"f": FlagSummary(4, 1)},
        labels={"l": LabelSummary({"en": 2, "de": 2})},
    )
    kinds = {"n": "numeric", "f": "flag", "l": "label"}
    levels = [level(Descriptor(name, kind, "output"), found) for name, kind in kinds.items()]
    assert levels == [3.0, 0.25, "de"]
