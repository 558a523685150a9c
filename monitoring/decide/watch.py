"""Advances an app's detectors over the rows that came since: the whole app first, then each slice as it appears."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from monitoring.decide.alarms import Alarm, EvidenceQuery, PendingAlarm
from monitoring.decide.detector_store import DetectorStore, FoundCrossing, Key, Progress, at_moment
from monitoring.decide.detectors import DAY, Batch, Crossing, DetectorState, FlagDetector
from monitoring.decide.pinned_summaries import PinnedSummaries, comparable
from monitoring.decide.references import PinnedReference
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.hourly import APP
from monitoring.store.summaries import OTHER, FlagSummary, Summary
from monitoring.store.windows import WindowReader

RELEASE = "release"
STILL_ARRIVING = timedelta(minutes=2)
"""Requests younger than this may still be under way, and are logged under the time when they came. Detectors count
every moment once, so they wait for it."""
MOST_PLACES = 50
"""Slices watched in a month; the part of the budget of later ones would be too small to find anything."""


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What the detectors of one app are asked to watch.

    reference_id: names the reference; another one opens all detectors anew. begin: from when on rows count against it,
    such as the end of its window. dimensions: slices that are watched beside the whole app.
    """

    app: str
    reference: PinnedSummaries
    reference_id: str
    begin: datetime
    descriptors: Mapping[str, Descriptor]
    rules: DriftRules
    dimensions: Sequence[str] = (RELEASE,)

    @property
    def flags(self) -> list[str]:
        """Harmful flags that mean the same in the reference, with enough rows there; chosen by the reference alone."""
        whole = self.reference.whole
        return [
            name
            for name, descriptor in self.descriptors.items()
            if descriptor.harmful
            and name in whole.flags
            and whole.flags[name].n >= self.rules.minimum_rows
            and whole.versions.get(name, "") == descriptor.version
        ]

    def flag_in_reference(self, dimension: str, value: str, name: str) -> FlagSummary | None:
        """What a slice's flag is compared with; None where the reference does not have it."""
        summary = self.reference.whole if dimension == APP else self.reference.slice(dimension, value)
        return summary.flags.get(name) if summary is not None else None


@dataclass(frozen=True, slots=True)
class FlagFinding:
    """One flag of the whole app or of a slice, and the alarms its detector raised in the window asked for.

    label: `{"app": …}` or `{"release": …}`. reference_share: None where the reference has no rows of it.
    """

    descriptor: Descriptor
    label: Mapping[str, str]
    reference_share: float | None
    crossings: tuple[Crossing, ...]

    @property
    def alarm(self) -> bool:
        return bool(self.crossings)

    @property
    def why(self) -> str:
        """The newest alarm in a sentence; empty without one."""
        if not self.crossings:
            return ""
        last = self.crossings[-1]
        where = next(iter(self.label.values()))
        return (
            f"{self.descriptor.name} rose from {last.earlier_share:.1%} to {last.share:.1%} in {where} since "
            f"{at_moment(last.since).isoformat()} ({last.hits} of {last.rows} rows against {last.earlier_hits} of "
            f"{last.earlier_rows}; sequential fisher-exact-greater, p {last.p_value:.2g} ≤ {last.spent:.2g})"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "slice": dict(self.label),
            "descriptor": self.descriptor.name,
            "reference_share": self.reference_share,
            "alarms": [crossing.to_json() for crossing in self.crossings],
            "why": self.why,
        }


def detector_spec(
    pinned: PinnedReference, reference: PinnedSummaries, descriptors: Mapping[str, Descriptor], rules: DriftRules
) -> DetectorSpec:
    """What the detectors of an app watch. reference: what `pinned` was like; descriptors that mean something else there
    are left out."""
    fitting, _ = comparable(descriptors, reference.whole)
    return DetectorSpec(pinned.app, reference, str(pinned.id), pinned.counts_from, fitting, rules)


def watch_flags(
    store: DetectorStore,
    reader: WindowReader,
    pinned: PinnedReference,
    reference: PinnedSummaries,
    descriptors: Mapping[str, Descriptor],
    rules: DriftRules,
    since: datetime,
    until: datetime,
) -> list[FlagFinding]:
    """Takes the detectors over the rows up to `until`, and says what they found from `since` on.

    Another monitor that is at it at the same moment does it for both. Arguments as `detector_spec`.
    Raises StoreUnavailable.
    """
    spec = detector_spec(pinned, reference, descriptors, rules)
    advance_detectors(store, reader, spec, min(until, datetime.now(UTC) - STILL_ARRIVING))
    return findings(store, spec, since, until)


def advance_detectors(store: DetectorStore, reader: WindowReader, spec: DetectorSpec, until: datetime) -> bool:
    """Counts the rows before `until` that were not counted yet. Raises StoreUnavailable.

    Rows that arrive later with an earlier time are not counted by the detectors (the tests of windows see them): leave
    the newest moments out, for as long as requests take. False when another monitor advanced the app meanwhile.
    """
    before = store.load(spec.app)
    advance = _Advance(spec, before)
    since, end = advance.counted_until, until.timestamp()
    while since < end:  # cut at the ends of days: each day has a start of its own
        next_day = min(end, (since // DAY + 1) * DAY)
        between = at_moment(since), at_moment(next_day)
        slices = {dimension: reader.summary(spec.app, *between, dimension) for dimension in spec.dimensions}
        whole = reader.summary(spec.app, *between).get(None, Summary())
        advance.count(since, next_day, whole, slices)
        since = next_day
    return store.save(spec.app, advance.progress(), advance.found)


def findings(store: DetectorStore, spec: DetectorSpec, since: datetime, until: datetime) -> list[FlagFinding]:
    """Every watched flag of the whole app, and the slices that alarmed, in a window. Raises StoreUnavailable."""
    found: dict[Key, list[Crossing]] = {(APP, "", name): [] for name in spec.flags}
    for each in store.alarms(spec.app, since, until):
        if each.key[2] in spec.descriptors:
            found.setdefault(each.key, []).append(each.crossing)
    named = []
    for (dimension, value, name), crossings in found.items():
        flag = spec.flag_in_reference(dimension, value, name)
        label = {APP: spec.app} if dimension == APP else {dimension: value}
        share = flag.share if flag is not None and flag.n else None
        named.append(FlagFinding(spec.descriptors[name], label, share, tuple(crossings)))
    return named


def sequential_alarms(found: Sequence[FlagFinding]) -> list[PendingAlarm]:
    """One alarm for each flag, whichever slices it rose in."""
    by_flag: dict[str, list[FlagFinding]] = {}
    for each in found:
        if each.alarm:
            by_flag.setdefault(each.descriptor.name, []).append(each)
    raised = []
    for name, hits in by_flag.items():
        plainest = min(hits, key=lambda each: each.crossings[-1].p_value)
        labels = tuple(dict(each.label) for each in hits)
        alarm = Alarm(name, plainest.why, (), plainest.descriptor.side, labels, "sequential")
        (dimension, value), *_ = plainest.label.items()
        place = None if dimension == APP else (dimension, value)
        raised.append(PendingAlarm(alarm, EvidenceQuery(name, "equal", 1.0, place), plainest.crossings[-1].p_value))
    return raised


class _Advance:
    """How the detectors stand while rows are counted. found: the alarms on the way."""

    def __init__(self, spec: DetectorSpec, before: Progress | None) -> None:
        self._spec, self._flags = spec, spec.flags
        if before is None:
            before = Progress(spec.reference_id, spec.begin.timestamp())
        elif before.reference != spec.reference_id:
            before = _reopened(spec, before)
        self._before, self.counted_until, self._month = before, before.counted_until, before.month
        self._states, self._places, self._releases = dict(before.states), list(before.places), list(before.releases)
        self.found: list[FoundCrossing] = []

    def progress(self) -> Progress:
        return dataclasses.replace(
            self._before,
            counted_until=self.counted_until,
            month=self._month,
            places=tuple(self._places),
            releases=tuple(self._releases),
            states=self._states,
        )

    def count(
        self, since: float, until: float, whole: Summary, slices: Mapping[str, Mapping[str | None, Summary]]
    ) -> None:
        """Rows of one span of time, within one day."""
        month = at_moment(since).strftime("%Y-%m")
        if month != self._month:
            self._month, self._places = month, []
        named = {
            dimension: {str(name): each for name, each in by_value.items() if name not in (None, "", OTHER)}
            for dimension, by_value in slices.items()
        }
        # A release that appears gives the app a start; those that answer first after the pin have its start for theirs.
        answered = {name for name, summary in named.get(RELEASE, {}).items() if summary.rows}
        fresh = sorted(answered - set(self._releases))
        begins = bool(fresh and self._releases)
        self._releases += fresh
        self._count_slice(APP, "", 0, whole, (since, until), begins=begins)
        for dimension, by_value in named.items():
            for value, summary in sorted(by_value.items()):
                if summary.rows and self._spec.reference.slice(dimension, value) is not None:
                    if (dimension, value) not in self._places:
                        self._places.append((dimension, value))
                    place = self._places.index((dimension, value)) + 1
                    if place <= MOST_PLACES:
                        self._count_slice(dimension, value, place, summary, (since, until))
        self.counted_until = until

    def _count_slice(
        self,
        dimension: str,
        value: str,
        place: int,
        summary: Summary,
        span: tuple[float, float],
        *,
        begins: bool = False,
    ) -> None:
        """place: of the slice in the order of appearance, 0 for the whole app. begins: a new release appears."""
        rules, sliced = self._spec.rules, bool(self._spec.dimensions)
        for name in self._flags:
            flag = self._spec.flag_in_reference(dimension, value, name)
            if flag is None or flag.n < rules.minimum_rows:
                continue
            alpha = rules.flag_alpha(name, self._flags, place, sliced=sliced)
            detector = FlagDetector(flag, alpha, rules.floor(self._spec.descriptors[name]))
            key = (dimension, value, name)
            state = self._states.get(key) or detector.open(span[0], self._spec.reference_id)
            state = detector.begin(state, span[0]) if begins else state
            seen = summary.flags.get(name, FlagSummary())
            self._states[key], crossings = detector.advance(state, [Batch(*span, seen.n, seen.hits)])
            self.found += [FoundCrossing(key, crossing) for crossing in crossings]


def _reopened(spec: DetectorSpec, before: Progress) -> Progress:
    """All detectors opened anew against another reference, on what is left of the month's budget."""
    begin = max(spec.begin.timestamp(), before.counted_until)
    states: dict[Key, DetectorState] = {}
    for key, state in before.states.items():
        flag = spec.flag_in_reference(*key)
        if flag is not None:
            states[key] = FlagDetector(flag, 0.0, 0.0).open(begin, spec.reference_id, state)
    return dataclasses.replace(before, reference=spec.reference_id, counted_until=begin, releases=(), states=states)
