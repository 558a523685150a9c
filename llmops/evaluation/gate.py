"""The gate: rules over a comparison, and a verdict with reasons. It says `inconclusive` when that is the truth.

A row without a score never helps: a rule holds only if it does with every such row at its worst, and is broken only if
it is with every such row at its best. Where too many are missing, it says nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Self

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.paired_tests import FEWEST_CLUSTERS
from llmops.evaluation.results import AnswerCounts, Metric, OfSuite, RowResult, ScoreTally
from llmops.evaluation.statistics import UNLIMITED
from llmops.hashing import JsonData

__all__ = ["ALPHA", "GateCheck", "GateInput", "GateRules", "Verdict", "decide", "slice_metrics"]

ALPHA = 0.05
_FEWEST_PAIRS = 20  # below, an interval is no evidence that a rare loss does not exist
_ROUNDING = 1e-12
_FEWEST_ROWS = 5  # below, a mean is no evidence that a floor or ceiling holds

_NOT_SURELY = ", though not as surely as meant: few rows lose much, and a sample says little of these"

Outcome = Literal["pass", "fail", "inconclusive"]
Kind = Literal["rows", "superiority", "non-inferiority", "floor", "ceiling", "slice-floor", "measured", "judge"]


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One rule and what became of it."""

    name: str
    kind: Kind
    metric: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict(JsonData):
    """`pass`, `fail` or `inconclusive`, with a sentence for everything that was looked at."""

    verdict: Outcome
    reasons: tuple[str, ...]
    checks: tuple[GateCheck, ...] = ()

    def with_reasons(self, reasons: Iterable[str]) -> Self:
        """With what else a reader of the verdict has to know."""
        return replace(self, reasons=(*self.reasons, *reasons))


@dataclass(frozen=True, slots=True)
class GateInput:
    """What is known of a challenger.

    metrics: its own, by scorer.
    comparison: with the champion as `a`; None without one, and then only floors and ceilings count.
    answers: what became of its rows.
    champion: the champion's own metrics.
    slices: its metrics by `tag=value`.
    untrusted: judge scorers that may not gate, and why.
    limits: the least and the greatest value of a scorer; a scorer that is not named may have any.
    serving: how what will be served differs from what was evaluated, where it does or may.
    suite_rows: of the suite that gates, where that is known.
    stale_runs: runs whose rows are not, or not any more, those of the suite.
    """

    metrics: Mapping[str, Metric]
    comparison: Comparison | None
    answers: AnswerCounts
    name: str = "the challenger"
    champion: Mapping[str, Metric] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    untrusted: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    serving: str | None = None
    suite_rows: int | None = None
    stale_runs: Sequence[str] = ()


def decide(rules: GateRules, facts: GateInput) -> Verdict:
    """Judges a challenger: `fail` when a rule is broken, else `inconclusive` when one cannot be told, else `pass`."""
    # An untrusted judge's rules say nothing, neither that they hold nor that they are broken.
    distrusted = {scorer: facts.untrusted[scorer] for scorer in rules.scorers if scorer in facts.untrusted}
    checks = (
        *(
            GateCheck(f"{scorer} is trusted", "judge", scorer, "inconclusive", f"{scorer} cannot gate: {why}")
            for scorer, why in distrusted.items()
        ),
        *(check for check in _checks(rules, facts) if check.metric not in distrusted),
        _rows(rules, facts),
    )
    outcomes = {check.outcome for check in checks}
    verdict: Outcome = "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
    reasons = [check.detail for check in checks]
    if facts.comparison is None:
        asked = rules.floors or rules.ceilings or rules.slice_floors
        only = ": only floors and ceilings count" if asked else ", and no floors or ceilings to check"
        reasons.append(f"no champion to compare with{only}")
    if facts.serving is not None:
        reasons.append(facts.serving)
    return Verdict(verdict, tuple(reasons), checks)


def _checks(rules: GateRules, facts: GateInput) -> Iterator[GateCheck]:
    """A check for every rule, whoever scored."""
    bounds = [_Bound("floor", *floor) for floor in rules.floors.items()]
    bounds += [_Bound("ceiling", *ceiling) for ceiling in rules.ceilings.items()]
    yield from (_bounded(bound, facts.metrics.get(bound.scorer), rules, facts) for bound in bounds)
    for part, floors in rules.slice_floors.items():
        for scorer, value in floors.items():
            metric = facts.slices.get(part, {}).get(scorer)
            yield _bounded(_Bound("slice-floor", scorer, value, f" in {part}"), metric, rules, facts)
    if facts.comparison is None:
        yield from (_measured(scorer, rules, facts) for scorer in dict.fromkeys((rules.primary, *rules.not_worse)))
        return
    margin = None if rules.rule == "better" else rules.margin
    yield _compared(rules.primary, margin, rules, facts, facts.comparison)
    for scorer, further in rules.not_worse.items():
        yield _compared(scorer, further, rules, facts, facts.comparison)


def _rows(rules: GateRules, facts: GateInput) -> GateCheck:
    """What became of the rows of both sides, whatever the scorers say."""
    comparison = facts.comparison
    if comparison is None:
        told, sides = f"{facts.name}: {facts.answers.sentence()}", [(facts.name, facts.answers, 0)]
        part = OfSuite(facts.answers.rows, facts.suite_rows) if facts.suite_rows is not None else None
        if part is not None and part.sentence():
            told += f"; {part.sentence()}"
    else:
        told, part = comparison.rows_told(), comparison.of_suite
        sides = [
            (comparison.a, comparison.answers_a, comparison.unmatched_a),
            (comparison.b, comparison.answers_b, comparison.unmatched_b),
        ]
    too_many = [
        side
        for side, answers, unmatched in sides
        if not answers.rows or _too_many(answers.failed + unmatched, answers.rows, rules)
    ]
    if part is not None and _too_many(part.left_out, part.rows, rules):
        too_many.append("the suite")
    if too_many:
        told += f"; too much is missing of {' and '.join(too_many)}, at most {_percent(rules.most_failed)} may be"
    if facts.stale_runs:
        told += f"; the suite's rows are others now than those of {' and '.join(facts.stale_runs)}: run it again"
    outcome: Outcome = "inconclusive" if too_many or facts.stale_runs else "pass"
    return GateCheck("rows", "rows", rules.primary, outcome, told)


@dataclass(frozen=True, slots=True)
class _Bound:
    """The least, or the most, that a mean may be."""

    kind: Literal["floor", "ceiling", "slice-floor"]
    scorer: str
    value: float
    where: str = ""

    @property
    def word(self) -> str:
        return self.kind.removeprefix("slice-")

    def holds(self, mean: float) -> bool:
        if math.isclose(mean, self.value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            return True  # ten times 0.9 have a mean of 0.9000000000000001, or of 0.8999999999999999
        return mean < self.value if self.kind == "ceiling" else mean > self.value

    def told(self, mean: float) -> str:
        if self.kind == "ceiling":
            return f"{mean:.4g}, {'at or below' if self.holds(mean) else 'above'} its ceiling of {self.value:g}"
        return f"{mean:.3f}, {'at or above' if self.holds(mean) else 'below'} its floor of {self.value:g}"

    def check(self, outcome: Outcome, detail: str) -> GateCheck:
        return GateCheck(f"{self.scorer} {self.word}{self.where}", self.kind, self.scorer, outcome, detail)


def _bounded(bound: _Bound, metric: Metric | None, rules: GateRules, facts: GateInput) -> GateCheck:
    """Holds if it does with every failed row at its worst; is missed if it is with every failed row at its best. Where
    the interval counts, also at its worse end, and at its better one."""
    if metric is None or metric.mean is None:
        says_nothing = f"so its {bound.word} of {bound.value:g} says nothing"
        return bound.check("inconclusive", f"{bound.scorer}{bound.where} {_in_no_row(metric)}, {says_nothing}")
    by_interval = rules.bounds == "interval"
    ends = metric.ci95 or UNLIMITED if by_interval else (metric.mean, metric.mean)
    means = [
        (end * metric.n_scored + value * metric.n_failed) / metric.rows if metric.n_failed else end
        for end, value in zip(ends, facts.limits.get(bound.scorer, UNLIMITED), strict=True)
    ]
    best, worst = means if bound.kind == "ceiling" else reversed(means)
    detail = f"{bound.scorer}{bound.where} is {bound.told(metric.mean)}{_without_score(metric)}"
    if by_interval:
        shown = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}" if metric.ci95 else metric.note
        detail += f", {shown}"
    if not bound.holds(best):
        return bound.check("fail", detail + (", and is missed whatever they had scored" if metric.n_failed else ""))
    if _too_many(metric.n_failed, metric.rows, rules):
        return bound.check("inconclusive", f"{detail}, at most {_percent(rules.most_failed)} may")
    if by_interval and not (bound.holds(ends[0]) and bound.holds(ends[1])):
        return bound.check("inconclusive", f"{detail}: too few rows to tell{_rows_to_tell(bound, metric)}")
    if not bound.holds(worst):
        return bound.check("inconclusive", f"{detail}, and what they had scored decides it")
    if metric.n_scored < _FEWEST_ROWS:
        return bound.check("inconclusive", f"{detail}: {metric.n_scored} rows are too few, it takes {_FEWEST_ROWS}")
    return bound.check("pass", detail)


def _rows_to_tell(bound: _Bound, metric: Metric) -> str:
    """About how many rows it takes, were the mean to stay: an interval shrinks with the root of their number."""
    if metric.mean is None or metric.ci95 is None:
        return ""
    if math.isclose(metric.mean, bound.value):
        return ", and no number of rows is enough at this mean"
    reach = metric.mean - metric.ci95[0] if metric.mean > bound.value else metric.ci95[1] - metric.mean
    rows = math.ceil(metric.n_scored * (reach / (metric.mean - bound.value)) ** 2)
    return f", it takes about {rows} at this mean"


def _measured(scorer: str, rules: GateRules, facts: GateInput) -> GateCheck:
    """Of a first release, which nothing is compared with yet: that there are scores at all."""
    metric = facts.metrics.get(scorer)
    outcome: Outcome = "inconclusive"
    if metric is None or metric.mean is None:
        detail = f"{scorer} {_in_no_row(metric)}"
    else:
        detail = f"{scorer} is {metric.mean:.3f} over {metric.n_scored} rows{_without_score(metric)}"
        if _too_many(metric.n_failed, metric.rows, rules):
            detail += f", at most {_percent(rules.most_failed)} may"
        else:
            outcome = "pass"
    return GateCheck(f"{scorer} measured", "measured", scorer, outcome, detail)


def _compared(
    scorer: str, margin: float | None, rules: GateRules, facts: GateInput, comparison: Comparison
) -> GateCheck:
    """margin: what a loss must be smaller than; None asks for a significant gain."""

    def check(outcome: Outcome, detail: str) -> GateCheck:
        if margin is None:
            return GateCheck(f"{scorer} better", "superiority", scorer, outcome, detail)
        return GateCheck(f"{scorer} not-worse", "non-inferiority", scorer, outcome, detail)

    sides = (
        (comparison.a, facts.champion.get(scorer), comparison.unmatched_a),
        (comparison.b, facts.metrics.get(scorer), comparison.unmatched_b),
    )
    if nothing := [side for side, own, _ in sides if own is None or not own.n_scored]:
        told = (f"{scorer} {_in_no_row(own)} of {side}" for side, own, _ in sides if side in nothing)
        return check("inconclusive", "; ".join(told))
    metric = comparison.metrics.get(scorer)
    if metric is None:
        not_compared = comparison.not_compared.get(scorer)
        return check("inconclusive", f"{scorer}: {not_compared.reason if not_compared else 'it was not compared'}")
    outcome, words = _ruled(metric, margin)
    if metric.higher_is_better is None:
        bound = "a floor or a ceiling says more"
        outcome, words = "inconclusive", f"neither direction of it is better, so that there is no gain or loss; {bound}"
    failed = [f"{side}{_without_score(own)}" for side, own, _ in sides if own is not None and own.n_failed]
    too_many = [
        side
        for side, own, unmatched in sides
        if own is not None and _too_many(own.n_failed + unmatched, own.rows, rules)
    ]
    if outcome == "pass" and too_many:
        outcome, most = "inconclusive", _percent(rules.most_failed)
        words += f", but more than {most} of {' and '.join(too_many)} failed or are not in both runs"
    interval = f"95 % interval {metric.ci95[0]:+.3f} to {metric.ci95[1]:+.3f}" if metric.ci95 else metric.note
    shown = (
        f"{scorer} {metric.a:.3f} → {metric.b:.3f} over {metric.n} pairs: difference {metric.difference:+.3f}, "
        f"{interval}, p = {metric.p_value:.3g}, {metric.wins} wins, {metric.losses} losses, {metric.ties} ties"
    )
    return check(outcome, f"{'; '.join([shown, *failed])}: {words}")


def _ruled(metric: MetricComparison, margin: float | None) -> tuple[Outcome, str]:
    """The outcome where it does not hang on what failed rows would have scored, nor on a few clusters."""
    outcome, words = _outcome(metric, margin)
    if metric.clusters is not None and metric.clusters < FEWEST_CLUSTERS:
        return "inconclusive", f"{words}, but {metric.clusters} clusters are too few, it takes {FEWEST_CLUSTERS}"
    if outcome == "inconclusive" or not (metric.failed_a or metric.failed_b):
        return outcome, words
    decisive = metric.at_worst if outcome == "pass" else metric.at_best
    if decisive is None:
        return "inconclusive", f"{words}, but a row that failed could have had any value"
    for ends in (metric.at_worst, metric.at_best) if outcome == "pass" else (decisive,):
        if ends is not None and _outcome(replace(metric, **asdict(ends)), margin)[0] != outcome:
            return "inconclusive", f"{words}, but what the failed rows would have scored decides it"
    return outcome, words


def _outcome(metric: MetricComparison, margin: float | None) -> tuple[Outcome, str]:
    sign = -1 if metric.higher_is_better is False else 1  # such that more is better
    low, high = sorted(sign * end for end in metric.ci95 or UNLIMITED)
    gain = sign * metric.difference
    significant = metric.p_value < ALPHA
    if significant and gain < 0 and (margin is None or low <= -margin):
        return "fail", "significantly worse"
    if margin is None:
        if significant and gain > 0:
            return "pass", "significantly better"
        return "inconclusive", "no significant difference" + ("" if high > 0 else ", and no sign of a gain")
    if metric.n < _FEWEST_PAIRS:
        return "inconclusive", f"{metric.n} pairs are too few, `not-worse` needs {_FEWEST_PAIRS}"
    if low > -margin:
        surely = "" if metric.skewed != -sign else _NOT_SURELY
        return "pass", f"not worse by the margin of {margin:g}{surely}"
    return "inconclusive", f"a loss of {margin:g} or more cannot be ruled out"


def is_worse(metric: MetricComparison | None) -> bool:
    """Whether b is significantly worse than a, whatever the failed rows would have scored; False where they were not
    compared."""
    return metric is not None and _ruled(metric, None)[0] == "fail"


def _too_many(missing: int, rows: int, rules: GateRules) -> bool:
    return missing > rules.most_failed * rows


def _in_no_row(metric: Metric | None) -> str:
    return "was scored in no row" + (f" ({metric.n_failed} failed)" if metric is not None and metric.n_failed else "")


def _without_score(metric: Metric) -> str:
    return f", {metric.n_failed} of {metric.rows} rows failed" if metric.n_failed else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def slice_metrics(results: Iterable[RowResult], wanted: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Metric]]:
    """Metrics of the slices asked for. wanted: scorer names by `tag=value`."""
    tallies = {name: {scorer: ScoreTally(scorer) for scorer in scorers} for name, scorers in wanted.items()}
    for result in results:
        for tag, value in result.row.tags.items():
            for tally in tallies.get(f"{tag}={value}", {}).values():
                tally.add(result)
    return {name: {scorer: tally.metric() for scorer, tally in found.items()} for name, found in tallies.items()}
