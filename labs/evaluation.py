"""How good predictions are, with 95 % intervals, and the gate: is a challenger better than the champion?

Hours of one day share weather and events: an error at eight o'clock tells of that at nine. Intervals therefore count
days (clusters), not rows. On the bike lab's own errors they hold the truth in 90 of 100 draws of 61 days for the RMSE,
94 for the MAE, and of 7 days in 89 and 95; a bootstrap of days, which is commoner, in 74 and 86 of 7 days. The RMSE's
are a little too narrow, since few days with large errors make most of it.

The gate is the one that releases of language models pass, on the same rows: a prediction is an output, its error a
score, and the hours of a day are a cluster.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labs.data import LabelledRows
from llmops.errors import UsageError
from llmops.evaluation.comparison import Comparison, compare
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import GateInput, GateRules, Verdict, decide
from llmops.evaluation.results import AnswerCounts, Metric, Output, RowResult, Score
from llmops.evaluation.runner import RunSummary, one_score
from llmops.evaluation.scorers.classification import ClassificationReport
from llmops.evaluation.scorers.protocol import limits_of
from llmops.evaluation.statistics import mean_interval, normal_quantile

_RESAMPLES = 2000
_GINI_RESAMPLES = 200
_MOST_OF_NONE = -math.log(0.025)
"""The most counts that are expected where none came, by an exact interval for a Poisson mean (Garwood 1936)."""
_CLUSTER = "cluster"
_CLUSTER_BY = f"inputs.{_CLUSTER}"


@dataclass(frozen=True, slots=True)
class MetricEstimate:
    """A metric with its 95 % interval; None where the rows allow none (`statistics.no_interval`)."""

    value: float
    ci95: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "ci95": list(self.ci95) if self.ci95 else None}


def numbers(metrics: Mapping[str, MetricEstimate]) -> dict[str, float]:
    """Metrics as plain numbers, the ends of the intervals under names of their own: `rmse`, `rmse_low`, `rmse_high`."""
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        ends = {f"{name}_low": metric.ci95[0], f"{name}_high": metric.ci95[1]} if metric.ci95 else {}
        values |= {name: metric.value, **ends}
    return values


def rmse(truth: Any, predictions: Any) -> float:
    """Root mean squared error of two numpy arrays."""
    return float(((truth - predictions) ** 2).mean() ** 0.5)


def error_rate(truth: Any, predictions: Any) -> float:
    """Share of wrong classes in two numpy arrays."""
    return float((truth != predictions).mean())


def regression_metrics(truth: Any, predictions: Any, clusters: Sequence[str]) -> dict[str, MetricEstimate]:
    """rmse and mae (in the truth's unit), relative_error (mae as a share of the mean truth, comparable between quiet
    and busy months) and r2.

    truth: a numpy array, a value for each row, 0 or more.
    predictions: a numpy array of the same length.
    clusters: for each row what it shares with others, its day.
    """
    errors = np.asarray(truth, dtype=float) - predictions
    squared, absolute = _scale_interval(errors**2, clusters), _scale_interval(np.abs(errors), clusters)
    ends = (math.sqrt(squared.ci95[0]), math.sqrt(squared.ci95[1])) if squared.ci95 else None
    root = MetricEstimate(math.sqrt(squared.value), ends)
    relative, r2 = _of_resampled_clusters(np.asarray(truth, dtype=float), errors, clusters)
    return {"rmse": root, "mae": absolute, "relative_error": relative, "r2": r2}


def poisson_deviance(truth: Any, rate: Any) -> Any:
    """Of counts under expected counts above 0: numbers or numpy arrays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(truth > 0, truth * np.log(truth / rate), 0.0)
    return 2 * (excess - truth + rate)


def poisson_metrics(truth: Any, predictions: Any, clusters: Sequence[str]) -> dict[str, MetricEstimate]:
    """deviance (mean of a row; less is better), actual_over_expected (all counts over all expected ones: 1 where the
    level is right) and gini (of the counts, in order of the prediction: 0 where the order says nothing).

    truth: a numpy array of counts.
    predictions: of expected counts.
    clusters: for each row what it shares with others.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    _, place = np.unique(predictions, return_inverse=True)
    drawn = _drawn(int(cluster.max()) + 1).T[:_GINI_RESAMPLES, cluster]
    ginis = [_gini(truth * times, times, place) for times in drawn.astype(float)]
    return {
        "deviance": _scale_interval(poisson_deviance(truth, predictions), clusters),
        "actual_over_expected": actual_over_expected(truth, predictions, clusters),
        "gini": MetricEstimate(_gini(truth, np.ones(len(truth)), place), _middle(ginis)),
    }


def actual_over_expected(truth: Any, predictions: Any, clusters: Sequence[str]) -> MetricEstimate:
    """All counts over all expected ones; the interval is the delta method's on the logarithm, from sums of clusters."""
    counted, expected = _sums(np.stack([truth, predictions]), clusters)
    ratio = float(counted.sum() / expected.sum())
    if not ratio:
        return MetricEstimate(0.0, (0.0, _MOST_OF_NONE / float(expected.sum())))
    deviation = float(np.sqrt(((counted - ratio * expected) ** 2).sum()) / counted.sum())
    factor = math.exp(normal_quantile() * deviation * math.sqrt(len(counted) / max(len(counted) - 1, 1)))
    return MetricEstimate(ratio, (ratio / factor, ratio * factor))


def _gini(counts: Any, rows: Any, place: Any) -> float:
    """Twice the area between the diagonal and the Lorenz curve of counts by rows. place: of each row in the order of
    predictions, equal ones together."""
    by_place = np.stack([np.bincount(place, weights=each).cumsum() for each in (counts, rows)])
    with np.errstate(invalid="ignore"):
        share, of_rows = np.hstack([np.zeros((2, 1)), by_place]) / by_place[:, -1:]
    return float(1 - ((share[1:] + share[:-1]) * np.diff(of_rows)).sum())


def classification_metrics(
    truth: Any, predictions: Any, clusters: Sequence[str] | None = None
) -> dict[str, MetricEstimate]:
    """accuracy, with Wilson's interval (cluster-robust where rows share clusters), and macro_f1, with the percentiles
    of a bootstrap of the rows; where rows share clusters, of the clusters. Where no resample differs from another, as
    when every prediction is right, macro_f1 has no interval: that they agree is no precision.

    truth, predictions: sequences of classes.
    """
    right = [bool(a == b) for a, b in zip(truth, predictions, strict=True)]
    report = ClassificationReport.of(Counter(zip(map(str, truth), map(str, predictions), strict=True)))
    macro_f1 = MetricEstimate(report.macro_f1, _macro_f1_interval(truth, predictions, clusters))
    return {"accuracy": MetricEstimate(report.accuracy, mean_interval(right, clusters)), "macro_f1": macro_f1}


def _scale_interval(values: Any, clusters: Sequence[str]) -> MetricEstimate:
    """The mean of numbers that are 0 or more and skewed, with an interval as wide on a scale of ratios as the symmetric
    one is upwards: it covers better, and never falls below 0."""
    mean = float(values.mean())
    symmetric = mean_interval(values.tolist(), clusters, (0.0, math.inf))
    if symmetric is None or mean == 0:
        return MetricEstimate(mean, symmetric)
    factor = math.exp((symmetric[1] - mean) / mean)
    return MetricEstimate(mean, (mean / factor, mean * factor))


def _of_resampled_clusters(truth: Any, errors: Any, clusters: Sequence[str]) -> tuple[MetricEstimate, MetricEstimate]:
    """Relative error and R², with the percentiles of a bootstrap of whole clusters."""
    sums = _sums(np.stack([np.ones(len(truth)), truth, truth**2, errors**2, np.abs(errors)]), clusters)

    def metrics(totals: Any) -> tuple[Any, Any]:
        n, total, squares, squared_errors, absolute_errors = totals
        spread = squares - total**2 / n
        flat = spread <= 1e-9 * squares  # R² of a truth that never changes: as scikit-learn has it
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(flat, np.where(squared_errors > 0, 0.0, 1.0), 1 - squared_errors / spread)
            return np.where(total > 0, absolute_errors / total, absolute_errors > 0), r2

    relative, r2 = metrics(sums.sum(axis=1))
    drawn_relative, drawn_r2 = metrics(sums @ _drawn(sums.shape[1]))
    return MetricEstimate(float(relative), _middle(drawn_relative)), MetricEstimate(float(r2), _middle(drawn_r2))


def _macro_f1_interval(truth: Any, predictions: Any, clusters: Sequence[str] | None) -> tuple[float, float] | None:
    classes = sorted({*truth, *predictions})
    expected = np.stack([np.asarray([value == name for value in truth], dtype=float) for name in classes])
    said = np.stack([np.asarray([value == name for value in predictions], dtype=float) for name in classes])
    names = clusters if clusters is not None else [str(i) for i in range(len(truth))]
    parts = [_sums(part, names) for part in (expected * said, expected, said)]
    draws = _drawn(parts[0].shape[1])
    hits, support, claimed = (part @ draws for part in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(support > 0, 2 * hits / (support + claimed), np.nan)
    means = np.nanmean(f1, axis=0)  # over the classes that the draw holds
    return None if means.min() == means.max() else _middle(means)


def _sums(values: Any, clusters: Sequence[str]) -> Any:
    """Sums of each row of `values` over each cluster."""
    _, group = np.unique(np.asarray(clusters), return_inverse=True)
    return np.stack([np.bincount(group, weights=line) for line in values])


def _drawn(n: int) -> Any:
    """How often each of n clusters is drawn in each resample: an array of n × resamples."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).T


def _middle(values: Any) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class PredictionScorer:
    """The score of one prediction, as the gate compares them row by row. compute: of the truth and the prediction."""

    name: str
    compute: Callable[[Any, str], float | bool]
    higher_is_better: bool | None = False
    worst: float | None = None
    limits: tuple[float, float] = (0.0, math.inf)

    def score(self, row: EvalRow, output: Output) -> Score:
        value = self.compute(row.expectations["expected_response"], output.text)
        return Score(value, label=output.text if isinstance(value, bool) else None)


ABSOLUTE_ERROR = PredictionScorer("absolute_error", lambda truth, said: abs(float(said) - float(truth)))
"""How far a number is from the truth, in the truth's unit."""
SQUARED_ERROR = PredictionScorer("squared_error", lambda truth, said: (float(said) - float(truth)) ** 2)
"""The square of that: large errors count more. Its mean is the square of the RMSE."""
CORRECT = PredictionScorer(
    "correct", lambda truth, said: bool(said == truth), higher_is_better=True, worst=0.0, limits=(0.0, 1.0)
)
"""Whether the class is the right one."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's verdict on a challenger, and the comparison it rests on; None where there was no champion."""

    rules: GateRules
    verdict: Verdict
    comparison: Comparison | None

    @property
    def passed(self) -> bool:
        return self.verdict.verdict == "pass"

    def to_json(self) -> dict[str, Any]:
        comparison = self.comparison.to_json() if self.comparison is not None else None
        return {**self.verdict.to_json(), "rules": self.rules.to_json(), "comparison": comparison}


def judge(
    challenger: tuple[str, Sequence[Any]],
    champion: tuple[str, Sequence[Any]] | None,
    rows: LabelledRows,
    scorers: Sequence[PredictionScorer],
    rules: GateRules,
) -> Judgement:
    """Judges a challenger on rows that neither model was trained on.

    challenger: a name (`bike@3`) and the predictions for the rows, in their order.
    champion: the same; without one only floors and ceilings count.

    Raises:
        UsageError: not one prediction for each row.
    """
    (name, predictions), comparison, champion_metrics = challenger, None, {}
    of_challenger = row_results(rows, predictions, scorers)
    if champion is not None:
        other, of_champion = champion[0], row_results(rows, champion[1], scorers)
        comparison = compare(other, of_champion, name, of_challenger, scorers, rules.primary, cluster_by=_CLUSTER_BY)
        champion_metrics = _metrics(of_champion, scorers)
    facts = GateInput(
        metrics=_metrics(of_challenger, scorers),
        comparison=comparison,
        answers=AnswerCounts.of(result.output for result in of_challenger),
        name=name,
        champion=champion_metrics,
        limits={scorer.name: limits_of(scorer) for scorer in scorers},
    )
    return Judgement(rules, decide(rules, facts), comparison)


def row_results(rows: LabelledRows, predictions: Sequence[Any], scorers: Sequence[PredictionScorer]) -> list[RowResult]:
    """Each row with what was predicted and its scores, as an evaluation of a language model would have them.

    Raises:
        UsageError: not one prediction for each row.
    """
    if len(predictions) != len(rows):
        raise UsageError(f"{len(predictions)} predictions for {len(rows)} rows of {rows.name}")
    results = []
    for i, (inputs, truth, said) in enumerate(zip(rows.rows(), plain(rows.truth), plain(predictions), strict=True)):
        tags = {tag: values[i] for tag, values in rows.tags.items()}
        # The cluster is an input, not a tag: as a tag each day would be a slice of its own.
        row = EvalRow(rows.ids[i], {**inputs, _CLUSTER: rows.clusters[i]}, {"expected_response": truth}, (), tags)
        output = Output(said if isinstance(said, str) else repr(said))
        results.append(RowResult(row, output, {scorer.name: one_score(scorer, row, output) for scorer in scorers}))
    return results


def plain(values: Any) -> list[Any]:
    """A numpy array of one dimension, or another sequence, as a list of plain values."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _metrics(results: Sequence[RowResult], scorers: Sequence[PredictionScorer]) -> dict[str, Metric]:
    summary = RunSummary(scorers, _CLUSTER_BY)
    for result in results:
        summary.add(result)
    return summary.metrics()
