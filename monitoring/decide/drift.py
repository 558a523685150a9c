"""Drift of a current window against a reference window: one family of tests for each slice.

A family is the testable descriptors of a slice: those with enough values in both windows that are not all equal (a
constant column could never be significant; counting it would only cost the others power). Benjamini–Hochberg runs over
the family at `alpha`; a descriptor has drifted when its adjusted p is at most alpha and its effect reaches the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitoring.decide.rules import DriftRules
from monitoring.decide.two_sample import (
    NOT_TESTED,
    Comparison,
    adjusted_in_family,
    compare_flags,
    compare_labels,
    compare_numbers,
)
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary


@dataclass(frozen=True, slots=True)
class DescriptorDrift:
    """One descriptor in one slice.

    before, after: mean of a number, share of a flag, commonest label; None without rows. known: rows of the reference
    and of the window that have a value; the others are passed over.
    """

    descriptor: Descriptor
    result: Comparison
    p_adjusted: float
    drifted: bool
    before: float | str | None
    after: float | str | None
    known: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.result.to_json(self.p_adjusted),
            "drifted": self.drifted,
            "before": self.before,
            "after": self.after,
            "known": {"before": self.known[0], "after": self.known[1]},
        }


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
        return self.after.rows

    @property
    def drifted(self) -> dict[str, DescriptorDrift]:
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
    known = {name: (values_of(each, reference), values_of(each, current)) for name, each in descriptors.items()}
    results = {}
    for name, descriptor in descriptors.items():
        enough = min(known[name]) >= rules.minimum_rows
        results[name] = compare(descriptor, reference, current) if enough else NOT_TESTED
    adjusted = adjusted_in_family(results)
    drifts = {}
    for name, result in results.items():
        descriptor, p_adjusted = descriptors[name], adjusted[name]
        drifted = p_adjusted <= alpha and abs(result.effect) >= rules.floor(descriptor)
        levels = level(descriptor, reference), level(descriptor, current)
        drifts[name] = DescriptorDrift(descriptor, result, p_adjusted, drifted, *levels, known[name])
    return SliceDrift(label, reference, current, alpha, drifts)


def compare(descriptor: Descriptor, reference: Summary, current: Summary) -> Comparison:
    """The test of the descriptor's kind; NOT_TESTED where a summary does not have it."""
    before, after = summary_of(descriptor, reference), summary_of(descriptor, current)
    if isinstance(before, NumberSummary) and isinstance(after, NumberSummary):
        return compare_numbers(before, after)
    if isinstance(before, FlagSummary) and isinstance(after, FlagSummary):
        return compare_flags(before, after, only_rise=descriptor.harmful)
    if isinstance(before, LabelSummary) and isinstance(after, LabelSummary):
        return compare_labels(before, after)
    return NOT_TESTED


def summary_of(descriptor: Descriptor, summary: Summary) -> NumberSummary | FlagSummary | LabelSummary | None:
    """The descriptor's part of a summary; None where it has none."""
    if descriptor.kind == "numeric":
        return summary.numbers.get(descriptor.name)
    if descriptor.kind == "flag":
        return summary.flags.get(descriptor.name)
    return summary.labels.get(descriptor.name)


def values_of(descriptor: Descriptor, summary: Summary) -> int:
    """Rows that have a value of the descriptor."""
    found = summary_of(descriptor, summary)
    return 0 if found is None else found.n


def level(descriptor: Descriptor, summary: Summary) -> float | str | None:
    """What the descriptor is like, in one value; of equally frequent labels the first."""
    found = summary_of(descriptor, summary)
    if found is None or not found.n:
        return None
    if isinstance(found, NumberSummary):
        return found.mean
    if isinstance(found, FlagSummary):
        return found.share
    return max(sorted(found.counts), key=found.counts.__getitem__)


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
