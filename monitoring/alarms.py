"""Alarms: what drifted, why we say so, and the requests to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitoring.descriptor_store import DescribedRows
from monitoring.descriptors import Side
from monitoring.drift import DescriptorDrift, Slice, SliceDrift, present
from monitoring.rules import DriftRules

Column = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One descriptor that drifted, in whichever slices.

    what: the descriptor. why: a sentence with the numbers of the slice where it is plainest. rows: request ids of that
    slice, most telling first. slices: all slices in which it drifted.
    """

    what: str
    why: str
    rows: tuple[str, ...]
    side: Side
    slices: tuple[dict[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        slices = [dict(label) for label in self.slices]
        return {"what": self.what, "why": self.why, "rows": list(self.rows), "in": self.side, "slices": slices}


def alarms_of(
    slices: Sequence[Slice], drifts: Sequence[SliceDrift], reference: DescribedRows, rules: DriftRules
) -> list[Alarm]:
    """One alarm for each drifted descriptor, the most certain first."""
    places: dict[str, list[tuple[Slice, SliceDrift]]] = {}
    for part, found in zip(slices, drifts, strict=True):
        for name, drift in found.descriptors.items():
            if drift.drifted:
                places.setdefault(name, []).append((part, found))
    alarms = []
    for name, hits in places.items():
        part, found = min(hits, key=lambda hit: hit[1].descriptors[name].result.p_value)
        drift = found.descriptors[name]
        ids = telling_rows(drift, reference, part.current, rules.rows_named)
        labels = tuple(dict(hit.label) for hit, _ in hits)
        why = explain(drift, found, reference.columns[name], part.current.columns[name])
        alarms.append((drift.p_adjusted, Alarm(name, why, tuple(ids), drift.descriptor.side, labels)))
    return [alarm for _, alarm in sorted(alarms, key=lambda pair: pair[0])]


def explain(drift: DescriptorDrift, found: SliceDrift, reference: Column, current: Column) -> str:
    """One sentence: which rows, from what to what, how sure, how large."""
    before, after = present(reference), present(current)
    change = {"numeric": _number_change, "flag": _flag_change, "label": _label_change}[drift.descriptor.kind]
    where = " ".join(found.label.values())
    return (
        f"{drift.descriptor.name} {change(drift, before, after)} in {where} "
        f"({len(after)} rows against {len(before)}; {drift.result.test}, adjusted p {drift.p_adjusted:.2g}, "
        f"effect {abs(drift.result.effect):.2f})"
    )


def telling_rows(drift: DescriptorDrift, reference: DescribedRows, current: DescribedRows, limit: int) -> list[str]:
    """Request ids of the current rows that show the change best."""
    name, kind = drift.descriptor.name, drift.descriptor.kind
    column = current.columns[name]
    if kind == "numeric":
        chosen = _farthest(column, reference.columns[name], drift.result.direction)
    elif kind == "flag":
        chosen = np.flatnonzero(column == (1.0 if drift.result.effect > 0 else 0.0))[::-1]
    else:
        chosen = np.flatnonzero(column == _grown_label(present(reference.columns[name]), present(column)))[::-1]
    return [current.request_ids[position] for position in chosen[:limit]]


def _farthest(column: Column, reference: Column, direction: int) -> Column:
    """Positions by distance from the reference's median, on the side the values moved to."""
    distance = (column - np.median(present(reference))) * direction
    order = np.argsort(-distance, kind="stable")  # NaN sorts last
    moved: Column = order[distance[order] > 0]
    return moved


def _number_change(drift: DescriptorDrift, before: Column, after: Column) -> str:
    word = "rose" if drift.result.direction > 0 else "fell"
    unit = f" {drift.descriptor.unit}" if drift.descriptor.unit else ""
    return (
        f"{word}: median {np.median(before):.4g} → {np.median(after):.4g}{unit}, "
        f"mean {before.mean(dtype=np.float64):.4g} → {after.mean(dtype=np.float64):.4g}{unit}"
    )


def _flag_change(drift: DescriptorDrift, before: Column, after: Column) -> str:
    word = "rose" if drift.result.effect > 0 else "fell"
    return (
        f"{word} from {before.mean():.1%} to {after.mean():.1%} (from {int(before.sum())} to {int(after.sum())} rows)"
    )


def _label_change(_drift: DescriptorDrift, before: Column, after: Column) -> str:
    label = _grown_label(before, after)
    return f"changed: {label} went from {(before == label).mean():.1%} to {(after == label).mean():.1%}"


def _grown_label(before: Column, after: Column) -> str:
    earlier, later = Counter(before.tolist()), Counter(after.tolist())
    return str(max(later, key=lambda label: later[label] / len(after) - earlier[label] / len(before)))
