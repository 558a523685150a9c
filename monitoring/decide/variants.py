"""Champion and challenger on the same traffic: what both answered while a canary or a shadow ran.

A traffic policy deals requests to both arms by chance, so that their questions are alike and the champion is the best
reference there is: it needs no past. Only the time in which the challenger answered counts. The tests are those of a
window, in a family of its own within the budget; every descriptor is tested, since questions that differ between the
arms mean that the comparison is not fair. A different challenger is no worse one: only a harmful flag that rose, or a
latency that did, is an alarm. A shadow answers when the machine is idle, so that its latency says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import numpy as np

from monitoring.decide.alarms import Alarm, alarm_of
from monitoring.decide.drift import SliceDrift, examine_slice
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.rows import ARM
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader

VariantKind = Literal["canary", "shadow"]
CHAMPION_ARM = "champion"
_ARM_OF: Mapping[VariantKind, str] = {"canary": "challenger", "shadow": "shadow"}
_A_MOMENT = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Variants:
    """Both sides of one traffic policy in a window. champion, challenger: releases; None where nobody knows."""

    kind: VariantKind
    champion: str | None
    challenger: str | None
    since: datetime
    until: datetime
    before: Summary
    after: Summary


@dataclass(frozen=True, slots=True)
class VariantComparison:
    """alike: whether the questions of both arms are alike; when not, nothing is held against the challenger."""

    variants: Variants
    drift: SliceDrift
    alike: bool
    worse: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        variants, drift = self.variants, self.drift.to_json()
        return {
            "kind": variants.kind,
            "champion": variants.champion,
            "challenger": variants.challenger,
            "since": variants.since.isoformat(),
            "until": variants.until.isoformat(),
            "rows": {"champion": variants.before.rows, "challenger": variants.after.rows},
            "alike": self.alike,
            "worse": list(self.worse),
            "alpha": drift["alpha"],
            "descriptors": drift["descriptors"],
        }


def find_variants(
    reader: WindowReader, app: str, since: datetime, until: datetime, minimum_rows: int
) -> list[Variants]:
    """The arms with enough rows on both sides. Raises StoreUnavailable."""
    found = []
    whole = reader.summary(app, since, until, ARM)
    for kind, arm in _ARM_OF.items():
        challenger = whole.get(arm)
        if challenger is None or challenger.rows < minimum_rows or challenger.first_at is None:
            continue
        start = max(since, datetime.fromtimestamp(challenger.first_at, UTC))
        last = datetime.fromtimestamp(challenger.last_at or challenger.first_at, UTC)
        end = min(until, last + _A_MOMENT)
        both = reader.summary(app, start, end, ARM)
        champion = both.get(CHAMPION_ARM, Summary())
        if champion.rows >= minimum_rows:
            names = (_release(reader, app, start, end, CHAMPION_ARM), _release(reader, app, start, end, arm))
            found.append(Variants(kind, *names, start, end, champion, both.get(arm, challenger)))
    return found


def compare_variants(
    variants: Variants, descriptors: Mapping[str, Descriptor], rules: DriftRules, alpha: float
) -> VariantComparison:
    """Tests the challenger against the champion."""
    chosen = {
        name: descriptor
        for name, descriptor in descriptors.items()
        if variants.kind == "canary" or descriptor.side != "service" or descriptor.harmful
    }
    told = f"{variants.challenger or 'challenger'} against {variants.champion or 'champion'}"
    drift = examine_slice({variants.kind: told}, variants.before, variants.after, chosen, rules, alpha)
    alike = not any(chosen[name].side == "input" for name in drift.drifted)
    worse = tuple(
        name
        for name, found in drift.drifted.items()
        if alike and (chosen[name].harmful or (chosen[name].unit == "ms" and found.result.direction > 0))
    )
    return VariantComparison(variants, drift, alike, worse)


def canary_alarms(comparison: VariantComparison) -> list[Alarm]:
    """One alarm for each descriptor in which the challenger is worse."""
    variants, arm = comparison.variants, {ARM: _ARM_OF[comparison.variants.kind]}
    where = f"{variants.challenger or 'the challenger'} against {variants.champion or 'the champion'}"
    label = {"release": variants.challenger} if variants.challenger else arm
    return [
        alarm_of(comparison.drift, what, f"{where} on the same traffic", (label,), "canary", rows_of=arm)
        for what in comparison.worse
    ]


def _release(reader: WindowReader, app: str, since: datetime, until: datetime, arm: str) -> str | None:
    """The release that the newest row of an arm names."""
    newest, name = -np.inf, None
    for rows in reader.parts(app, since, until, (), {ARM: arm}):
        place = int(np.argmax(rows.at))
        if rows.at[place] > newest:
            newest, name = rows.at[place], rows.dimensions["release"][place]
    return cast("str | None", name)
