import pytest

from llmops.errors import UsageError
from monitoring.decide.rules import ALONE, DAYS, POOLED, DriftRules, day_start_share, new_start_share
from monitoring.descriptors import Descriptor

REFUSAL = Descriptor("output.refusal", "flag", "output", harmful=True)
LINK = Descriptor("output.link", "flag", "output")
LANGUAGE = Descriptor("input.language", "label", "input")
LATENCY = Descriptor("latency_ms", "numeric", "service")
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


@pytest.mark.parametrize("families", [1, 4, 40])
def test_more_slices_do_not_raise_the_expected_false_alarms(families):
    assert DriftRules().expected_false_alarms_per_month(families) == pytest.approx(0.1)
    parts = DriftRules().expected_false_alarms(families=families)
    assert sum(value for part, value in parts.items() if part != "total") == pytest.approx(parts["total"])


def test_a_kind_of_rule_that_is_not_in_use_spends_nothing():
    parts = DriftRules().expected_false_alarms(limits=0, volume=False)
    assert (parts["limits"], parts["volume"]) == (0, 0)
    assert parts["total"] == pytest.approx(0.09)


@pytest.mark.parametrize("slices", [0, 1, 7, 300])
def test_detectors_never_have_more_than_their_part_however_many_slices_appear(slices):
    rules = DriftRules()
    alphas = [rules.flag_alpha(name, FLAGS, place, sliced=slices > 0) for name in FLAGS for place in range(slices + 1)]
    assert sum(alphas) <= rules.false_alarms_per_month * rules.flags_share * (1 + 1e-12)
    assert min(alphas) > 0


def test_without_slices_the_whole_app_has_all_of_the_detectors_part():
    rules = DriftRules()
    total = sum(rules.flag_alpha(name, FLAGS, sliced=False) for name in FLAGS)
    assert total == pytest.approx(rules.false_alarms_per_month * rules.flags_share)
    assert rules.flag_alpha("error", FLAGS, 1, sliced=False) == 0


def test_refusals_and_errors_have_most_of_the_detectors_part_unless_told_otherwise():
    assert DriftRules().flag_alpha("error", FLAGS) == pytest.approx(12 * DriftRules().flag_alpha("output.empty", FLAGS))
    even = DriftRules(flag_weights={})
    assert even.flag_alpha("error", FLAGS) == pytest.approx(even.flag_alpha("output.empty", FLAGS))


def test_the_starts_of_a_month_together_have_at_most_one_alpha():
    assert DAYS * day_start_share() + sum(new_start_share(earlier) for earlier in range(1000)) <= 1 + 1e-12


def test_harmful_flags_have_the_lowest_floor():
    rules = DriftRules()
    assert rules.floor(REFUSAL) < rules.floor(LINK)
    assert rules.floor(LANGUAGE) < rules.floor(LATENCY)


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


def test_floors_and_shares_may_be_zero():
    assert DriftRules(numeric_floor=0, limits_share=0).limit_alpha(3) == 0
