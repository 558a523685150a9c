"""The gate: rules over a comparison, and a verdict with reasons. It says `inconclusive` when that is the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.comparison import Comparison, MetricComparison
from llmops.evaluation.results import Metric

ALPHA = 0.05
_RULES = ("better", "not-worse")
_FEWEST_PAIRS = 20  # below, an interval is no evidence that a rare loss does not exist


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a challenger must show.

    primary: the one scorer that decides, chosen beforehand, so that its p-value needs no correction. rule: `better`
    (significantly better than the champion) or `not-worse` (the interval of the difference stays above −margin, over 20
    pairs or more).
    floors: least mean of a scorer, whatever the champion does; a row without a score counts as 0.
    """

    primary: str
    rule: str = "better"
    margin: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GateRules:
        """Raises UsageError whose text starts with the key at fault."""
        if unknown := sorted(values.keys() - {"primary", "rule", "margin", "floors"}):
            raise UsageError(f"{unknown[0]}: unknown key; known: primary, rule, margin, floors")
        if not isinstance(values.get("primary"), str):
            raise UsageError("primary: must name the scorer that decides")
        rule, margin, floors = values.get("rule", "better"), values.get("margin", 0.0), values.get("floors", {})
        if rule not in _RULES:
            raise UsageError(f"rule: must be one of {', '.join(_RULES)}")
        if not _is_number(margin) or margin < 0:
            raise UsageError("margin: must be a number of 0 or more")
        if not isinstance(floors, Mapping) or not all(_is_number(floor) for floor in floors.values()):
            raise UsageError("floors: must give a number for each scorer")
        return cls(values["primary"], rule, float(margin), dict(floors))


@dataclass(frozen=True, slots=True)
class Verdict:
    """`pass`, `fail` or `inconclusive`, with a sentence for everything that was looked at."""

    verdict: str
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "reasons": list(self.reasons)}


def decide(rules: GateRules, metrics: Mapping[str, Metric], comparison: Comparison | None, better_up: bool) -> Verdict:
    """Judges a challenger.

    metrics: the challenger's own. comparison: with the champion as `a`; None when there is no champion, and then only
    the floors count. better_up: whether higher values of the primary scorer are better.
    """
    missed, reasons = _floors(rules, metrics)
    if comparison is None:
        return Verdict("fail" if missed else "pass", (*reasons, "no champion to compare with: only the floors count"))
    outcome, reason = _primary(rules, comparison.metrics.get(rules.primary), better_up)
    return Verdict("fail" if missed else outcome, (*reasons, reason))


def _floors(rules: GateRules, metrics: Mapping[str, Metric]) -> tuple[bool, list[str]]:
    missed, reasons = False, []
    for name, floor in rules.floors.items():
        metric = metrics.get(name, Metric(None, 0, 0, None))
        rows = metric.n_scored + metric.n_failed
        mean = (metric.mean or 0.0) * metric.n_scored / rows if rows else 0.0
        below = mean < floor
        missed = missed or below
        failed = f", {metric.n_failed} of {rows} rows failed" if metric.n_failed else ""
        reasons.append(f"{name} is {mean:.3f}, {'below' if below else 'at or above'} its floor of {floor:g}{failed}")
    return missed, reasons


def _primary(rules: GateRules, metric: MetricComparison | None, better_up: bool) -> tuple[str, str]:
    if metric is None:
        return "inconclusive", f"{rules.primary} was scored in no row of both runs"
    sign = 1 if better_up else -1
    low, high = sorted((sign * metric.ci95[0], sign * metric.ci95[1]))
    gain = sign * metric.difference
    shown = (
        f"{rules.primary} {metric.a:.3f} → {metric.b:.3f}: difference {metric.difference:+.3f}, 95 % interval "
        f"{metric.ci95[0]:+.3f} to {metric.ci95[1]:+.3f}, p = {metric.p_value:.3g}, "
        f"{metric.wins} wins, {metric.losses} losses, {metric.ties} ties"
    )
    significant = metric.p_value < ALPHA
    if significant and gain < 0 and not (rules.rule == "not-worse" and low > -rules.margin):
        return "fail", f"{shown}: significantly worse"
    if rules.rule == "not-worse":
        if metric.n < _FEWEST_PAIRS:
            return "inconclusive", f"{shown}: {metric.n} pairs are too few, `not-worse` needs {_FEWEST_PAIRS}"
        if low > -rules.margin:
            return "pass", f"{shown}: worse by less than the margin of {rules.margin:g}"
        return "inconclusive", f"{shown}: a loss of {rules.margin:g} or more cannot be ruled out"
    if significant and gain > 0:
        return "pass", f"{shown}: significantly better"
    return "inconclusive", f"{shown}: no significant difference" + ("" if high > 0 else ", and no sign of a gain")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
