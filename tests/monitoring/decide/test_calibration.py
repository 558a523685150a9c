"""The whole of the rules on simulated months: false alarms within the budget, and detection within days."""

import pytest

from benchmarks.monitoring.simulation import RULES, detected, quiet, refusing, shifted

REFUSAL, RISEN = "output.refusal", refusing(0.09)


def test_a_few_quiet_months_keep_the_budget():
    assert quiet(4, 200).holds


def test_a_rise_of_refusals_is_found_within_two_days():
    assert detected(12, "", 5_000, RISEN, REFUSAL, within=2, from_day=0, bound=0.95).holds
    assert detected(12, "", 1_001, RISEN, REFUSAL, within=2, from_day=0, bound=0.90).holds


def test_a_small_shift_of_a_number_is_found_within_three_days():
    assert detected(12, "", 5_000, shifted("latency_ms", 0.2, 6**0.5), "latency_ms", 3, 0, 0.95).holds


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 1_000, 1_001])
def test_a_hundred_quiet_months_keep_the_budget(size):
    claim = quiet(100, size)
    assert claim.bound == RULES.false_alarms_per_month
    assert claim.holds


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "bound"), [(5_000, 0.95), (1_001, 0.90)])
@pytest.mark.parametrize("from_day", [0, 15])
def test_in_a_hundred_months_a_rise_of_refusals_is_found_within_two_days(reference, bound, from_day):
    assert detected(100, "", reference, RISEN, REFUSAL, within=2, from_day=from_day, bound=bound).holds
