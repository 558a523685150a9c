"""Alarms: what changed, why we say so, and the requests to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmops.production_log import SHADOW
from monitoring.decide.drift import SliceDrift
from monitoring.descriptors import Side
from monitoring.store.hourly import APP
from monitoring.store.rows import ARM, DescribedRows

if TYPE_CHECKING:
    from monitoring.store.windows import WindowReader

AlarmKind = Literal["drift", "sequential", "limit", "volume", "canary"]
Severity = Literal["high", "medium"]
Want = Literal["high", "low", "equal"]

ROWS = "rows"
"""What an alarm of the kind `volume` is about."""


@dataclass(frozen=True, slots=True)
class EvidenceQuery:
    """Which rows show a change of one descriptor.

    want: `high` or `low`: values beyond `value`, the farthest first; `equal`: values that equal it, the newest first.
    rows_like: dimension and value that the rows must have; None for any row.
    """

    name: str
    want: Want
    value: float | str
    rows_like: tuple[str, str] | None = None

    @classmethod
    def of_slice(cls, name: str, want: Want, value: float | str, label: Mapping[str, str]) -> EvidenceQuery:
        """Among the rows of a slice. label: `{"app": …}` for all rows, else dimension and value."""
        ((dimension, named),) = label.items()
        return cls(name, want, value, None if dimension == APP else (dimension, named))


@dataclass(frozen=True, slots=True)
class Alarm:
    """One descriptor that changed, in whichever slices.

    what: the descriptor. why: a sentence with the numbers of the slice where it is plainest. slices: all in which it
    changed. kind: which rule found it. severity: `high` for what is harmful by itself or was limited by hand.
    explained: whether changed questions explain it; None where that was not asked or cannot be told.
    evidence: which rows of the window show it. rows: their request ids, most telling first, once they were looked for.
    """

    what: str
    why: str
    side: Side
    slices: tuple[dict[str, str], ...]
    kind: AlarmKind = "drift"
    severity: Severity = "high"
    explained: bool | None = None
    evidence: EvidenceQuery | None = None
    rows: tuple[str, ...] = ()

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


def alarm_of(
    family: SliceDrift,
    name: str,
    where: str,
    slices: tuple[dict[str, str], ...],
    kind: AlarmKind = "drift",
    severity: Severity = "high",
    rows_of: Mapping[str, str] | None = None,
) -> Alarm:
    """The alarm of one descriptor that drifted: in a sentence which rows, from what to what, how sure, how large.

    where: names the family's rows. rows_of: the slice whose rows show the change; the family's when None.
    """
    drift, before, after = family.descriptors[name], family.before, family.after
    descriptor, result, label = drift.descriptor, drift.result, rows_of or family.label
    if descriptor.kind == "numeric":
        number, current = before.numbers[name], after.numbers[name]
        unit, median = f" {descriptor.unit}" if descriptor.unit else "", number.quantile(0.5)
        up = result.direction > 0
        medians = f"median {median:.4g} → {current.quantile(0.5):.4g}{unit}"
        change = f"{'rose' if up else 'fell'}: {medians}, mean {number.mean:.4g} → {current.mean:.4g}{unit}"
        evidence = EvidenceQuery.of_slice(name, "high" if up else "low", median, label)
    elif descriptor.kind == "flag":
        flag, now = before.flags[name], after.flags[name]
        shares = f"from {flag.share:.1%} to {now.share:.1%} (from {flag.hits} to {now.hits} rows)"
        change = f"{'rose' if now.share > flag.share else 'fell'} {shares}"
        evidence = EvidenceQuery.of_slice(name, "equal", 1.0 if result.effect > 0 else 0.0, label)
    else:
        labels, named = before.labels[name], after.labels[name]
        grown = max(sorted(named.counts), key=lambda each: named.share(each) - labels.share(each))
        change = f"changed: {grown} went from {labels.share(grown):.1%} to {named.share(grown):.1%}"
        evidence = EvidenceQuery.of_slice(name, "equal", grown, label)
    why = (
        f"{name} {change} in {where} ({drift.known[1]} rows against {drift.known[0]}; {result.test}, "
        f"adjusted p {drift.p_adjusted:.2g}, effect {abs(result.effect):.2f})"
    )
    return Alarm(name, why, descriptor.side, slices, kind, severity, evidence=evidence)


def drift_alarms(drifts: Sequence[SliceDrift]) -> list[Alarm]:
    """One alarm for each drifted descriptor, the most certain first."""
    hits: dict[str, list[SliceDrift]] = {}
    for family in drifts:
        for name in family.drifted:
            hits.setdefault(name, []).append(family)
    raised = []
    for name, families in hits.items():
        plainest = min(families, key=lambda family: family.descriptors[name].result.p_value)
        slices, drift = tuple(dict(family.label) for family in families), plainest.descriptors[name]
        severity: Severity = "high" if drift.descriptor.harmful else "medium"
        alarm = alarm_of(plainest, name, next(iter(plainest.label.values())), slices, severity=severity)
        raised.append((drift.p_adjusted, alarm))
    return [alarm for _, alarm in sorted(raised, key=lambda pair: pair[0])]


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
