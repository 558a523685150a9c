"""What the charts of a report are drawn from: two distributions side by side, and a level over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from llmops.pages.numbers import brief
from monitoring.store.number_grid import middle_of
from monitoring.store.summaries import LabelSummary, NumberSummary, Summary

Chart = dict[str, Any]
"""The values that a macro of parts.html writes."""
_BARS, _MOST_LABELS = 26, 8
_SKEW = 30.0


def distribution(name: str, before: Summary, after: Summary, unit: str = "") -> Chart | None:
    """Both windows' distributions of one descriptor; None where either has no values."""
    if name in before.numbers and name in after.numbers and before.numbers[name].n and after.numbers[name].n:
        return _number_chart(before.numbers[name], after.numbers[name], unit)
    if name in before.flags and name in after.flags and before.flags[name].n and after.flags[name].n:
        sides = [(flag.share, f"({flag.hits:,} of {flag.n:,})") for flag in (before.flags[name], after.flags[name])]
        return {"shares": [("", *sides)], "most": max(share for share, _ in sides) or 1.0}
    if name in before.labels and name in after.labels and before.labels[name].n and after.labels[name].n:
        return _label_chart(before.labels[name], after.labels[name])
    return None


def over_time(points: Sequence[tuple[datetime, float]], since: datetime, share: bool) -> Chart | None:
    """A level over time, NaN where it is not known; the current window, from `since` on, is marked. None for fewer than
    two levels that are known."""
    known = [(at, level) for at, level in points if math.isfinite(level)]
    if len(known) < 2:
        return None
    levels = [level for _, level in known]
    now, low, high = (brief(level, share) for level in (levels[-1], min(0.0, *levels), max(levels)))
    told = f"{now} now, {low} to {high}"
    marks = [
        (at.timestamp(), level, f"{at:%Y-%m-%d %H:%M} UTC: {brief(level, share)}")
        for at, level in points
    ]  # fmt: skip
    return {"points": marks, "since": since.timestamp(), "told": told, "start": known[0][0], "end": known[-1][0]}


def _number_chart(before: NumberSummary, after: NumberSummary, unit: str) -> Chart:
    edges, in_steps = _edges(before, after)
    ranges = [f"{brief(low)} to {brief(high)} {unit}" for low, high in pairwise(edges)]
    medians, means = (before.quantile(0.5), after.quantile(0.5)), (before.mean, after.mean)
    label = f"median {brief(medians[0])} before, {brief(medians[1])} after"
    return {
        "bars": (_shares(before, edges), _shares(after, edges), ranges, label),
        "low": edges[0],
        "middle": edges[len(edges) // 2],
        "high": edges[-1],
        "medians": medians,
        "means": means,
        "unit": unit,
        "in_steps": in_steps,
    }


def _edges(before: NumberSummary, after: NumberSummary) -> tuple[list[float], bool]:
    """Edges of the bars over what nearly all numbers lie in; the last bars hold what is beyond."""
    low = min(before.quantile(0.005), after.quantile(0.005))
    high = max(before.quantile(0.995), after.quantile(0.995))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    middle = max(before.quantile(0.5), after.quantile(0.5))
    if low > 0 and high > _SKEW * max(min(before.quantile(0.5), after.quantile(0.5)), low):
        return np.geomspace(low, high, _BARS + 1).tolist(), True
    whole = all(float(value).is_integer() for value in (low, high)) and high - low < _BARS
    if whole and middle.is_integer():
        return np.arange(low - 0.5, high + 1.5).tolist(), False
    return np.linspace(low, high, _BARS + 1).tolist(), False


def _shares(part: NumberSummary, edges: Sequence[float]) -> list[float]:
    middles = np.array([middle_of(int(place)) for place in part.bins]).clip(edges[0], edges[-1])
    counted, _ = np.histogram(middles, bins=edges, weights=part.counts)
    shares: list[float] = (counted / max(part.n, 1)).tolist()
    return shares


def _label_chart(before: LabelSummary, after: LabelSummary) -> Chart:
    rows = [
        (label, (before.counts.get(label, 0) / before.n, ""), (after.counts.get(label, 0) / after.n, ""))
        for label in {*before.counts, *after.counts}
    ]
    rows.sort(key=lambda row: (-max(row[1], row[2])[0], row[0]))
    return {"shares": rows[:_MOST_LABELS], "most": max(max(row[1], row[2])[0] for row in rows)}
