import pytest

from llmops.errors import UsageError
from monitoring.descriptors import DESCRIPTORS
from monitoring.rules import DriftRules


def test_the_budget_is_shared_among_windows_and_families():
    rules = DriftRules(false_alarms_per_month=0.3, windows_per_month=30)
    assert rules.alpha(1) == pytest.approx(0.01)
    assert rules.alpha(5) == pytest.approx(0.002)


@pytest.mark.parametrize("families", [1, 4, 40])
def test_more_slices_do_not_raise_the_expected_false_alarms(families):
    assert DriftRules().expected_false_alarms_per_month(families) == pytest.approx(0.1)


def test_harmful_flags_have_the_lowest_floor():
    rules = DriftRules()
    assert rules.floor(DESCRIPTORS["output.refusal"]) < rules.floor(DESCRIPTORS["output.link"])
    assert rules.floor(DESCRIPTORS["input.language"]) < rules.floor(DESCRIPTORS["latency_ms"])


@pytest.mark.parametrize("wrong", [{"windows_per_month": 0}, {"minimum_rows": -1}, {"false_alarms_per_month": 31}])
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="drift rules"):
        DriftRules(**wrong)


def test_floors_may_be_zero():
    assert DriftRules(numeric_floor=0).numeric_floor == 0
