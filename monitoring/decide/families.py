"""Families of tests beside those of a window alone: windows taken together, and a challenger beside the champion.

Together: what one window is too small to prove, the last three may prove. Beside each window alone, the last three
since the pin are compared, as one, with the reference and the quiet rows between it and them, as detectors do
(`detectors`). Harmful flags are left to those. So that nobody is held to account for another's rows, these do not
count: windows up to the last that alarmed; once any alarmed, the rows between; and all of them where a release answered
that does not answer now. Of the budget of these looks most goes to the second and the third window of a reference
(`rules`): it is all that there is to compare with, while for later windows the rows between have widened it.

Variants: what champion and challenger answered while a canary or a shadow ran. A traffic policy deals requests to both
arms by chance, so that their questions are alike and the champion is the best reference there is: it needs no past.
Only the time in which the challenger answered counts. The tests are those of a window, in a family of its own within
the budget; every descriptor is tested, since questions that differ between the arms mean that the comparison is not
fair. A different challenger is no worse one: only a harmful flag that rose, or a latency that did, is an alarm. A
shadow answers when the machine is idle, so that its latency says nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import numpy as np

from monitoring.decide.alarms import Alarm, alarm_of
from monitoring.decide.drift import SliceDrift, examine_slice
from monitoring.decide.rules import POOLED, DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.rows import ARM
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader

MOST_BETWEEN = 30
"""Windows before the pooled ones whose rows are compared with, beside the reference."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Windows to be looked at together. number: of the last one since the pin. between: the quiet time from the pin, or
    MOST_BETWEEN windows, to `since`; None when there is none. pins: of references shortly before this one."""

    since: datetime
    until: datetime
    number: int
    between: tuple[datetime, datetime] | None = None
    pins: int = 0


def pool_of(
    since: datetime, until: datetime, counts_from: datetime, rejected: datetime | None, pins: int
) -> Pool | None:
    """The pool that ends with the window from `since` to `until`; None when that window would be alone in it.

    counts_from: from when on rows count against the reference. rejected: the end of the last window that alarmed from
    then on, before this one.
    """
    length = until - since
    start = max(until - POOLED * length, counts_from, rejected or counts_from)
    if start >= since:
        return None
    begin = max(counts_from, start - MOST_BETWEEN * length)
    between = (begin, start) if rejected is None and begin < start else None
    return Pool(start, until, -((counts_from - until) // length), between, pins)


@dataclass(frozen=True, slots=True)
class PooledLook:
    """What the look found. releases: those that answered."""

    pool: Pool
    drift: SliceDrift
    releases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        drift = self.drift.to_json()
        return {
            "since": self.pool.since.isoformat(),
            "until": self.pool.until.isoformat(),
            "rows": drift["rows"],
            "reference_rows": self.drift.before.rows,
            "alpha": drift["alpha"],
            "descriptors": drift["descriptors"],
        }


def look_at(
    reader: WindowReader,
    app: str,
    pool: Pool,
    window_since: datetime,
    reference: Summary,
    descriptors: Mapping[str, Descriptor],
    rules: DriftRules,
) -> PooledLook | None:
    """Looks at a pool that ends with the window from `window_since`; None where others answered some of its rows.

    Raises StoreUnavailable.
    """
    now = reader.by_value(app, window_since, pool.until, "release")
    after = _answered_by(now, reader.by_value(app, pool.since, pool.until, "release"))
    if after is None:
        return None
    between = None
    if pool.between is not None:
        between = _answered_by(now, reader.by_value(app, *pool.between, "release"))
    before = reference if between is None else Summary.merged([reference, between])
    drift = examine_together(app, before, after, descriptors, rules, rules.pooled_alpha(pool.number, pool.pins))
    return PooledLook(pool, drift, tuple(sorted(now)))


def examine_together(
    app: str,
    before: Summary,
    after: Summary,
    descriptors: Mapping[str, Descriptor],
    rules: DriftRules,
    alpha: float,
) -> SliceDrift:
    """The family of tests of a pool: every descriptor but harmful flags."""
    chosen = {name: descriptor for name, descriptor in descriptors.items() if not descriptor.harmful}
    return examine_slice({"app": app}, before, after, chosen, rules, alpha)


def pooled_alarms(app: str, look: PooledLook | None, known: Collection[str]) -> list[Alarm]:
    """One alarm for each drifted descriptor, the most certain first. known: those that the window alone has shown."""
    if look is None:
        return []
    slices = ({"app": app}, {"release": look.releases[0]}) if len(look.releases) == 1 else ({"app": app},)
    where = f"{app} since {look.pool.since.isoformat()}, windows taken together,"
    drifted = sorted(look.drift.drifted.items(), key=lambda item: item[1].p_adjusted)
    return [alarm_of(look.drift, name, where, slices, severity="medium") for name, _ in drifted if name not in known]


@dataclass
class SincePin:
    """The windows since a pin, one after the other: for replays of a past, in which one release answered."""

    _windows: list[Summary] = field(default_factory=list)
    _rejected: int = 0

    def add(self, window: Summary) -> tuple[int, Summary, Summary] | None:
        """What is to be looked at with this window: its number, the pool, and the rows between the reference and it.

        None when the window is alone.
        """
        self._windows.append(window)
        number = len(self._windows)
        start = max(number - POOLED, self._rejected)
        if start >= number - 1:
            return None
        first = start if self._rejected else max(start - MOST_BETWEEN, 0)
        return number, Summary.merged(self._windows[start:]), Summary.merged(self._windows[first:start])

    def reject(self) -> None:
        """The last window alarmed, by itself."""
        self._rejected = len(self._windows)


def _answered_by(now: Mapping[str, Summary], by_release: Mapping[str, Summary]) -> Summary | None:
    """All rows, where no other release than those of now answered any."""
    return Summary.merged(by_release.values()) if by_release.keys() <= now.keys() else None


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
    variants = []
    whole = reader.by_value(app, since, until, ARM)
    for kind, arm in _ARM_OF.items():
        challenger = whole.get(arm)
        if challenger is None or challenger.rows < minimum_rows or challenger.first_at is None:
            continue
        start = max(since, datetime.fromtimestamp(challenger.first_at, UTC))
        last = datetime.fromtimestamp(challenger.last_at or challenger.first_at, UTC)
        end = min(until, last + _A_MOMENT)
        both = reader.by_value(app, start, end, ARM)
        champion = both.get(CHAMPION_ARM, Summary())
        if champion.rows >= minimum_rows:
            names = (_release(reader, app, start, end, CHAMPION_ARM), _release(reader, app, start, end, arm))
            variants.append(Variants(kind, *names, start, end, champion, both.get(arm, challenger)))
    return variants


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
        for name, each in drift.drifted.items()
        if alike and (chosen[name].harmful or (chosen[name].unit == "ms" and each.result.direction > 0))
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
