"""Advances an app's detectors over the rows that came since: the whole app first, then each slice as it appears."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from monitoring.decide.alarms import Alarm, Raised, hits_of
from monitoring.decide.detector_store import DetectorStore, FoundCrossing, Key, Progress, at_moment
from monitoring.decide.detectors import DAY, Batch, Crossing, DetectorState, FlagDetector
from monitoring.decide.pinned_summaries import PinnedSummaries, comparable
from monitoring.decide.references import PinnedReference
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import OTHER, Summary
from monitoring.store.windows import WindowReader

APP = "app"
RELEASE = "release"
STILL_ARRIVING = timedelta(minutes=2)
"""Requests younger than this may still be under way, and are logged under the time when they came. Detectors count
every moment once, so they wait for it."""
MOST_PLACES = 50
"""Slices watched in a month; the part of the budget of later ones would be too small to find anything."""


@dataclass(frozen=True, slots=True)
class Watched:
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


def watched_of(
    pinned: PinnedReference, reference: PinnedSummaries, descriptors: Mapping[str, Descriptor], rules: DriftRules
) -> Watched:
    """What the detectors of an app watch. reference: what `pinned` was like; descriptors that mean something else there
    are left out."""
    fitting, _ = comparable(descriptors, reference.whole)
    return Watched(pinned.app, reference, str(pinned.id), pinned.counts_from, fitting, rules)


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

    Another monitor that is at it at the same moment does it for both. Arguments as `watched_of`.
    Raises StoreUnavailable.
    """
    watched = watched_of(pinned, reference, descriptors, rules)
    advance_detectors(store, reader, watched, min(until, datetime.now(UTC) - STILL_ARRIVING))
    return findings(store, watched, since, until)


def advance_detectors(store: DetectorStore, reader: WindowReader, watched: Watched, until: datetime) -> bool:
    """Counts the rows before `until` that were not counted yet. Raises StoreUnavailable.

    Rows that arrive later with an earlier time are not counted by the detectors (the tests of windows see them): leave
    the newest moments out, for as long as requests take. False when another monitor advanced the app meanwhile.
    """
    before = store.load(watched.app)
    advance = _Advance(watched, _opened(watched, before))
    for since, end in _spans(advance.progress.counted_until, until.timestamp()):
        between = at_moment(since), at_moment(end)
        slices = {dimension: reader.summary(watched.app, *between, dimension) for dimension in watched.dimensions}
        advance.count(since, end, reader.summary(watched.app, *between).get(None, Summary()), slices)
    return store.save(watched.app, advance.progress, advance.found)


def findings(store: DetectorStore, watched: Watched, since: datetime, until: datetime) -> list[FlagFinding]:
    """Every watched flag of the whole app, and the slices that alarmed, in a window. Raises StoreUnavailable."""
    found: dict[Key, list[Crossing]] = {(APP, "", name): [] for name in watched.flags}
    for each in store.alarms(watched.app, since, until):
        if each.key[2] in watched.descriptors:
            found.setdefault(each.key, []).append(each.crossing)
    return [_finding(watched, key, crossings) for key, crossings in found.items()]


def _finding(watched: Watched, key: Key, crossings: Sequence[Crossing]) -> FlagFinding:
    dimension, value, name = key
    before = watched.reference.whole if dimension == APP else watched.reference.slice(dimension, value)
    flag = before.flags.get(name) if before is not None else None
    share = flag.share if flag is not None and flag.n else None
    label = {APP: watched.app} if dimension == APP else {dimension: value}
    return FlagFinding(watched.descriptors[name], label, share, tuple(crossings))


def sequential_alarms(found: Sequence[FlagFinding]) -> list[Raised]:
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
        raised.append(Raised(alarm, hits_of(plainest.descriptor, place), plainest.crossings[-1].p_value))
    return raised


class _Advance:
    """progress: where the detectors stand; found: the alarms on the way."""

    def __init__(self, watched: Watched, progress: Progress) -> None:
        self._watched, self._flags = watched, watched.flags
        self._states = dict(progress.states)
        self._progress = progress
        self.found: list[FoundCrossing] = []

    @property
    def progress(self) -> Progress:
        return dataclasses.replace(self._progress, states=self._states)

    def count(
        self, since: float, until: float, whole: Summary, slices: Mapping[str, Mapping[str | None, Summary]]
    ) -> None:
        """Rows of one span of time, within one day."""
        month = at_moment(since).strftime("%Y-%m")
        if month != self._progress.month:
            self._progress = dataclasses.replace(self._progress, month=month, places=())
        fresh = self._new_release(slices.get(RELEASE, {}))
        self._count_place(APP, "", self._watched.reference.whole, 0, whole, since, until, fresh)
        for dimension, by_value in slices.items():
            for value, summary in sorted((str(name), each) for name, each in by_value.items() if name is not None):
                reference = self._watched.reference.slice(dimension, value)
                if value not in ("", OTHER) and summary.rows and reference is not None:
                    place = self._place(dimension, value)
                    if place <= MOST_PLACES:
                        self._count_place(dimension, value, reference, place, summary, since, until, False)
        self._progress = dataclasses.replace(self._progress, counted_until=until)

    def _count_place(
        self, dimension: str, value: str, reference: Summary, place: int, summary: Summary,
        since: float, until: float, fresh: bool,
    ) -> None:  # fmt: skip
        rules, sliced = self._watched.rules, bool(self._watched.dimensions)
        for name in self._flags:
            flag = reference.flags.get(name)
            if flag is None or flag.n < rules.minimum_rows:
                continue
            floor = rules.floor(self._watched.descriptors[name])
            detector = FlagDetector(flag, rules.flag_alpha(name, self._flags, place, sliced=sliced), floor)
            key = (dimension, value, name)
            state = self._states.get(key) or detector.open(since, self._watched.reference_id)
            state = detector.begin(state, since) if fresh else state
            seen = summary.flags.get(name)
            batch = Batch(since, until, seen.n if seen else 0, seen.hits if seen else 0)
            self._states[key], crossings = detector.advance(state, [batch])
            self.found += [FoundCrossing(key, crossing) for crossing in crossings]

    def _place(self, dimension: str, value: str) -> int:
        places = self._progress.places
        if (dimension, value) not in places:
            places = (*places, (dimension, value))
            self._progress = dataclasses.replace(self._progress, places=places)
        return places.index((dimension, value)) + 1

    def _new_release(self, by_release: Mapping[str | None, Summary]) -> bool:
        """Whether a release appears; those that answer first after the pin have its start for theirs."""
        known = self._progress.releases
        names = {str(name) for name, summary in by_release.items() if name not in (None, "", OTHER) and summary.rows}
        fresh = sorted(names - set(known))
        if fresh:
            self._progress = dataclasses.replace(self._progress, releases=(*known, *fresh))
        return bool(fresh and known)


def _opened(watched: Watched, before: Progress | None) -> Progress:
    """Where to go on; with a new reference, all detectors opened anew on what is left of the month's budget."""
    if before is not None and before.reference == watched.reference_id:
        return before
    begin = watched.begin.timestamp()
    if before is None:
        return Progress(watched.reference_id, begin)
    begin = max(begin, before.counted_until)
    states: dict[Key, DetectorState] = {}
    for key, state in before.states.items():
        dimension, value, name = key
        reference = watched.reference.whole if dimension == APP else watched.reference.slice(dimension, value)
        flag = reference.flags.get(name) if reference is not None else None
        if flag is not None:
            states[key] = FlagDetector(flag, 0.0, 0.0).open(begin, watched.reference_id, state)
    return dataclasses.replace(before, reference=watched.reference_id, counted_until=begin, releases=(), states=states)


def _spans(since: float, until: float) -> Iterator[tuple[float, float]]:
    """The time between, cut at the ends of days: each day has a start of its own."""
    while since < until:
        end = min(until, (since // DAY + 1) * DAY)
        yield since, end
        since = end
