"""Alarms: what changed, why we say so, and the requests to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmops.production_log import SHADOW
from monitoring.decide.drift import DescriptorDrift, SliceDrift
from monitoring.decide.pinned_summaries import TestedSlice
from monitoring.descriptors import Side
from monitoring.store.rows import ARM, DescribedRows
from monitoring.store.summaries import LabelSummary, Summary

if TYPE_CHECKING:
    from monitoring.store.windows import WindowReader

AlarmKind = Literal["drift", "sequential", "limit", "volume", "canary"]
Severity = Literal["high", "medium"]

ROWS = "rows"
"""What an alarm of the kind `volume` is about."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One descriptor that changed, in whichever slices.

    what: the descriptor. why: a sentence with the numbers of the slice where it is plainest. rows: request ids of that
    slice, most telling first. slices: all slices in which it changed. kind: which rule found it. severity: `high` for
    what is harmful by itself or was limited by hand. explained: whether changed questions explain it; None where that
    was not asked or cannot be told.
    """

    what: str
    why: str
    rows: tuple[str, ...]
    side: Side
    slices: tuple[dict[str, str], ...]
    kind: AlarmKind = "drift"
    severity: Severity = "high"
    explained: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "why": self.why,
            "rows": list(self.rows),
            "in": self.side,
            "slices": [dict(label) for label in self.slices],
            "kind": self.kind,
            "severity": self.severity,
            "explained_by_questions": self.explained,
        }


@dataclass(frozen=True, slots=True)
class EvidenceQuery:
    """Which rows show a change of one descriptor.

    want: `high` or `low`: values beyond `value`, the farthest first; `equal`: values that equal it, the newest first.
    rows_like: dimension and value that the rows must have; None for any row.
    """

    name: str
    want: Literal["high", "low", "equal"]
    value: float | str
    rows_like: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class PendingAlarm:
    """An alarm whose rows are still to be found. order: the most certain first."""

    alarm: Alarm
    query: EvidenceQuery | None
    order: float


def drift_alarms(places: Sequence[TestedSlice], drifts: Sequence[SliceDrift]) -> list[PendingAlarm]:
    """One alarm for each drifted descriptor, the most certain first."""
    hits: dict[str, list[tuple[TestedSlice, SliceDrift]]] = {}
    for place, found in zip(places, drifts, strict=True):
        for name, drift in found.descriptors.items():
            if drift.drifted:
                hits.setdefault(name, []).append((place, found))
    raised = []
    for name, found_in in hits.items():
        place, found = min(found_in, key=lambda hit: hit[1].descriptors[name].result.p_value)
        drift = found.descriptors[name]
        alarm = Alarm(
            what=name,
            why=explain(drift, place.value, place.reference, place.current),
            rows=(),
            side=drift.descriptor.side,
            slices=tuple(hit.label for hit, _ in found_in),
            severity="high" if drift.descriptor.harmful else "medium",
        )
        query = evidence_of(drift, place.reference, place.current, place.rows_like)
        raised.append(PendingAlarm(alarm, query, drift.p_adjusted))
    return sorted(raised, key=lambda each: each.order)


def explain(drift: DescriptorDrift, where: str, reference: Summary, current: Summary) -> str:
    """One sentence: which rows, from what to what, how sure, how large."""
    name, kind, up = drift.descriptor.name, drift.descriptor.kind, drift.result.direction > 0
    if kind == "numeric":
        before, after = reference.numbers[name], current.numbers[name]
        unit = f" {drift.descriptor.unit}" if drift.descriptor.unit else ""
        medians = f"median {before.quantile(0.5):.4g} → {after.quantile(0.5):.4g}{unit}"
        means = f"mean {before.mean:.4g} → {after.mean:.4g}{unit}"
        change, sizes = f"{'rose' if up else 'fell'}: {medians}, {means}", (before.n, after.n)
    elif kind == "flag":
        was, now = reference.flags[name], current.flags[name]
        shares = f"from {was.share:.1%} to {now.share:.1%} (from {was.hits} to {now.hits} rows)"
        change, sizes = f"{'rose' if now.share > was.share else 'fell'} {shares}", (was.n, now.n)
    else:
        labels, named = reference.labels[name], current.labels[name]
        label = _grown_label(labels, named)
        change = f"changed: {label} went from {_share(labels, label):.1%} to {_share(named, label):.1%}"
        sizes = labels.n, named.n
    return (
        f"{name} {change} in {where} ({sizes[1]} rows against {sizes[0]}; {drift.result.test}, "
        f"adjusted p {drift.p_adjusted:.2g}, effect {abs(drift.result.effect):.2f})"
    )


def evidence_of(
    drift: DescriptorDrift, reference: Summary, current: Summary, rows_like: tuple[str, str] | None
) -> EvidenceQuery:
    """Which rows of the current window show the change best. rows_like: as in `EvidenceQuery`."""
    name, kind = drift.descriptor.name, drift.descriptor.kind
    if kind == "numeric":
        median = reference.numbers[name].quantile(0.5)
        return EvidenceQuery(name, "high" if drift.result.direction > 0 else "low", median, rows_like)
    if kind == "flag":
        return EvidenceQuery(name, "equal", 1.0 if drift.result.effect > 0 else 0.0, rows_like)
    return EvidenceQuery(name, "equal", _grown_label(reference.labels[name], current.labels[name]), rows_like)


def _grown_label(before: LabelSummary, after: LabelSummary) -> str:
    return max(sorted(after.counts), key=lambda label: _share(after, label) - _share(before, label))


def _share(summary: LabelSummary, label: str) -> float:
    return summary.counts.get(label, 0) / max(summary.n, 1)


def find_evidence(
    reader: WindowReader, app: str, since: datetime, until: datetime, asked: Sequence[EvidenceQuery], limit: int
) -> list[tuple[str, ...]]:
    """For each of `asked`, at most `limit` request ids, most telling first. Reads the window once, hour by hour.

    Raises StoreUnavailable.
    """
    if not asked or not limit:
        return [() for _ in asked]
    best: list[list[_Evidence]] = [[] for _ in asked]
    for rows in reader.parts(app, since, until, sorted({each.name for each in asked}), shadow=True):
        for place, query in enumerate(asked):
            if query.name in rows.columns:
                best[place] = sorted(best[place] + _best_of(rows, query, limit), reverse=True)[:limit]
    return [tuple(request_id for _, _, request_id in found) for found in best]


_Evidence = tuple[float, float, str]
"""Score, time, request id."""


def _best_of(rows: DescribedRows, query: EvidenceQuery, limit: int) -> list[_Evidence]:
    """The most telling of the rows, at most `limit`, in no order. Rows of shadow requests only where they are asked."""
    dimension, value = query.rows_like or (None, None)
    chosen = np.ones(len(rows), bool) if dimension == ARM else np.asarray(rows.dimensions[ARM] != SHADOW, dtype=bool)
    if dimension is not None:
        chosen &= np.asarray(rows.dimensions[dimension] == value, dtype=bool)
    column = rows.columns[query.name]
    if query.want == "equal":
        score = np.where(chosen & (column == query.value), rows.at, -np.inf)
        positions = np.flatnonzero(score > -np.inf)
    else:
        beyond = (column - np.float32(query.value)).astype(np.float64) * (1 if query.want == "high" else -1)
        score = np.where(chosen & np.isfinite(beyond), beyond, -np.inf)
        positions = np.flatnonzero(score > 0)
    if len(positions) > limit:
        positions = positions[np.lexsort((rows.at[positions], score[positions]))[-limit:]]
    return [(float(score[each]), float(rows.at[each]), rows.request_ids[each]) for each in positions.tolist()]
