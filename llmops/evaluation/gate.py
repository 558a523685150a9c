"""The gate: rules over a comparison, and a verdict with reasons. It says `inconclusive` when that is the truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmops.evaluation.comparison import Comparison, MetricComparison
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import Metric, RowResult
from llmops.evaluation.statistics import mean_interval

__all__ = ["ALPHA", "Check", "Facts", "GateRules", "Verdict", "decide", "slice_metrics"]

ALPHA = 0.05
_FEWEST_PAIRS = 20  # below, an interval is no evidence that a rare loss does not exist

Outcome = Literal["pass", "fail", "inconclusive"]
Kind = Literal["superiority", "non-inferiority", "floor", "ceiling", "slice-floor", "judge"]


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and what became of it."""

    name: str
    kind: Kind
    metric: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`pass`, `fail` or `inconclusive`, with a sentence for everything that was looked at."""

    verdict: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "checks": [asdict(check) for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a challenger.

    metrics: its own, by scorer. comparison: with the champion as `a`; None when there is no champion, and then only
    floors and ceilings count. slices: its metrics by `tag=value`. untrusted: judge scorers that may not gate, and why.
    """

    metrics: Mapping[str, Metric]
    comparison: Comparison | None
    slices: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    untrusted: Mapping[str, str] = field(default_factory=dict)


def decide(rules: GateRules, facts: Facts) -> Verdict:
    """Judges a challenger: `fail` when a rule fails, else `inconclusive` when one cannot be told, else `pass`."""
    checks = tuple(_checks(rules, facts))
    outcomes = {check.outcome for check in checks}
    verdict: Outcome = "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
    reasons = [check.detail for check in checks]
    if facts.comparison is None:
        reasons.append("no champion to compare with: only the floors count")
    return Verdict(verdict, tuple(reasons), checks)


def _checks(rules: GateRules, facts: Facts) -> Iterator[Check]:
    for scorer in dict.fromkeys(rules.scorers):
        if scorer in facts.untrusted:
            detail = f"{scorer} cannot gate: {facts.untrusted[scorer]}"
            yield Check(f"{scorer} is trusted", "judge", scorer, "inconclusive", detail)
    for scorer, floor in rules.floors.items():
        yield _floor(f"{scorer} floor", "floor", scorer, facts.metrics.get(scorer), floor, scorer)
    for scorer, ceiling in rules.ceilings.items():
        yield _ceiling(scorer, facts.metrics.get(scorer), ceiling)
    for name, floors in rules.slice_floors.items():
        for scorer, floor in floors.items():
            metric = facts.slices.get(name, {}).get(scorer)
            yield _floor(f"{scorer} floor in {name}", "slice-floor", scorer, metric, floor, f"{scorer} in {name}")
    if facts.comparison is not None:
        yield from _compared(rules, facts.comparison)


def _compared(rules: GateRules, comparison: Comparison) -> Iterator[Check]:
    kind: Kind = "superiority" if rules.rule == "better" else "non-inferiority"
    outcome, detail = _primary(rules, comparison.metrics.get(rules.primary))
    yield Check(f"{rules.primary} {rules.rule}", kind, rules.primary, outcome, detail)
    for scorer, margin in rules.not_worse.items():
        outcome, detail = _not_worse(scorer, comparison.metrics.get(scorer), margin)
        yield Check(f"{scorer} not-worse", "non-inferiority", scorer, outcome, detail)


def _floor(name: str, kind: Kind, scorer: str, metric: Metric | None, floor: float, shown: str) -> Check:
    if metric is None or not metric.n_scored + metric.n_failed:
        return Check(name, kind, scorer, "fail", f"{shown} was scored in no row, so its floor of {floor:g} is not met")
    rows = metric.n_scored + metric.n_failed
    mean = (metric.mean or 0.0) * metric.n_scored / rows
    below = mean < floor
    failed = f", {metric.n_failed} of {rows} rows failed" if metric.n_failed else ""
    detail = f"{shown} is {mean:.3f}, {'below' if below else 'at or above'} its floor of {floor:g}{failed}"
    return Check(name, kind, scorer, "fail" if below else "pass", detail)


def _ceiling(scorer: str, metric: Metric | None, ceiling: float) -> Check:
    name = f"{scorer} ceiling"
    if metric is None or metric.mean is None:
        return Check(name, "ceiling", scorer, "fail", f"{scorer} was measured in no row, so its ceiling says nothing")
    above = metric.mean > ceiling
    failed = f", over the {metric.n_scored} rows that have it" if metric.n_failed else ""
    detail = f"{scorer} is {metric.mean:.4g}, {'above' if above else 'at or below'} its ceiling of {ceiling:g}{failed}"
    return Check(name, "ceiling", scorer, "fail" if above else "pass", detail)


def _primary(rules: GateRules, metric: MetricComparison | None) -> tuple[Outcome, str]:
    if rules.rule == "not-worse" or metric is None:
        return _not_worse(rules.primary, metric, rules.margin)
    _, high, gain = _gains(metric)
    shown = _shown(rules.primary, metric)
    significant = metric.p_value < ALPHA
    if significant and gain < 0:
        return "fail", f"{shown}: significantly worse"
    if significant and gain > 0:
        return "pass", f"{shown}: significantly better"
    return "inconclusive", f"{shown}: no significant difference" + ("" if high > 0 else ", and no sign of a gain")


def _not_worse(scorer: str, metric: MetricComparison | None, margin: float) -> tuple[Outcome, str]:
    if metric is None:
        return "inconclusive", f"{scorer} was scored in no row of both runs"
    low, _, gain = _gains(metric)
    shown = _shown(scorer, metric)
    if metric.p_value < ALPHA and gain < 0 and low <= -margin:
        return "fail", f"{shown}: significantly worse"
    if metric.n < _FEWEST_PAIRS:
        return "inconclusive", f"{shown}: {metric.n} pairs are too few, `not-worse` needs {_FEWEST_PAIRS}"
    if low > -margin:
        return "pass", f"{shown}: worse by less than the margin of {margin:g}"
    return "inconclusive", f"{shown}: a loss of {margin:g} or more cannot be ruled out"


def _gains(metric: MetricComparison) -> tuple[float, float, float]:
    """Ends of the interval, and the difference, such that more is better."""
    sign = -1 if metric.higher_is_better is False else 1
    low, high = sorted(sign * end for end in metric.ci95 or (-math.inf, math.inf))
    return low, high, sign * metric.difference


def _shown(scorer: str, metric: MetricComparison) -> str:
    interval = f"95 % interval {metric.ci95[0]:+.3f} to {metric.ci95[1]:+.3f}" if metric.ci95 else metric.note
    return (
        f"{scorer} {metric.a:.3f} → {metric.b:.3f}: difference {metric.difference:+.3f}, {interval}, "
        f"p = {metric.p_value:.3g}, "
        f"{metric.wins} wins, {metric.losses} losses, {metric.ties} ties"
    )


def slice_metrics(results: Iterable[RowResult], wanted: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Metric]]:
    """Metrics of the slices asked for. wanted: scorer names by `tag=value`."""
    scores: dict[str, dict[str, list[float]]] = {name: {s: [] for s in scorers} for name, scorers in wanted.items()}
    failed = {name: dict.fromkeys(by_scorer, 0) for name, by_scorer in scores.items()}
    for result in results:
        for name in (f"{tag}={value}" for tag, value in result.row.tags.items()):
            for scorer, values in scores.get(name, {}).items():
                score = result.scores.get(scorer)
                if score is None or score.value is None:
                    failed[name][scorer] += 1
                else:
                    values.append(score.value)
    return {
        name: {scorer: _metric(values, failed[name][scorer]) for scorer, values in by_scorer.items()}
        for name, by_scorer in scores.items()
    }


def _metric(values: list[float], n_failed: int) -> Metric:
    if not values:
        return Metric(None, 0, n_failed, None)
    return Metric(sum(values) / len(values), len(values), n_failed, mean_interval(values))
