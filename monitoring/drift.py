"""Drift of a current window against a reference window: one family of tests for each slice.

A family is the testable descriptors of a slice: those with enough values in both windows that are not all equal (a
constant column could never be significant; counting it would only cost the others power). Benjamini–Hochberg runs over
the family at `rules.alpha`; a descriptor has drifted when its adjusted p is at most alpha and its effect reaches the
floor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitoring.descriptor_store import DescribedRows
from monitoring.descriptors import DESCRIPTORS, Descriptor, Side
from monitoring.rules import DriftRules
from monitoring.two_sample import (
    NOT_TESTED,
    Comparison,
    adjust_p_values,
    compare_flags,
    compare_labels,
    compare_numbers,
)

Column = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class DescriptorDrift:
    """One descriptor in one slice.

    before, after: mean of a number, share of a flag, commonest label; None without rows.
    """

    descriptor: Descriptor
    result: Comparison
    p_adjusted: float
    drifted: bool
    before: float | str | None
    after: float | str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.result.test,
            "statistic": self.result.statistic,
            "p_value": self.result.p_value,
            "p_adjusted": self.p_adjusted,
            "effect": self.result.effect,
            "drifted": self.drifted,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True, slots=True)
class SliceDrift:
    """One family: `label` is `{"app": …}` for all rows, or `{"release": …}`. alpha: what p_adjusted is held against."""

    label: Mapping[str, str]
    rows: int
    alpha: float
    descriptors: Mapping[str, DescriptorDrift]

    def to_json(self) -> dict[str, Any]:
        found = {name: drift.to_json() for name, drift in self.descriptors.items()}
        return {"slice": dict(self.label), "rows": self.rows, "alpha": self.alpha, "descriptors": found}


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of the current window that are tested together."""

    label: Mapping[str, str]
    current: DescribedRows


def slices_of(app: str, current: DescribedRows, rules: DriftRules) -> list[Slice]:
    """All rows, then each release with enough of them, in order of its name."""
    counts = Counter(release for release in current.releases if release)
    releases = [release for release in sorted(counts) if counts[release] >= rules.minimum_rows]
    parts = [Slice({"release": release}, current.select(current.releases == release)) for release in releases]
    return [Slice({"app": app}, current), *parts]


def count_families(slices: Sequence[Slice]) -> int:
    """Slices with different rows: a release that answered every request is the same family as the whole app."""
    whole = len(slices[0].current)
    return 1 + sum(len(part.current) < whole for part in slices[1:])


def examine_slices(slices: Sequence[Slice], reference: DescribedRows, rules: DriftRules) -> list[SliceDrift]:
    """Tests each slice against the whole reference. Raises nothing: what cannot be tested has p = 1."""
    alpha = rules.alpha(count_families(slices))
    return [examine_slice(part, reference, rules, alpha) for part in slices]


def examine_slice(part: Slice, reference: DescribedRows, rules: DriftRules, alpha: float) -> SliceDrift:
    """One family of tests, corrected and held against alpha and the effect floors."""
    results: dict[str, Comparison] = {}
    levels: dict[str, tuple[float | str | None, float | str | None]] = {}
    for name, descriptor in DESCRIPTORS.items():
        before, after = present(reference.columns[name]), present(part.current.columns[name])
        levels[name] = level(descriptor, before), level(descriptor, after)
        enough = min(len(before), len(after)) >= rules.minimum_rows
        results[name] = compare(descriptor, before, after) if enough else NOT_TESTED
    family = [name for name, result in results.items() if result.testable]
    adjusted = dict(zip(family, adjust_p_values([results[name].p_value for name in family]), strict=True))
    drifts = {}
    for name, result in results.items():
        p_adjusted = adjusted.get(name, 1.0)
        drifted = p_adjusted <= alpha and abs(result.effect) >= rules.floor(DESCRIPTORS[name])
        drifts[name] = DescriptorDrift(DESCRIPTORS[name], result, p_adjusted, drifted, *levels[name])
    return SliceDrift(part.label, len(part.current), alpha, drifts)


def compare(descriptor: Descriptor, reference: Column, current: Column) -> Comparison:
    """The test of the descriptor's kind, on columns without missing values."""
    if descriptor.kind == "numeric":
        return compare_numbers(reference, current)
    if descriptor.kind == "flag":
        return compare_flags(reference, current, only_rise=descriptor.harmful)
    return compare_labels(reference, current)


def present(column: Column) -> Column:
    """The column without its missing values."""
    if column.dtype == object:
        there = np.array([value is not None for value in column], dtype=bool)
    else:
        there = ~np.isnan(column)
    chosen: Column = column[there]
    return chosen


def level(descriptor: Descriptor, column: Column) -> float | str | None:
    """What the column is like, in one value."""
    if not len(column):
        return None
    if descriptor.kind == "label":
        return str(Counter(column.tolist()).most_common(1)[0][0])
    return float(column.mean(dtype=np.float64))


def sides_of(slices: Sequence[SliceDrift]) -> list[Side]:
    """Sides with a drifted descriptor. A rollback cures drift of the output; it cannot cure drift of the input."""
    found = {drift.descriptor.side for part in slices for drift in part.descriptors.values() if drift.drifted}
    order: tuple[Side, ...] = ("input", "output", "service")
    return [side for side in order if side in found]
