"""Drift of a current window against a reference window: two-sample tests on summaries, a family for each slice.

Every effect has the same unit: the share of rows that would have to change for the two windows to agree, from 0 to 1.
It is the Kolmogorov-Smirnov distance of numbers, the difference in proportion of flags, the total variation distance of
labels. It needs no scale, is not moved by outliers, and sees what its test sees (a mean shift would miss a change of
spread).

A family is the testable descriptors of a slice: those with enough values in both windows that are not all equal (a
constant column could never be significant; counting it would only cost the others power). Benjamini–Hochberg runs over
the family at `alpha`; a descriptor has drifted when its adjusted p is at most alpha and its effect reaches the floor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Part, Summary

Counts = np.ndarray[Any, np.dtype[np.int64]]

# Above this product of sizes the exact p is at most 15 % below the limiting one; above this p-value the difference
# cannot matter, and the exact sum may round to more than 1.
EXACT_KS_UP_TO = 100_000
EXACT_KS_BELOW_P = 0.2

# With fewer rows in the smaller window, or one value in more than half of all rows, numbers are not ranked: the normal
# law of a rank sum is then not sure to be the cautious one. Otherwise its far tail is.
RANKED_FROM = 100
MINIMUM_EXPECTED = 5.0

# Where a label is expected less often than this in the smaller window, chi-square's p is too small in the far tail that
# alarms are decided in: at an expected 5, with a level of 0.0001, five times too many quiet windows pass.
CHI_SQUARE_FROM = 100.0


@dataclass(frozen=True, slots=True)
class DriftTest:
    """Outcome of one test.

    effect: share of rows, see the module; signed for flags (above 0: rose). direction: for numbers, +1 when current
    values are larger where the two distributions differ most. testable: False when the pooled rows are all equal or too
    few, so that no outcome could have been significant.
    """

    test: str
    statistic: float
    p_value: float
    effect: float
    direction: int = 0
    testable: bool = True


NOT_TESTED = DriftTest(test="none", statistic=0.0, p_value=1.0, effect=0.0, testable=False)


@dataclass(frozen=True, slots=True)
class Drift:
    """A test in its family. before, after: mean of a number, share of a flag, commonest label; None without values."""

    result: DriftTest
    p_adjusted: float
    drifted: bool
    before: float | str | None
    after: float | str | None

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self.result, name) for name in ("test", "statistic", "p_value", "effect")}
        own = {name: getattr(self, name) for name in ("p_adjusted", "drifted", "before", "after")}
        return {**told, **own}


def compare_numbers(reference: NumberSummary, current: NumberSummary) -> DriftTest:
    """Kolmogorov-Smirnov and, where there are rows enough, Wilcoxon's rank sum, on the bins: the smaller p, doubled.

    Kolmogorov-Smirnov sees any change of a distribution, the rank sum a shift of a bell-shaped one from half as many
    rows. p is never too small. Numbers of one bin are ties, as equal ones are. Ties only lower Kolmogorov's distance of
    two samples from one distribution; its p is exact where sizes are small (Hodges 1958), else Kolmogorov's limit,
    which is above the exact one. The effect is that distance, whichever test is the surer.
    """
    counts = aligned_counts(reference, current)
    if min(reference.n, current.n) == 0 or counts.shape[1] < 2:
        return NOT_TESTED
    distance = _kolmogorov_smirnov(counts)
    if counts.sum(axis=1).min() < RANKED_FROM or 2 * counts.sum(axis=0).max() > counts.sum():
        return distance
    ranked = _rank_sum(counts, distance)
    surer = min(distance, ranked, key=lambda each: each.p_value)
    return replace(surer, p_value=min(2 * surer.p_value, 1.0))


def compare_flags(reference: FlagSummary, current: FlagSummary, *, only_rise: bool) -> DriftTest:
    """Fisher's exact test; one-sided, for a rise, with `only_rise`. The statistic is the odds ratio (Haldane's, +½)."""
    pooled = reference.hits + current.hits
    if min(reference.n, current.n) == 0 or pooled in (0, reference.n + current.n):
        return NOT_TESTED
    from scipy.stats import fisher_exact, hypergeom

    table = [[current.hits, reference.hits], [current.n - current.hits, reference.n - reference.hits]]
    if only_rise:
        p_value = float(hypergeom.sf(current.hits - 1, reference.n + current.n, pooled, current.n))
    else:
        p_value = float(fisher_exact(table).pvalue)
    (hit, hit_before), (missed, missed_before) = [[cell + 0.5 for cell in row] for row in table]
    odds = hit * missed_before / (hit_before * missed)
    effect = current.share - reference.share
    test = "fisher-exact-greater" if only_rise else "fisher-exact"
    return DriftTest(test, odds, min(p_value, 1.0), effect, int(np.sign(effect)))


def compare_labels(reference: LabelSummary, current: LabelSummary) -> DriftTest:
    """Chi-square of homogeneity where all labels are frequent; else Fisher's exact test of each, the smallest p times
    their number (Bonferroni), which is valid at every size.

    Labels with an expected count below five in the smaller window are put together first. Only the pooled counts
    decide that, and which test it is, so that the choice cannot favour a difference between the windows.
    """
    counts = label_counts(reference, current)
    if min(counts.sum(axis=1)) == 0 or counts.shape[1] < 2:
        return NOT_TESTED
    from scipy.stats import chi2_contingency, fisher_exact, hypergeom

    effect = float(np.abs(counts[0] / counts[0].sum() - counts[1] / counts[1].sum()).sum() / 2)
    table = _without_rare(counts)
    if table.shape[1] == 1:
        return DriftTest("chi-square", 0.0, 1.0, effect, testable=False)
    chi2, p, _, expected = chi2_contingency(table, correction=False)
    if table.shape[1] == 2:
        return DriftTest("fisher-exact", float(chi2), min(float(fisher_exact(table).pvalue), 1.0), effect)
    if expected.min() < CHI_SQUARE_FROM:
        # The smaller tail of each label against all others, doubled, times the number of labels.
        before, after = (int(total) for total in table.sum(axis=1))
        urn = before + after, table.sum(axis=0), after
        tails = np.minimum(hypergeom.sf(table[1] - 1, *urn), hypergeom.cdf(table[1], *urn))
        p_value = float(min(2 * tails.min() * table.shape[1], 1.0))
        return DriftTest("fisher-exact-each", float(chi2), p_value, effect)
    return DriftTest("chi-square", float(chi2), float(p), effect)


def aligned_counts(reference: NumberSummary, current: NumberSummary) -> Counts:
    """Two rows, reference and current; one column for each bin that either fills, ascending."""
    bins = np.union1d(reference.bins, current.bins)
    counts = np.zeros((2, len(bins)), dtype=np.int64)
    for row, summary in zip(counts, (reference, current), strict=True):
        row[np.searchsorted(bins, summary.bins)] = summary.counts
    return counts


def label_counts(reference: LabelSummary, current: LabelSummary) -> Counts:
    """Two rows, reference and current; one column for each label that either has, sorted by label."""
    labels = sorted({label for summary in (reference, current) for label, count in summary.counts.items() if count})
    rows = [[summary.counts.get(label, 0) for label in labels] for summary in (reference, current)]
    return np.array(rows, dtype=np.int64).reshape(2, len(labels))


def _kolmogorov_smirnov(counts: Counts) -> DriftTest:
    from scipy.special import kolmogorov
    from scipy.stats import ks_2samp

    rows_before, rows_after = (int(rows) for rows in counts.sum(axis=1))
    before, after = (np.cumsum(row) for row in counts)
    # In whole numbers: a distance that touches its critical value must not be decided by rounding.
    differences = before * rows_after - after * rows_before
    place = int(np.abs(differences).argmax())
    size = rows_before * rows_after
    distance = abs(int(differences[place])) / size
    p_value = float(kolmogorov(distance * np.sqrt(size / (rows_before + rows_after))))
    if p_value < EXACT_KS_BELOW_P and size <= EXACT_KS_UP_TO:
        values = np.arange(counts.shape[1])
        p_value = float(ks_2samp(*(np.repeat(values, row) for row in counts), method="exact").pvalue)
    # Where the reference's distribution function lies above, the current values are larger.
    return DriftTest("ks", distance, p_value, distance, int(np.sign(differences[place])))


def _rank_sum(counts: Counts, distance: DriftTest) -> DriftTest:
    """Wilcoxon's, with the variance that it has with these ties. The statistic: how often a current number is the
    larger one of a pair."""
    from scipy.special import ndtr

    pooled = counts.sum(axis=0)
    before, after = (float(rows) for rows in counts.sum(axis=1))
    rows = before + after
    doubled = 2 * np.cumsum(pooled) - pooled
    ranks = (doubled - rows) / 2  # from the middle one
    excess = float(counts[1] @ ranks)
    variance = before * after / (rows * (rows - 1)) * float(pooled @ ranks**2)
    half_step = float(np.gcd.reduce(np.diff(doubled))) / 4  # sums of few different ranks lie far apart
    p_value = float(2 * ndtr(-max(abs(excess) - half_step, 0.0) / np.sqrt(variance)))
    larger = 0.5 + excess / (before * after)
    return DriftTest("rank-sum", larger, min(p_value, 1.0), distance.effect, distance.direction)


def _without_rare(counts: Counts) -> Counts:
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


def adjusted_in_family(results: Mapping[str, DriftTest]) -> dict[str, float]:
    """Benjamini & Hochberg's (1995) step-up adjusted p of those of `results` that are testable; of the others it is
    1."""
    from scipy.stats import false_discovery_control

    family = {name: result.p_value for name, result in results.items() if result.testable}
    adjusted = false_discovery_control(list(family.values()), method="bh").tolist() if family else []
    return {**dict.fromkeys(results, 1.0), **dict(zip(family, adjusted, strict=True))}


@dataclass(frozen=True, slots=True)
class DescriptorDrift(Drift):
    """One descriptor in one slice. known: rows of the reference and of the window that have a value; the others are
    passed over."""

    descriptor: Descriptor
    known: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {**Drift.to_json(self), "known": {"before": self.known[0], "after": self.known[1]}}


@dataclass(frozen=True, slots=True)
class SliceDrift:
    """One family: `label` is `{"app": …}` for all rows, or `{"release": …}`. alpha: what p_adjusted is held against."""

    label: Mapping[str, str]
    before: Summary
    after: Summary
    alpha: float
    descriptors: Mapping[str, DescriptorDrift]

    @property
    def rows(self) -> int:
        """Of the window."""
        return self.after.rows

    @property
    def drifted(self) -> dict[str, DescriptorDrift]:
        """The descriptors that did."""
        return {name: drift for name, drift in self.descriptors.items() if drift.drifted}

    def to_json(self) -> dict[str, Any]:
        found = {name: drift.to_json() for name, drift in self.descriptors.items()}
        return {"slice": dict(self.label), "rows": self.rows, "alpha": self.alpha, "descriptors": found}


def examine_slice(
    label: Mapping[str, str],
    reference: Summary,
    current: Summary,
    descriptors: Mapping[str, Descriptor],
    rules: DriftRules,
    alpha: float,
) -> SliceDrift:
    """One family of tests, corrected and held against alpha and the effect floors.

    Raises nothing: what cannot be tested has p = 1.
    """
    known = {name: (reference.known(name), current.known(name)) for name in descriptors}
    results = {}
    for name, descriptor in descriptors.items():
        enough = min(known[name]) >= rules.minimum_rows
        results[name] = compare(descriptor, reference, current) if enough else NOT_TESTED
    adjusted = adjusted_in_family(results)
    drifts = {}
    for name, result in results.items():
        descriptor, p_adjusted = descriptors[name], adjusted[name]
        drifted = p_adjusted <= alpha and abs(result.effect) >= rules.floor(descriptor)
        levels = level(reference.part(name)), level(current.part(name))
        drifts[name] = DescriptorDrift(result, p_adjusted, drifted, *levels, descriptor, known[name])
    return SliceDrift(label, reference, current, alpha, drifts)


def compare(descriptor: Descriptor, reference: Summary, current: Summary) -> DriftTest:
    """The test of the descriptor's kind; NOT_TESTED where a summary does not have it."""
    before, after = reference.part(descriptor.name), current.part(descriptor.name)
    if isinstance(before, NumberSummary) and isinstance(after, NumberSummary):
        return compare_numbers(before, after)
    if isinstance(before, FlagSummary) and isinstance(after, FlagSummary):
        return compare_flags(before, after, only_rise=descriptor.harmful)
    if isinstance(before, LabelSummary) and isinstance(after, LabelSummary):
        return compare_labels(before, after)
    return NOT_TESTED


def level(part: Part | None) -> float | str | None:
    """A descriptor's mean, share or commonest label (of equally frequent ones the first); None without values."""
    if part is None or not part.n:
        return None
    if isinstance(part, NumberSummary):
        return part.mean
    if isinstance(part, FlagSummary):
        return part.share
    return max(sorted(part.counts), key=part.counts.__getitem__)


# What users said of the answers, as descriptors of the output.
#
# Ingest joins feedback, whenever it arrives, to the hour and the slices of the answer it is about (`summaries`): a
# label that comes a week later changes that week's summaries, and those of no pinned reference. Pinning the same window
# again takes in what has come meanwhile. Each opinion counts, so that a window has fewer values of it than rows.

SCORE, LABEL = "feedback.score", "feedback.label"

FEEDBACK: Mapping[str, Descriptor] = {
    SCORE: Descriptor(SCORE, "numeric", "output"),
    LABEL: Descriptor(LABEL, "label", "output"),
}


def feedback_in(*sides: Summary) -> dict[str, Descriptor]:
    """The kinds of feedback that every side has."""
    return {
        name: each
        for name, each in FEEDBACK.items()
        if all(name in side.numbers or name in side.labels for side in sides)
    }


def feedback_json(summary: Summary) -> dict[str, Any]:
    """How many scores and labels a window has, the mean score and the count of each label."""
    score, label = summary.numbers.get(SCORE), summary.labels.get(LABEL)
    return {
        "scores": score.n if score else 0,
        "mean_score": score.mean if score and score.n else None,
        "labels": dict(sorted(label.counts.items())) if label else {},
    }
