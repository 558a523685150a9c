"""The budget of false alarms, and the whole of the rules on simulated months: within it, and detection within days."""

import pytest

from benchmarks.monitoring.simulation import RULES, detected, quiet, refusing, shifted
from llmops.errors import UsageError
from monitoring.decide.rules import ALONE, DAYS, POOLED, DriftRules, day_start_share, new_start_share
from monitoring.descriptors import Descriptor

FLAGS = ("output.refusal", "error", "output.empty", "output.pii_email")


def test_the_windows_part_is_shared_among_windows_and_families():
    rules = DriftRules(false_alarms_per_month=0.6, windows_per_month=30, windows_share=0.5, flags_share=0.4)
    assert rules.alpha(1) == pytest.approx(ALONE * 0.01)
    assert rules.alpha(5) == pytest.approx(ALONE * 0.002)


@pytest.mark.parametrize("pinned", [1, 2, 30])
def test_windows_alone_and_together_spend_the_windows_part_however_often_a_reference_is_pinned(pinned):
    rules = DriftRules()
    first = sum(rules.pooled_alpha(number, pins) for number in range(1, POOLED + 1) for pins in range(pinned))
    later = rules.windows_per_month * rules.pooled_alpha(POOLED + 1, 0)
    alone = rules.windows_per_month * rules.alpha(1)
    assert first + later + alone <= rules.false_alarms_per_month * rules.windows_share * (1 + 1e-12)
    assert rules.pooled_alpha(POOLED, 0) > 20 * rules.pooled_alpha(POOLED + 1, 0), "there only the reference is known"
    assert rules.pooled_alpha(1, 0) == 0, "a window alone is no pool"


@pytest.mark.parametrize(
    ("used", "total"),
    [({}, 0.1), ({"flags": 4, "limits": 40}, 0.1), ({"limits": 0}, 0.095), ({"limits": 0, "flags": 0}, 0.04)],
)
def test_the_budget_is_one_and_a_rule_not_in_use_spends_nothing(used, total):
    parts = DriftRules().expected_false_alarms(**used)
    assert parts["total"] == pytest.approx(total)
    assert sum(value for part, value in parts.items() if part != "total") == pytest.approx(total)
    assert all((parts[kind] == 0) == (used.get(kind) == 0) for kind in ("windows", "flags", "limits", "volume"))


@pytest.mark.parametrize("slices", [0, 1, 7, 300])
def test_detectors_never_have_more_than_their_part_however_many_slices_appear(slices):
    rules = DriftRules()
    alphas = [rules.flag_alpha(name, FLAGS, place, sliced=slices > 0) for name in FLAGS for place in range(slices + 1)]
    assert sum(alphas) <= rules.false_alarms_per_month * rules.flags_share * (1 + 1e-12)
    assert min(alphas) > 0


def test_shares_of_the_detectors_part_follow_slices_and_weights():
    rules, even = DriftRules(), DriftRules(flag_weights={})
    unsliced = sum(rules.flag_alpha(name, FLAGS, sliced=False) for name in FLAGS)
    assert unsliced == pytest.approx(rules.false_alarms_per_month * rules.flags_share)
    assert rules.flag_alpha("error", FLAGS, 1, sliced=False) == 0
    assert rules.flag_alpha("error", FLAGS) == pytest.approx(12 * rules.flag_alpha("output.empty", FLAGS))
    assert even.flag_alpha("error", FLAGS) == pytest.approx(even.flag_alpha("output.empty", FLAGS))


def test_the_starts_of_a_month_together_have_at_most_one_alpha():
    assert DAYS * day_start_share() + sum(new_start_share(earlier) for earlier in range(1000)) <= 1 + 1e-12


def test_harmful_flags_have_the_lowest_floor_and_floors_and_shares_may_be_zero():
    refusal, link, language, latency = (
        DriftRules().floor(Descriptor("d", kind, "output", harmful=harmful))
        for kind, harmful in (("flag", True), ("flag", False), ("label", False), ("numeric", False))
    )
    assert refusal < min(link, language) <= max(link, language) < latency
    assert DriftRules(numeric_floor=0, limits_share=0).limit_alpha(3) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"windows_per_month": 0},
        {"minimum_rows": -1},
        {"false_alarms_per_month": 31},
        {"windows_share": 0.5},
        {"volume_floor": 1},
        {"flag_weights": {"error": 0}},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="drift rules"):
        DriftRules(**wrong)


REFUSAL, RISEN = "output.refusal", refusing(0.09)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("months", "size"), [(4, 200), slow(100, 200), slow(100, 1_000), slow(100, 1_001)])
def test_quiet_months_keep_the_budget(months, size):
    claim = quiet(months, size)
    assert claim.bound == RULES.false_alarms_per_month
    assert claim.holds


@pytest.mark.parametrize(("reference", "bound"), [(5_000, 0.95), (1_001, 0.90)])
@pytest.mark.parametrize(("months", "from_day"), [(12, 0), slow(100, 0), slow(100, 15)])
def test_a_rise_of_refusals_is_found_within_two_days(months, from_day, reference, bound):
    assert detected(months, "", reference, RISEN, REFUSAL, within=2, from_day=from_day, bound=bound).holds


@pytest.mark.parametrize(
    ("months", "reference", "what", "deviation", "from_day"),
    [
        (12, 5_000, "latency_ms", 6**0.5, 0),
        *(slow(100, 1_001, "output.sentiment", 0.4, from_day) for from_day in (0, 1, 15)),  # bell-shaped
    ],
)
def test_a_small_shift_of_a_number_is_found_within_three_days(months, reference, what, deviation, from_day):
    assert detected(months, "", reference, shifted(what, 0.2, deviation), what, 3, from_day, 0.95).holds
