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
from monitoring.descriptors import Descriptor, Side
from monitoring.store.rows import ARM, DescribedRows
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Summary

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
class Raised:
    """An alarm whose rows are still to be found. order: the most certain first."""

    alarm: Alarm
    telling: Telling | None
    order: float


def drift_alarms(places: Sequence[TestedSlice], drifts: Sequence[SliceDrift]) -> list[Raised]:
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
        raised.append(Raised(alarm, telling(drift, place.reference, place.current, place.rows_like), drift.p_adjusted))
    return sorted(raised, key=lambda each: each.order)


def explain(drift: DescriptorDrift, where: str, reference: Summary, current: Summary) -> str:
    """One sentence: which rows, from what to what, how sure, how large."""
    name, kind = drift.descriptor.name, drift.descriptor.kind
    if kind == "numeric":
        change, sizes = _number_change(drift, reference.numbers[name], current.numbers[name])
    elif kind == "flag":
        change, sizes = flag_change(reference.flags[name], current.flags[name])
    else:
        change, sizes = _label_change(reference.labels[name], current.labels[name])
    return (
        f"{name} {change} in {where} ({sizes[1]} rows against {sizes[0]}; {drift.result.test}, "
        f"adjusted p {drift.p_adjusted:.2g}, effect {abs(drift.result.effect):.2f})"
    )


def telling(drift: DescriptorDrift, reference: Summary, current: Summary, place: tuple[str, str] | None) -> Telling:
    """Which rows of the current window show the change best."""
    name, kind = drift.descriptor.name, drift.descriptor.kind
    if kind == "numeric":
        median = reference.numbers[name].quantile(0.5)
        return Telling(name, "high" if drift.result.direction > 0 else "low", median, place)
    if kind == "flag":
        return Telling(name, "equal", 1.0 if drift.result.effect > 0 else 0.0, place)
    return Telling(name, "equal", _grown_label(reference.labels[name], current.labels[name]), place)


def hits_of(descriptor: Descriptor, place: tuple[str, str] | None = None) -> Telling:
    """The newest rows on which a flag is true."""
    return Telling(descriptor.name, "equal", 1.0, place)


def flag_change(before: FlagSummary, after: FlagSummary) -> tuple[str, tuple[int, int]]:
    """A flag's change in words, and the rows on both sides."""
    word = "rose" if after.share > before.share else "fell"
    told = f"{word} from {before.share:.1%} to {after.share:.1%} (from {before.hits} to {after.hits} rows)"
    return told, (before.n, after.n)


def _number_change(drift: DescriptorDrift, before: NumberSummary, after: NumberSummary) -> tuple[str, tuple[int, int]]:
    word = "rose" if drift.result.direction > 0 else "fell"
    unit = f" {drift.descriptor.unit}" if drift.descriptor.unit else ""
    medians = f"median {before.quantile(0.5):.4g} → {after.quantile(0.5):.4g}{unit}"
    return f"{word}: {medians}, mean {before.mean:.4g} → {after.mean:.4g}{unit}", (before.n, after.n)


def _label_change(before: LabelSummary, after: LabelSummary) -> tuple[str, tuple[int, int]]:
    label = _grown_label(before, after)
    shares = (_share(before, label), _share(after, label))
    return f"changed: {label} went from {shares[0]:.1%} to {shares[1]:.1%}", (before.n, after.n)


def _grown_label(before: LabelSummary, after: LabelSummary) -> str:
    return max(sorted(after.counts), key=lambda label: _share(after, label) - _share(before, label))


def _share(summary: LabelSummary, label: str) -> float:
    return summary.counts.get(label, 0) / max(summary.n, 1)


@dataclass(frozen=True, slots=True)
class Telling:
    """Which rows show a change of one descriptor.

    want: `high` or `low`: values beyond `value`, the farthest first; `equal`: values that equal it, the newest first.
    place: dimension and value that the rows must have; None for any row.
    """

    name: str
    want: Literal["high", "low", "equal"]
    value: float | str
    place: tuple[str, str] | None = None


def telling_rows(
    reader: WindowReader, app: str, since: datetime, until: datetime, asked: Sequence[Telling], limit: int
) -> list[tuple[str, ...]]:
    """For each of `asked`, at most `limit` request ids, most telling first. Reads the window once, hour by hour.

    Raises StoreUnavailable.
    """
    if not asked or not limit:
        return [() for _ in asked]
    best = [_Best(each, limit) for each in asked]
    columns = sorted({each.name for each in asked})
    for rows in reader.parts(app, since, until, columns, shadow=True):
        for each in best:
            each.add(rows)
    return [each.request_ids for each in best]


class _Best:
    """The rows kept so far for one question."""

    def __init__(self, asked: Telling, limit: int) -> None:
        self._asked, self._limit = asked, limit
        self._found: list[tuple[float, float, str]] = []  # score, time, request id; the most telling first

    @property
    def request_ids(self) -> tuple[str, ...]:
        return tuple(request_id for _, _, request_id in self._found)

    def add(self, rows: DescribedRows) -> None:
        if self._asked.name in rows.columns:
            self._found = sorted(self._found + self._new(rows), reverse=True)[: self._limit]

    def _new(self, rows: DescribedRows) -> list[tuple[float, float, str]]:
        score = np.where(self._chosen(rows), self._scores(rows), -np.inf)
        positions = np.flatnonzero(score > (-np.inf if self._asked.want == "equal" else 0.0))
        if len(positions) > self._limit:
            best = np.lexsort((rows.at[positions], score[positions]))[-self._limit :]
            positions = positions[best]
        return [(float(score[each]), float(rows.at[each]), rows.request_ids[each]) for each in positions.tolist()]

    def _chosen(self, rows: DescribedRows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        place = self._asked.place
        if place is not None and place[0] == ARM:
            return np.asarray(rows.dimensions[ARM] == place[1], dtype=bool)
        answered = np.asarray(rows.dimensions[ARM] != SHADOW, dtype=bool)
        return answered if place is None else answered & np.asarray(rows.dimensions[place[0]] == place[1], dtype=bool)

    def _scores(self, rows: DescribedRows) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        column, asked = rows.columns[self._asked.name], self._asked
        if asked.want == "equal":
            return np.where(column == asked.value, rows.at, -np.inf)
        distance = (column - np.float32(asked.value)).astype(np.float64)
        distance = distance if asked.want == "high" else -distance
        return np.where(np.isfinite(distance), distance, -np.inf)
