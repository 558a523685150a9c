"""How much of a gain is owed to choosing by the rows that show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops.evaluation.metric_comparison import PairedScores
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.statistics import MeanEstimate, cluster_sums, estimate_mean, t_quantile


def gain_of(
    scorer: Scorer, before: Sequence[float], after: Sequence[float], clusters: Sequence[str] | None
) -> MeanEstimate:
    """How much better `after` is than `before`, row by row, with its error. NaN: a row without a score."""
    import numpy as np

    failed = PairedScores.of(scorer, before, after).failed_as or 0.0
    a, b = (np.asarray(values) for values in (before, after))
    a, b = (np.where(np.isnan(values), failed, values) for values in (a, b))
    sign = 1.0 if scorer.higher_is_better else -1.0
    return estimate_mean(*cluster_sums(sign * (b - a), clusters))


def optimism_of(selection: MeanEstimate, held_out: MeanEstimate) -> dict[str, Any]:
    """By how much the gain on the rows of selection is greater than that on held-out rows, which are other rows: with
    Welch's 95 % interval ("The generalization of Student's problem when several different population variances are
    involved", 1947)."""
    variances = selection.error**2, held_out.error**2
    error = sum(variances) ** 0.5
    spread = sum(
        variance**2 / each.degrees
        for variance, each in zip(variances, (selection, held_out), strict=True)
        if each.degrees
    )
    reach = t_quantile(error**4 / spread) * error if spread else 0.0
    difference = selection.mean - held_out.mean
    return {"difference": difference, "ci95": [difference - reach, difference + reach]}
