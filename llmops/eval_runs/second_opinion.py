"""MLflow's own comparison of two eval runs beside ours, and why the two disagree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.statistics import ALPHA
from llmops.hashing import JsonData
from llmops.pages.numbers import NOTHING, counted, interval, number, probability, signed
from llmops.pages.tables import Block, Table
from llmops.recording.second_opinion import ScorerOpinion, mlflow_opinions
from llmops.registry import Store

NO_DIFFERENCE = "no difference seen"
_SAME_P = 0.001


@dataclass(frozen=True, slots=True)
class MetricOpinions(JsonData):
    """What both comparisons make of one metric: `better`, `worse`, `higher` or `lower` (of b, where neither direction
    is better), `no difference seen`, `not compared`. here: at a p adjusted over all metrics, as long as failed rows do
    not decide; mlflow: at its p-value. opinion: None where MLflow did not compare. reasons: why figures differ."""

    here: str
    mlflow: str
    agree: bool
    opinion: ScorerOpinion | None
    reasons: Sequence[str]


def second_opinion(store: Store, comparison: Comparison, run_a: str, run_b: str) -> dict[str, MetricOpinions]:
    """By metric that was compared here. Raises as `mlflow_opinions`."""
    opinions = mlflow_opinions(store, run_a, run_b)
    return beside(comparison, opinions)


def beside(comparison: Comparison, opinions: Mapping[str, ScorerOpinion]) -> dict[str, MetricOpinions]:
    """Both comparisons of each metric that was compared here. opinions: MLflow's, by metric."""
    by_metric = {}
    for name, metric in comparison.metrics.items():
        opinion = opinions.get(name)
        here = NO_DIFFERENCE if metric.failures_decide else _verdict(metric, metric.difference, metric.p_adjusted)
        there = "not compared"
        if opinion is not None and opinion.p_value is not None:
            there = _verdict(metric, opinion.difference or 0.0, opinion.p_value)
        reasons = [] if opinion is None else _reasons(comparison, metric, opinion)
        if opinion is None:
            reasons = ["MLflow found no score of it in both runs"]
        by_metric[name] = MetricOpinions(here, there, here == there, opinion, reasons)
    return by_metric


def _verdict(metric: MetricComparison, difference: float, p_value: float) -> str:
    if p_value >= ALPHA or not difference:
        return NO_DIFFERENCE
    if metric.higher_is_better is None:
        return "higher" if difference > 0 else "lower"
    return "better" if (difference > 0) == metric.higher_is_better else "worse"


def _reasons(comparison: Comparison, metric: MetricComparison, opinion: ScorerOpinion) -> list[str]:
    reasons = []
    left_out, failed = metric.n - opinion.n, metric.failed_a + metric.failed_b
    if left_out > 0 and failed and metric.failed_as is not None:
        reasons.append(
            f"MLflow leaves out rows without a score and does not say so ({metric.failed_a} failed in a,"
            f" {metric.failed_b} in b; it compares {opinion.n} of {metric.n}); here they count as"
            f" {number(metric.failed_as)}"
        )
        failed = min(failed, left_out)
    else:
        failed = 0
    if left_out > failed:
        reasons.append(
            f"MLflow cannot pair {counted(left_out - failed, 'row')}: it pairs by inputs, which other rows of the same"
            " run share, where rows are paired by id here"
        )
    if opinion.p_value is None or opinion.ci95 is None:
        return [*reasons, f"MLflow gives no statistics of {counted(opinion.n, 'pair')}: it asks for six"]
    theirs, ours = probability(opinion.p_value), probability(metric.p_value)
    differ = abs(opinion.p_value - metric.p_value) > _SAME_P
    if opinion.method == "mcnemar_chi2" and differ:
        reasons.append(
            f"MLflow approximates McNemar's test by χ² with a continuity correction from 25 rows that differ on"
            f" ({theirs}); here it is exact ({ours})"
        )
    if (opinion.method or "").startswith("wilcoxon") and differ:
        reasons.append(
            f"MLflow's Wilcoxon test asks whether the ranks of the differences lean to one side ({theirs}), the test"
            f" here whether their mean is 0 ({ours}): few large differences weigh little there"
        )
    low, high = opinion.ci95
    if (low > 0 or high < 0) != (opinion.p_value < ALPHA):
        sides = ("leaves out", "is not below") if low > 0 or high < 0 else ("holds", "is below")
        reasons.append(
            f"MLflow's interval {sides[0]} 0 though its own p {sides[1]} {ALPHA} ({theirs}): a BCa bootstrap, of only"
            f" {counted(opinion.moved or 0, 'row')} that differ; here the interval is the test inverted"
        )
    if metric.p_value < ALPHA <= metric.p_adjusted:
        reasons.append(
            f"MLflow does not correct for looking at {len(comparison.metrics)} metrics; by Holm's method p is"
            f" {metric.p_adjusted:.3f} here"
        )
    if metric.clusters is not None:
        reasons.append(
            f"MLflow takes rows of one source as independent: {counted(metric.n, 'row')} come from"
            f" {counted(metric.clusters, 'source')}"
        )
    if comparison.sequential:
        reasons.append("the runs were stopped early, which MLflow's p-value does not allow for")
    return reasons


def opinion_blocks(opinions: Mapping[str, MetricOpinions]) -> Iterator[Block]:
    """Both verdicts of each metric, MLflow's figures, and why they differ."""
    rows = []
    for name, found in opinions.items():
        opinion = found.opinion
        figures: tuple[str, ...] = (NOTHING,) * 5
        if opinion is not None:
            p_value = NOTHING if opinion.p_value is None else f"{opinion.p_value:.3g}"
            difference = NOTHING if opinion.difference is None else signed(opinion.difference)
            ci95 = interval(opinion.ci95, of_difference=True)
            figures = (str(opinion.n), difference, ci95, p_value, opinion.method or NOTHING)
        rows.append((name, found.here, found.mlflow, *figures))
    columns = ("metric", "b is, here", "b is, by MLflow", "rows#", "difference#", "95 % interval", "p#", "test")
    caption = "by MLflow: p below 0.05, for each metric by itself; its figures follow"
    yield Table("MLflow's second opinion", columns, rows, caption)
    for name, found in opinions.items():
        for reason in found.reasons:
            yield f"{name}{'' if found.agree else ', where they disagree'}: {reason}"
    agree = sum(found.agree for found in opinions.values())
    yield f"both say the same of {agree} of {counted(len(opinions), 'metric')}"
