"""The whole of the rules on simulated months: false alarms within the budget, and detection within days."""

import pytest

from benchmarks.monitoring.simulation import RULES, detected, quiet, refusing, shifted

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


def test_a_small_shift_of_a_number_is_found_within_three_days():
    assert detected(12, "", 5_000, shifted("latency_ms", 0.2, 6**0.5), "latency_ms", 3, 0, 0.95).holds
