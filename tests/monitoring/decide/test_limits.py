import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmops.errors import BadFile, UsageError
from monitoring.decide.limits import Limit, check_limits, lower_bound
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, NumberSummary, Summary
from monitoring.tables import read_dataclass

REFUSAL = Limit("output.refusal", share_at_most=0.05)
LATENCY = Limit("latency_ms", quantile=0.95, at_most=2000)


def flags(rows, hits):
    return Summary(rows=rows, flags={"output.refusal": FlagSummary(rows, hits)})


def latencies(values):
    return Summary(rows=len(values), numbers={"latency_ms": NumberSummary.of(np.float32(values))})


def check(limit, window, alpha=0.001):
    (found,) = check_limits([limit], window, alpha)
    return found


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from([1e-5, 0.01, 0.2]))
def test_the_lower_bound_is_clopper_and_pearsons(rows, hits, alpha):
    hits = min(hits, rows)
    bound = lower_bound(hits, rows, alpha)
    expected = stats.binomtest(hits, rows, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    assert bound == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("rows", "alpha"), [(20, 0.05), (200, 0.01), (1000, 1e-4)])
def test_a_service_that_just_keeps_its_limit_alarms_within_alpha(rows, alpha):
    broken = [check(REFUSAL, flags(rows, hits), alpha).broken for hits in range(rows + 1)]
    chance = stats.binom.pmf(np.arange(rows + 1), rows, 0.05)[broken].sum()
    assert 0 < chance <= alpha


@pytest.mark.parametrize(
    ("limit", "window", "beyond", "undecided", "broken"),
    [
        (REFUSAL, flags(40, 4), 4, 0, False),
        (REFUSAL, flags(4000, 400), 400, 0, True),
        (LATENCY, latencies([100] * 800 + [3000] * 200), 200, 0, True),
        (LATENCY, latencies([100] * 960 + [3000] * 40), 40, 0, False),
        (LATENCY, latencies([2001] * 500 + [1990] * 300 + [100] * 200), 0, 800, False),  # all in the limit's own bin
        (LATENCY, latencies([1990, 1999]), 0, 0, False),  # but here the extremes decide
        (LATENCY, latencies([2001] * 300), 300, 0, True),
    ],
)
def test_a_limit_is_broken_when_the_rows_prove_it_and_bins_that_cannot_tell_are_not_held_against_it(
    limit, window, beyond, undecided, broken
):
    found = check(limit, window)
    assert (found.beyond, found.undecided, found.broken) == (beyond, undecided, broken)
    assert (found.lower_bound > found.limit.allowed) == broken
    assert f"{beyond} of {window.rows} rows ({beyond / window.rows:.1%})" in found.why


def test_a_finding_says_how_finely_the_bins_tell():
    told = check(LATENCY, latencies([2001])).to_json()
    low, high = told["resolution"]
    assert low <= 2000 < high < low * 1.03


def test_a_limit_without_values_has_no_verdict_and_says_so():
    found = check(LATENCY, flags(100, 1))
    assert (found.rows, found.broken) == (0, False)
    assert "no row" in found.note


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"share_at_most": 1.0},
        {"share_at_most": 0.1, "at_most": 3},
        {"quantile": 0.9},
        {"quantile": 1.0, "at_most": 3},
        {"quantile": 0.9, "at_most": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="limit on x"):
        Limit("x", **wrong)


def test_a_limit_must_fit_its_descriptor():
    known = {"error": Descriptor("error", "flag", "service", harmful=True)}
    Limit("error", share_at_most=0.02).check_kind(known)
    with pytest.raises(UsageError, match="no such descriptor"):
        REFUSAL.check_kind(known)
    with pytest.raises(UsageError, match="it is flag"):
        Limit("error", quantile=0.9, at_most=1).check_kind(known)


def test_limits_are_read_from_the_configuration_file():
    assert read_dataclass(Limit, {"descriptor": "error", "share_at_most": 0.02}, "m.toml", "limit 1") == Limit(
        "error", share_at_most=0.02
    )
    with pytest.raises(BadFile, match="did you mean share_at_most"):
        read_dataclass(Limit, {"descriptor": "error", "share_atmost": 0.02}, "m.toml", "limit 1")
