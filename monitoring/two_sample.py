"""Two-sample tests of one descriptor, and the correction over many. Every effect has the same unit.

An effect is the share of rows that would have to change for the two windows to agree, from 0 to 1: the
Kolmogorov-Smirnov distance of numbers, the difference in proportion of flags, the total variation distance of labels.
It needs no scale, is not moved by outliers, and sees what its test sees (a mean shift would miss a change of spread).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Column = np.ndarray[Any, Any]

# Above this product of sizes the exact distribution takes seconds and differs from the asymptotic one in nothing; above
# this p-value the difference cannot matter, and the exact sum may round to more than 1.
EXACT_KS_UP_TO = 1_000_000
EXACT_KS_BELOW_P = 0.2
MINIMUM_EXPECTED = 5.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outcome of one test.

    effect: share of rows, see the module; signed for flags (above 0: rose). location: for numbers, the value where the
    two distributions differ most; direction: +1 when current values are larger there. testable: False when the pooled
    rows are all equal or too few, so that no outcome could have been significant.
    """

    test: str
    statistic: float
    p_value: float
    effect: float
    direction: int = 0
    testable: bool = True


NOT_TESTED = Comparison(test="none", statistic=0.0, p_value=1.0, effect=0.0, testable=False)


def compare_numbers(reference: Column, current: Column) -> Comparison:
    """Kolmogorov-Smirnov, exact where that matters. With ties, as in counts, its p is an upper bound: conservative."""
    if _all_equal(reference, current):
        return NOT_TESTED
    from scipy.stats import ks_2samp

    found = ks_2samp(reference, current, method="asymp")
    if found.pvalue < EXACT_KS_BELOW_P and len(reference) * len(current) <= EXACT_KS_UP_TO:
        found = ks_2samp(reference, current, method="exact")
    # statistic_sign is +1 when the reference's distribution function lies above: the current values are larger.
    return Comparison("ks", float(found.statistic), float(found.pvalue), float(found.statistic), found.statistic_sign)


def compare_flags(reference: Column, current: Column, *, only_rise: bool) -> Comparison:
    """Fisher's exact test; one-sided, for a rise, with `only_rise`. The statistic is the odds ratio (Haldane's, +½)."""
    if _all_equal(reference, current):
        return NOT_TESTED
    from scipy.stats import fisher_exact

    hits, of = np.array([current.sum(), reference.sum()], dtype=float), np.array([len(current), len(reference)])
    table = np.column_stack([hits, of - hits]).astype(int)
    p = float(fisher_exact(table, alternative="greater" if only_rise else "two-sided").pvalue)
    half = table + 0.5
    odds = float(half[0, 0] * half[1, 1] / (half[0, 1] * half[1, 0]))
    effect = float(hits[0] / of[0] - hits[1] / of[1])
    test = "fisher-exact-greater" if only_rise else "fisher-exact"
    return Comparison(test, odds, min(p, 1.0), effect, int(np.sign(effect)))


def compare_labels(reference: Column, current: Column) -> Comparison:
    """Chi-square of homogeneity, after labels too rare for it are put together; Fisher's exact test when two remain.

    Rare means an expected count below five in the smaller window. Only the pooled counts decide that, so the choice
    cannot favour a difference between the windows.
    """
    if _all_equal(reference, current):
        return NOT_TESTED
    from scipy.stats import chi2_contingency, fisher_exact

    counts = label_counts(reference, current)
    effect = float(np.abs(counts[0] / counts[0].sum() - counts[1] / counts[1].sum()).sum() / 2)
    table = _without_rare(counts)
    if table.shape[1] == 1:
        return Comparison("chi-square", 0.0, 1.0, effect, testable=False)
    chi2, p, *_ = chi2_contingency(table, correction=False)
    if table.shape[1] == 2:
        return Comparison("fisher-exact", float(chi2), min(float(fisher_exact(table).pvalue), 1.0), effect)
    return Comparison("chi-square", float(chi2), float(p), effect)


def label_counts(reference: Column, current: Column) -> np.ndarray[Any, np.dtype[np.int_]]:
    """Two rows, reference and current; one column for each label of either, sorted by label."""
    labels, codes = np.unique(np.concatenate([reference, current]).astype(str), return_inverse=True)
    parts = codes[: len(reference)], codes[len(reference) :]
    return np.stack([np.bincount(part, minlength=len(labels)) for part in parts])


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Benjamini & Hochberg (1995) step-up adjusted p-values, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(p[order] * len(p) / ranks).clip(max=1.0)
    return [float(value) for value in adjusted]


def _without_rare(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    pooled = counts.sum(axis=0)
    smaller_share = counts.sum(axis=1).min() / counts.sum()
    order = np.argsort(pooled, kind="stable")
    expected = pooled[order] * smaller_share
    rare = int((expected < MINIMUM_EXPECTED).sum())
    # The rare ones together may still be too few: then the next rarest joins them.
    while 0 < rare < len(order) and expected[:rare].sum() < MINIMUM_EXPECTED:
        rare += 1
    if rare == 0:
        return counts
    together = counts[:, order[:rare]].sum(axis=1, keepdims=True)
    return np.hstack([counts[:, order[rare:]], together])


def _all_equal(reference: Column, current: Column) -> bool:
    first = reference[0]
    return bool((reference == first).all() and (current == first).all())
