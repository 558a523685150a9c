"""The gate's verdict on every path: pass, fail, inconclusive, each with its reasons."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from llmops.errors import UsageError
from llmops.evaluation.comparison import Comparison
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import GateCheck, GateInput, GateRules, Verdict, decide, slice_metrics
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.results import AnswerCounts, Metric, Output, RowResult, Score

GOOD = {"right": Metric(0.8, 100, 0, (0.7, 0.9))}
SEEN, LESS_SEEN = Metric(0.7, 10, 0, (0.40, 0.89)), Metric(0.7, 95, 5, (0.60, 0.80))
ROWS = AnswerCounts(100)
LIMITS = {"right": (0.0, 1.0), "valid": (0.0, 1.0), "kind": (0.0, 1.0), "latency": (0.0, math.inf)}


def facts(metrics: Mapping[str, Metric], comparison: Comparison | None, **further: Any) -> GateInput:
    """Of a challenger and a champion who have a score in every row of what is compared."""
    scored = {name: Metric(0.5, 100, 0, None) for name in comparison.metrics} if comparison else {}
    return GateInput({**scored, **metrics}, comparison, ROWS, champion=scored, limits=LIMITS, **further)


def against(
    difference: float, ci95: tuple[float, float], p_value: float, n: int = 100, name: str = "right"
) -> Comparison:
    metric = MetricComparison(0.5, 0.5 + difference, difference, ci95, p_value, 1.0, "made-up", 3, 2, n - 5, n)
    return made_of({name: metric}, n)


def made_of(metrics: Mapping[str, MetricComparison], n: int = 100) -> Comparison:
    return Comparison("a", "b", n, metrics, {}, [], answers_a=AnswerCounts(n), answers_b=AnswerCounts(n))


def of_rules(found: Verdict) -> list[GateCheck]:
    """Without the check of the rows, which always stands in a verdict."""
    assert found.checks[-1].name == "rows"
    return list(found.checks[:-1])


def verdict(rules: GateRules, comparison: Comparison | None, better_up: bool | None = True) -> Verdict:
    if comparison is not None:
        metrics = {name: replace(m, higher_is_better=better_up) for name, m in comparison.metrics.items()}
        comparison = replace(comparison, metrics=metrics)
    return decide(rules, facts(GOOD, comparison))


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
        (0.1, (0.05, 0.15), 0.001, None, "inconclusive", "neither direction of it is better"),
    ],
)
def test_better_asks_for_a_significant_gain(difference, ci95, p_value, better_up, expected, reason):
    found = verdict(GateRules("right"), against(difference, ci95, p_value), better_up)
    assert found.verdict == expected
    assert reason in found.reasons[0]


@pytest.mark.parametrize(
    ("difference", "ci95", "p_value", "better_up", "n", "expected"),
    [
        (0.0, (-0.04, 0.04), 1.0, True, 100, "pass"),
        (0.2, (0.1, 0.3), 0.001, True, 100, "pass"),
        (-0.02, (-0.03, -0.01), 0.001, True, 100, "pass"),  # significantly worse, by less than the margin
        (0.02, (0.01, 0.03), 0.001, False, 100, "pass"),
        (0.0, (-0.06, 0.06), 1.0, True, 100, "inconclusive"),
        (0.0, (-0.05, 0.05), 1.0, True, 100, "inconclusive"),  # the margin itself is not ruled out
        (0.0, (-0.04, 0.06), 1.0, False, 100, "inconclusive"),
        (-0.1, (-0.2, -0.01), 0.03, True, 100, "fail"),
        (0.1, (0.01, 0.2), 0.03, False, 100, "fail"),
        (-0.04, (-0.08, 0.0), 0.06, True, 100, "inconclusive"),
        (0.1, (0.05, 0.15), 0.001, None, 100, "inconclusive"),  # neither direction is better
        # A pass needs pairs enough, and a loss does not.
        (0.0, (-0.01, 0.01), 1.0, True, 1, "inconclusive"),
        (0.0, (-0.01, 0.01), 1.0, True, 19, "inconclusive"),
        (0.0, (-0.01, 0.01), 1.0, True, 20, "pass"),
        (-0.5, (-0.9, -0.2), 0.01, True, 8, "fail"),
    ],
)
def test_not_worse_asks_that_the_margin_is_ruled_out(difference, ci95, p_value, better_up, n, expected):
    rules = GateRules("right", "not-worse", 0.05)
    assert verdict(rules, against(difference, ci95, p_value, n), better_up).verdict == expected


@pytest.mark.parametrize("bounds", ["floors", "slice_floors"])
@pytest.mark.parametrize(
    ("metric", "floor", "expected"),
    [
        (Metric(0.5, 10, 0, None), 0.5, "pass"),
        (Metric(0.49, 10, 0, None), 0.5, "fail"),
        (Metric(1.0, 95, 5, None), 0.95, "pass"),  # also with 5 rows of score 0
        (Metric(1.0, 95, 5, None), 0.96, "inconclusive"),  # what the 5 would have scored decides it
        (Metric(0.5, 95, 5, None), 0.525, "inconclusive"),
        (Metric(0.5, 95, 5, None), 0.53, "fail"),  # also with 5 rows of score 1
        (Metric(1.0, 5, 5, None), 0.1, "inconclusive"),  # half of the rows failed
        (Metric(0.1, 3, 5, None), 0.5, "inconclusive"),  # the five might have been right
        (Metric(0.2, 7, 1, None), 0.5, "fail"),
        (Metric(0.0, 5, 5, None), 0.6, "fail"),
        (Metric(None, 0, 10, None), 0.1, "inconclusive"),
        (Metric(None, 0, 0, None), 0.1, "inconclusive"),
        (Metric(1.0, 4, 0, None), 0.1, "inconclusive"),  # four rows are no evidence
    ],
)
def test_without_a_champion_only_the_floors_count_and_a_slice_may_have_its_own(metric, floor, expected, bounds):
    if bounds == "floors":
        rules, known = GateRules("right", floors={"right": floor}), facts({"right": metric}, None)
        told = ("right floor", "floor", "right")
    else:
        rules, known = slice_rules(floor), facts(GOOD, None, slices={"topic=sums": {"right": metric}})
        told = ("right floor in topic=sums", "slice-floor", "right")
    found = decide(rules, known)
    assert found.verdict == expected
    assert found.reasons[-1] == "no champion to compare with: only floors and ceilings count"
    assert (found.checks[0].name, found.checks[0].kind, found.checks[0].metric) == told
    assert found.checks[0].detail.startswith("right in topic=sums " if bounds == "slice_floors" else "right ")


@pytest.mark.parametrize(
    ("metric", "bounds", "bound", "expected", "words"),
    [
        (SEEN, "floors", 0.4, "pass", "95 % interval 0.400 to 0.890"),
        (SEEN, "floors", 0.5, "inconclusive", "too few rows to tell, it takes about 23 at this mean"),
        (SEEN, "floors", 0.8, "inconclusive", "it takes about 37 at this mean"),
        (SEEN, "floors", 0.7, "inconclusive", "no number of rows is enough at this mean"),
        (SEEN, "floors", 0.9, "fail", "below its floor"),
        (LESS_SEEN, "floors", 0.6, "inconclusive", "what they had scored decides it"),
        (LESS_SEEN, "floors", 0.57, "pass", "5 of 100 rows failed"),  # also with 5 rows of score 0
        (LESS_SEEN, "floors", 0.82, "fail", "missed whatever they had scored"),  # nor with 5 of score 1
        (Metric(0.7, 6, 0, None, "one cluster is too few"), "floors", 0.1, "inconclusive", "one cluster is too few"),
        *((SEEN, "ceilings", ceiling, outcome, "") for ceiling, outcome in [
            (0.89, "pass"), (0.8, "inconclusive"), (0.4, "inconclusive"), (0.39, "fail"),
        ]),
    ],
)  # fmt: skip
def test_a_bound_of_the_interval_passes_or_fails_only_where_all_of_the_interval_does(
    metric, bounds, bound, expected, words
):
    rules = GateRules("right", **{bounds: {"right": bound}}, bounds="interval")
    found = decide(rules, facts({"right": metric}, None))
    assert found.verdict == expected
    assert words in found.reasons[0]


def test_a_first_release_without_floors_passes_if_its_primary_metric_was_measured():
    measured = decide(GateRules("right"), facts(GOOD, None))
    failed = decide(GateRules("right"), facts({"right": Metric(None, 0, 100, None)}, None))
    absent = decide(GateRules("right", not_worse={"valid": 0.1}), facts(GOOD, None))
    assert (measured.verdict, failed.verdict, absent.verdict) == ("pass", "inconclusive", "inconclusive")
    assert measured.reasons == (
        "right is 0.800 over 100 rows",
        "the challenger: 100 rows, none failed, cut off or empty",
        "no champion to compare with, and no floors or ceilings to check",
    )
    assert failed.reasons[0] == "right was scored in no row (100 failed)"


@pytest.mark.parametrize(
    ("comparison", "floor", "reason"),
    [
        (against(0.1, (0.05, 0.15), 0.001), 0.9, "right is 0.800, below its floor of 0.9"),
        (against(0.0, (-0.1, 0.1), 1.0), 0.9, "right is 0.800, below its floor of 0.9"),
        (against(-0.1, (-0.15, -0.05), 0.001), 0.1, "right is 0.800, at or above its floor of 0.1"),
    ],
)
def test_a_missed_floor_fails_whatever_the_comparison_says_and_one_that_holds_turns_no_loss_into_a_pass(
    comparison, floor, reason
):
    found = verdict(GateRules("right", floors={"right": floor}), comparison)
    assert (found.verdict, found.reasons[0]) == ("fail", reason)


def test_every_floor_has_a_reason_and_failed_rows_are_named():
    metrics = {**GOOD, "valid": Metric(1.0, 8, 2, None)}
    found = decide(GateRules("right", floors={"right": 0.5, "valid": 0.9}), facts(metrics, None))
    assert found.reasons[:2] == (
        "right is 0.800, at or above its floor of 0.5",
        "valid is 1.000, at or above its floor of 0.9, 2 of 10 rows failed, at most 10 % may",
    )


def test_a_verdict_is_plain_json_and_its_reason_shows_the_numbers():
    found = verdict(GateRules("right"), against(0.1, (0.05, 0.15), 0.0123)).to_json()
    detail = (
        "right 0.500 → 0.600 over 100 pairs: difference +0.100, 95 % interval +0.050 to +0.150, p = 0.0123, "
        "3 wins, 2 losses, 95 ties: significantly better"
    )
    assert (found["verdict"], found["reasons"][0]) == ("pass", detail)
    assert found["checks"][0] == {
        "name": "right better", "kind": "superiority", "metric": "right", "outcome": "pass", "detail": detail
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"primary": None}, "primary"),
        ({"rule": "best"}, "rule"),
        ({"margin": -1}, "margin"),
        ({"margin": True}, "margin"),
        ({"margin": "0.1"}, "margin"),
        ({"floors": [1]}, "floors"),
        ({"floors": {"right": "1"}}, "floors.right"),
        ({"floors": {"right": True}}, "floors.right"),
        ({"alpha": 0.1}, "alpha"),
        ({"ceilings": [1]}, "ceilings"),
        ({"ceilings": {"right": "1"}}, "ceilings.right"),
        ({"not_worse": 0.1}, "not_worse"),
        ({"not_worse": {"right": -0.1}}, "not_worse.right"),
        ({"not_worse": {"right": None}}, "not_worse.right"),
        ({"slice_floors": 0.1}, "slice_floors"),
        ({"most_failed": 10}, "most_failed"),
        ({"most_failed": -0.1}, "most_failed"),
        ({"most_failed": "10 %"}, "most_failed"),
        ({"most_failed": True}, "most_failed"),
        ({"slice_floors": {"topic": {"right": 0.5}}}, "slice_floors.topic"),
        ({"slice_floors": {"topic=sums": 0.5}}, "slice_floors.topic=sums"),
        ({"slice_floors": {"topic=sums": {"right": "half"}}}, "slice_floors.topic=sums.right"),
    ],
)
def test_a_wrong_rule_names_its_key(changed, key):
    with pytest.raises(UsageError, match=f"^{re.escape(key)}: "):
        GateRules.from_mapping({"primary": "right", **changed})


RULES = {
    "primary": "right",
    "rule": "not-worse",
    "margin": 0.05,
    "floors": {"right": 0.5},
    "ceilings": {"latency": 900.0},
    "not_worse": {"valid": 0.02},
    "slice_floors": {"topic=sums": {"right": 0.4, "kind": 0.3}},
    "bounds": "interval",
    "most_failed": 0.2,
}


def test_rules_are_read_and_told_alike_and_name_all_their_scorers():
    rules = GateRules.from_mapping(RULES)
    assert rules.to_json() == RULES
    assert list(dict.fromkeys(rules.scorers)) == ["right", "latency", "valid", "kind"]
    assert GateRules.from_mapping({"primary": "right"}) == GateRules("right", "better", 0.0, {})


# Ceilings


@pytest.mark.parametrize(
    ("metric", "expected", "reason"),
    [
        (Metric(900.0, 10, 0, None), "pass", "latency is 900, at or below its ceiling of 900"),
        (Metric(900.5, 10, 0, None), "fail", "latency is 900.5, above its ceiling of 900"),
        # How slow the failed one would have been, nobody knows; and not even at 0 ms could it save the others.
        (Metric(10.0, 99, 1, None), "inconclusive", ", 1 of 100 rows failed, and what they had scored decides it"),
        (Metric(1000.0, 99, 1, None), "fail", ", 1 of 100 rows failed, and is missed whatever they had scored"),
        (Metric(905.0, 99, 1, None), "inconclusive", "latency is 905, above its ceiling of 900, 1 of 100 rows failed"),
        (Metric(10.0, 4, 6, None), "inconclusive", ", 6 of 10 rows failed, at most 10 % may"),
        (Metric(None, 0, 10, None), "inconclusive", "latency was scored in no row (10 failed), so its ceiling of 900"),
        (None, "inconclusive", "latency was scored in no row, so its ceiling of 900 says nothing"),
    ],
)
def test_a_ceiling_is_the_most_a_mean_may_be(metric, expected, reason):
    metrics = {**GOOD, "latency": metric} if metric else GOOD
    found = decide(GateRules("right", ceilings={"latency": 900.0}), facts(metrics, None))
    assert found.verdict == expected
    assert reason in found.reasons[0]
    check = found.checks[0]
    assert (check.kind, check.metric, check.outcome) == ("ceiling", "latency", expected)


def test_a_ceiling_of_shares_takes_every_failed_row_for_the_worst():
    rules, limits = GateRules("right", ceilings={"refusal": 0.1}), {"refusal": (0.0, 1.0)}

    def found(metric: Metric) -> str:
        return decide(rules, replace(facts({**GOOD, "refusal": metric}, None), limits=limits)).verdict

    assert [found(Metric(0.05, 100 - failed, failed, None)) for failed in (0, 5, 6, 100 - 20)] == [
        "pass", "pass", "inconclusive", "inconclusive"
    ]  # fmt: skip
    assert found(Metric(0.5, 50, 50, None)) == "fail"


# Further metrics that must not get worse


def compared(**metrics: tuple[float, tuple[float, float], float]) -> Comparison:
    found = {name: against(*values, name=name).metrics[name] for name, values in metrics.items()}
    return made_of(found)


GAIN = (0.1, (0.05, 0.15), 0.001)


@pytest.mark.parametrize(
    ("margin", "valid", "better_up", "expected"),
    [
        (0.02, (0.0, (-0.01, 0.01), 1.0), True, "pass"),
        (0.02, (-0.01, (-0.015, -0.005), 0.001), True, "pass"),  # worse, surely by less than the margin
        (0.02, (0.0, (-0.05, 0.05), 1.0), True, "inconclusive"),
        (0.02, (-0.1, (-0.15, -0.05), 0.001), True, "fail"),
        *((margin, GAIN, False, outcome) for margin, outcome in ((0.2, "pass"), (0.1, "fail"), (0.04, "fail"))),
    ],
)
def test_a_gain_is_no_pass_where_another_metric_may_have_become_worse(margin, valid, better_up, expected):
    comparison = compared(right=GAIN, valid=valid)
    metrics = {**comparison.metrics, "valid": replace(comparison.metrics["valid"], higher_is_better=better_up)}
    rules = GateRules("right", not_worse={"valid": margin})
    found = decide(rules, facts(GOOD, replace(comparison, metrics=metrics)))
    assert found.verdict == expected
    assert [(check.name, check.kind, check.outcome) for check in of_rules(found)] == [
        ("right better", "superiority", "pass"),
        ("valid not-worse", "non-inferiority", expected),
    ]


# Slices


def slice_rules(floor: float = 0.5) -> GateRules:
    return GateRules("right", slice_floors={"topic=sums": {"right": floor}})


def result(topic: str, **scores: Any) -> RowResult:
    given = {name: Score(error="no") if value is None else Score(value) for name, value in scores.items()}
    return RowResult(EvalRow("r", {"q": "?"}, tags={"topic": topic, "level": "hard"}), Output("answer"), given)


@pytest.mark.parametrize(
    ("rules", "comparison", "reason"),
    [
        (
            GateRules("right"), against(0.1, (0.05, 0.15), 0.001, name="other"),
            "right was scored in no row of a",
        ),
        (
            GateRules("right", not_worse={"valid": 0.02}), against(0.1, (0.05, 0.15), 0.001),
            "valid was scored in no row of a; valid was scored in no row of b",
        ),
        (
            GateRules("right", floors={"added": 0.1}), None,
            "added was scored in no row, so its floor of 0.1 says nothing",
        ),
        (slice_rules(), None, "right in topic=sums was scored in no row, so its floor of 0.5 says nothing"),
    ],
)  # fmt: skip
def test_a_rule_of_what_the_run_does_not_have_cannot_be_told(rules, comparison, reason):
    found = verdict(rules, comparison)
    assert found.verdict == "inconclusive"
    assert reason in found.reasons


def test_slices_are_measured_as_asked():
    rows = [result("sums", right=True, kind=0.5), result("sums", right=None, kind=0.7), result("words", right=False)]
    wanted = {"topic=sums": ["right", "kind", "judged"], "level=hard": ["right"], "topic=none": ["right"]}
    found = slice_metrics(rows, wanted)
    sums = found["topic=sums"]
    assert sums["right"].to_json()["mean"] == 1.0
    assert (sums["right"].n_scored, sums["right"].n_failed) == (1, 1)
    assert sums["kind"].mean == pytest.approx(0.6)
    assert sums["judged"] == Metric(None, 0, 2, None)  # left out of the run
    assert (found["level=hard"]["right"].mean, found["level=hard"]["right"].n_failed) == (0.5, 1)
    assert found["topic=none"]["right"] == Metric(None, 0, 0, None)


# Judges


@pytest.mark.parametrize(
    "rules",
    [
        GateRules("right", floors={"kind": 0.1}),
        GateRules("right", ceilings={"kind": 0.9}),
        GateRules("right", not_worse={"kind": 0.5}),
        GateRules("right", slice_floors={"topic=sums": {"kind": 0.1}}),
        GateRules("kind", "not-worse", 0.05),
    ],
)
def test_a_judge_that_is_not_trusted_counts_wherever_a_rule_names_it(rules):
    metrics = {**GOOD, "kind": Metric(0.8, 100, 0, (0.7, 0.9))}
    comparison = compared(right=GAIN, kind=(0.0, (-0.01, 0.01), 1.0))
    slices = {"topic=sums": {"kind": metrics["kind"]}}
    trusted = decide(rules, facts(metrics, comparison, slices=slices))
    untrusted = decide(
        rules, facts(metrics, comparison, slices=slices, untrusted={"kind": "not calibrated", "other": "no judge"})
    )
    assert (trusted.verdict, untrusted.verdict) == ("pass", "inconclusive")
    assert untrusted.reasons[0] == "kind cannot gate: not calibrated"
    assert [(check.metric, check.outcome) for check in untrusted.checks if check.kind == "judge"] == [
        ("kind", "inconclusive")
    ]
    assert not any(check.metric == "kind" and check.kind != "judge" for check in untrusted.checks[:-1])


@pytest.mark.parametrize("rule", ["better", "not-worse"])
def test_the_rules_of_a_judge_that_is_not_trusted_say_nothing_and_others_still_do(rule):
    rules = GateRules("right", rule, 0.05, floors={"right": 0.9}, slice_floors={"topic=sums": {"right": 0.9}})
    lost = against(-0.1, (-0.15, -0.05), 0.001)
    problem = {"right": "κ 0.61 is not surely 0.9 or more"}
    untrusted = decide(rules, facts(GOOD, lost, untrusted=problem))
    another = decide(
        replace(rules, floors={**rules.floors, "valid": 0.9}),
        facts({**GOOD, "valid": Metric(0.5, 100, 0, None)}, lost, untrusted=problem),
    )
    assert (untrusted.verdict, another.verdict) == ("inconclusive", "fail")
    assert untrusted.reasons[0] == "right cannot gate: κ 0.61 is not surely 0.9 or more"


@pytest.mark.parametrize("bounds", [{"floors": {"right": 0.7}}, {"ceilings": {"right": 0.7}}])
def test_a_mean_that_is_its_bound_but_for_rounding_is_within_it(bounds):
    for mean in (0.7 - 1e-16, 0.7, 0.7 + 1e-16):
        found = decide(GateRules("right", **bounds), facts({"right": Metric(mean, 100, 0, (0.6, 0.8))}, None))
        assert found.verdict == "pass"


@pytest.mark.parametrize(("skewed", "better_up", "told"), [(-1, True, True), (1, True, False), (1, False, True)])
def test_not_worse_is_said_to_be_less_sure_where_few_rows_lose_much(skewed, better_up, told):
    comparison = against(0.0, (-0.02, 0.02), 0.9)
    metric = replace(comparison.metrics["right"], skewed=skewed)
    found = verdict(GateRules("right", "not-worse", 0.05), replace(comparison, metrics={"right": metric}), better_up)
    assert found.verdict == "pass"
    assert ("not as surely as meant: few rows lose much" in found.reasons[0]) == told
