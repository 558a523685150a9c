"""The gate's verdict on every path: pass, fail, inconclusive, each with its reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmops.errors import UsageError
from llmops.evaluation.comparison import Comparison, MetricComparison
from llmops.evaluation.gate import Facts, GateRules, Verdict, decide
from llmops.evaluation.results import Metric

GOOD = {"right": Metric(0.8, 100, 0, (0.7, 0.9))}


def against(
    difference: float, ci95: tuple[float, float], p_value: float, n: int = 100, name: str = "right"
) -> Comparison:
    metric = MetricComparison(0.5, 0.5 + difference, difference, ci95, p_value, 1.0, "made-up", 3, 2, n - 5, n)
    return Comparison("a", "b", n, {name: metric}, {}, [])


def verdict(rules: GateRules, comparison: Comparison | None, better_up: bool = True) -> Verdict:
    if comparison is not None:
        metrics = {name: replace(m, higher_is_better=better_up) for name, m in comparison.metrics.items()}
        comparison = replace(comparison, metrics=metrics)
    return decide(rules, Facts(GOOD, comparison))


@pytest.mark.parametrize(
    ("difference", "ci95", "p_value", "better_up", "expected", "reason"),
    [
        (0.1, (0.05, 0.15), 0.001, True, "pass", "significantly better"),
        (-0.1, (-0.15, -0.05), 0.001, False, "pass", "significantly better"),
        (-0.1, (-0.15, -0.05), 0.001, True, "fail", "significantly worse"),
        (0.1, (0.05, 0.15), 0.001, False, "fail", "significantly worse"),
        (0.1, (-0.05, 0.25), 0.2, True, "inconclusive", "no significant difference"),
        (0.1, (-0.01, 0.2), 0.05, True, "inconclusive", "no significant difference"),
        (-0.1, (-0.25, 0.05), 0.2, True, "inconclusive", "no significant difference"),
        (-0.1, (-0.2, -0.01), 0.06, True, "inconclusive", "no sign of a gain"),
        (0.0, (0.0, 0.0), 1.0, True, "inconclusive", "no significant difference"),
    ],
)
def test_better_asks_for_a_significant_gain(
    difference: float, ci95: tuple[float, float], p_value: float, better_up: bool, expected: str, reason: str
) -> None:
    found = verdict(GateRules("right"), against(difference, ci95, p_value), better_up)

    assert found.verdict == expected
    assert reason in found.reasons[-1]


@pytest.mark.parametrize(
    ("difference", "ci95", "p_value", "better_up", "expected"),
    [
        (0.0, (-0.04, 0.04), 1.0, True, "pass"),
        (0.2, (0.1, 0.3), 0.001, True, "pass"),
        (-0.02, (-0.03, -0.01), 0.001, True, "pass"),  # significantly worse, by less than the margin
        (0.02, (0.01, 0.03), 0.001, False, "pass"),
        (0.0, (-0.06, 0.06), 1.0, True, "inconclusive"),
        (0.0, (-0.05, 0.05), 1.0, True, "inconclusive"),  # the margin itself is not ruled out
        (0.0, (-0.04, 0.06), 1.0, False, "inconclusive"),
        (-0.1, (-0.2, -0.01), 0.03, True, "fail"),
        (0.1, (0.01, 0.2), 0.03, False, "fail"),
        (-0.04, (-0.08, 0.0), 0.06, True, "inconclusive"),
    ],
)
def test_not_worse_asks_that_the_margin_is_ruled_out(
    difference: float, ci95: tuple[float, float], p_value: float, better_up: bool, expected: str
) -> None:
    rules = GateRules("right", "not-worse", 0.05)

    assert verdict(rules, against(difference, ci95, p_value), better_up).verdict == expected


@pytest.mark.parametrize(("n", "expected"), [(1, "inconclusive"), (19, "inconclusive"), (20, "pass")])
def test_not_worse_needs_pairs_enough(n: int, expected: str) -> None:
    rules = GateRules("right", "not-worse", 0.05)

    assert verdict(rules, against(0.0, (-0.01, 0.01), 1.0, n)).verdict == expected


def test_few_pairs_may_still_show_a_loss() -> None:
    rules = GateRules("right", "not-worse", 0.05)

    assert verdict(rules, against(-0.5, (-0.9, -0.2), 0.01, 8)).verdict == "fail"


def test_a_primary_metric_that_was_not_compared_is_inconclusive() -> None:
    found = verdict(GateRules("right"), against(0.1, (0.05, 0.15), 0.001, name="other"))

    assert (found.verdict, found.reasons) == ("inconclusive", ("right was scored in no row of both runs",))


@pytest.mark.parametrize(
    ("metric", "floor", "expected"),
    [
        (Metric(0.5, 10, 0, None), 0.5, "pass"),
        (Metric(0.49, 10, 0, None), 0.5, "fail"),
        (Metric(1.0, 5, 5, None), 0.5, "pass"),
        (Metric(1.0, 4, 6, None), 0.5, "fail"),  # a row without a score counts as 0
        (Metric(None, 0, 10, None), 0.1, "fail"),
        (Metric(None, 0, 0, None), 0.1, "fail"),
    ],
)
def test_without_a_champion_only_the_floors_count(metric: Metric, floor: float, expected: str) -> None:
    found = decide(GateRules("right", floors={"right": floor}), Facts({"right": metric}, None))

    assert found.verdict == expected
    assert found.reasons[-1] == "no champion to compare with: only the floors count"


@pytest.mark.parametrize("comparison", [against(0.1, (0.05, 0.15), 0.001), against(0.0, (-0.1, 0.1), 1.0)])
def test_a_missed_floor_fails_whatever_the_comparison_says(comparison: Comparison) -> None:
    found = verdict(GateRules("right", floors={"right": 0.9}), comparison)

    assert found.verdict == "fail"
    assert found.reasons[0] == "right is 0.800, below its floor of 0.9"


def test_floors_that_hold_do_not_turn_a_loss_into_a_pass() -> None:
    found = verdict(GateRules("right", floors={"right": 0.1}), against(-0.1, (-0.15, -0.05), 0.001))

    assert found.verdict == "fail"
    assert "at or above its floor" in found.reasons[0]


def test_a_floor_of_a_scorer_that_the_run_does_not_have_is_missed() -> None:
    found = decide(GateRules("right", floors={"added": 0.1}), Facts(GOOD, None))

    assert found.verdict == "fail"


def test_every_floor_has_a_reason_and_failed_rows_are_named() -> None:
    metrics = {**GOOD, "valid": Metric(1.0, 8, 2, None)}

    found = decide(GateRules("right", floors={"right": 0.5, "valid": 0.9}), Facts(metrics, None))

    assert found.reasons[:2] == (
        "right is 0.800, at or above its floor of 0.5",
        "valid is 0.800, below its floor of 0.9, 2 of 10 rows failed",
    )


def test_the_reason_shows_the_numbers() -> None:
    reason = verdict(GateRules("right"), against(0.1, (0.05, 0.15), 0.0123)).reasons[-1]

    assert reason == (
        "right 0.500 → 0.600: difference +0.100, 95 % interval +0.050 to +0.150, p = 0.0123, 3 wins, 2 losses, "
        "95 ties: significantly better"
    )


def test_a_verdict_is_plain_json() -> None:
    assert Verdict("pass", ("a", "b")).to_json() == {"verdict": "pass", "reasons": ["a", "b"], "checks": []}


def test_rules_have_defaults() -> None:
    assert GateRules.from_mapping({"primary": "right"}) == GateRules("right", "better", 0.0, {})


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"primary": None}, "primary"),
        ({"rule": "best"}, "rule"),
        ({"margin": -1}, "margin"),
        ({"margin": True}, "margin"),
        ({"floors": [1]}, "floors"),
        ({"floors": {"right": "1"}}, "floors"),
        ({"floors": {"right": True}}, "floors"),
        ({"alpha": 0.1}, "alpha"),
    ],
)
def test_a_wrong_rule_names_its_key(changed: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key}: "):
        GateRules.from_mapping({"primary": "right", **changed})
