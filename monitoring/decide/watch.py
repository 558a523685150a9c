"""Advances an app's detectors over the rows that came since: the whole app first, then each release as it appears.

What they remember between runs, and the alarms they raised, stand in three tables of the log's database.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.production_log import make_tables
from monitoring.decide.alarms import Alarm, EvidenceQuery
from monitoring.decide.detectors import DAY, Crossing, DetectorState, FlagBatch, FlagDetector
from monitoring.decide.pinned_summaries import PinnedSummaries, comparable
from monitoring.decide.references import PinnedReference
from monitoring.decide.rules import DriftRules
from monitoring.descriptors import Descriptor
from monitoring.store.database import reading, translated, upsert, writing
from monitoring.store.hourly import APP
from monitoring.store.summaries import OTHER, FlagSummary, Summary
from monitoring.store.windows import WindowReader

RELEASE = "release"
STILL_ARRIVING = timedelta(minutes=2)
"""Requests younger than this may still be under way, and are logged under the time when they came. Detectors count
every moment once, so they wait for it."""
MOST_PLACES = 50
"""Releases watched in a month; the part of the budget of later ones would be too small to find anything."""

Key = tuple[str, str, str]
"""Dimension, value, descriptor. The whole app has the dimension `app` and an empty value."""

metadata = sa.MetaData()
_KEY = ("dimension", "value", "descriptor")


def _key_columns() -> Iterator[sa.Column[Any]]:
    for name, length in (("app", 255), ("dimension", 32), ("value", 512), ("descriptor", 255)):
        yield sa.Column(name, sa.String(length), primary_key=True)


# One row for each month that a detector lived in: the newest is its state, the others show how it stood at their ends.
detector_states = sa.Table(
    "detector_states",
    metadata,
    *_key_columns(),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("state", sa.JSON, nullable=False),
)

# How far an app's detectors have counted. revision: grows with each advance, so that of two monitors one counts.
detector_progress = sa.Table(
    "detector_progress",
    metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
)

detector_alarms = sa.Table(
    "detector_alarms",
    metadata,
    *_key_columns(),
    sa.Column("at", sa.Float, primary_key=True),
    sa.Column("crossing", sa.JSON, nullable=False),
)


@dataclass(slots=True)
class DetectorProgress:
    """How far an app's detectors have counted, together.

    reference: what they count against. counted_until: seconds since the epoch. places: slices (dimension, value) in the
    month's order of appearance. releases: seen since the reference was pinned. revision: 0 before the first save.
    """

    reference: str
    counted_until: float
    month: str = ""
    places: list[tuple[str, str]] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    states: dict[Key, DetectorState] = field(default_factory=dict)
    revision: int = 0


class DetectorStore:
    """Keeps the detectors of all apps. Raises StoreUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        with translated("open"), writing(engine) as connection:
            make_tables(connection, metadata)

    def load(self, app: str) -> DetectorProgress | None:
        """Where the app's detectors stand; None before their first advance."""
        with reading(self._engine) as connection:
            chosen = sa.select(detector_progress).where(detector_progress.c.app == app)
            row = connection.execute(chosen).one_or_none()
            if row is None:
                return None
            query = sa.select(detector_states).where(detector_states.c.app == app).order_by(detector_states.c.month)
            progress = DetectorProgress(**row.progress, revision=row.revision)
            progress.places = [(dimension, value) for dimension, value in progress.places]
            for stored in connection.execute(query):
                state = DetectorState.from_json(stored.state)
                if state.reference == progress.reference:
                    progress.states[stored.dimension, stored.value, stored.descriptor] = state
        return progress

    def counted_until(self, app: str) -> float | None:
        """Up to when the app's rows are counted; None before the first advance."""
        query = sa.select(detector_progress.c.progress).where(detector_progress.c.app == app)
        with reading(self._engine) as connection:
            progress = connection.execute(query).scalar()
        return None if progress is None else float(progress["counted_until"])

    def restart(self, app: str, at: datetime) -> None:
        """Forgets how the app's detectors stand: they begin anew with the rows from `at` on."""
        with translated("write"), writing(self._engine) as connection:
            connection.execute(sa.delete(detector_states).where(detector_states.c.app == app))
            mine = detector_progress.c.app == app
            row = connection.execute(sa.select(detector_progress).where(mine)).one_or_none()
            if row is not None:
                anew = {**row.progress, "counted_until": at.timestamp(), "month": "", "places": [], "releases": []}
                kept = sa.update(detector_progress).where(mine)
                connection.execute(kept.values(progress=anew, revision=row.revision + 1))

    def save(self, app: str, progress: DetectorProgress, crossings: Sequence[tuple[Key, Crossing]]) -> bool:
        """Keeps an advance of what `load` gave, and the alarms in it, in one transaction.

        False when another monitor advanced the app meanwhile: nothing is kept then, and its advance stands.
        """
        names = ("reference", "counted_until", "month", "places", "releases")
        stored = {name: getattr(progress, name) for name in names}
        mine, table = detector_progress.c.app == app, detector_progress
        with translated("write"), writing(self._engine) as connection:
            if progress.revision:
                kept = sa.update(table).where(mine, table.c.revision == progress.revision)
                changed = connection.execute(kept.values(revision=progress.revision + 1, progress=stored))
                if changed.rowcount != 1:
                    return False
            elif connection.execute(sa.select(table.c.app).where(mine)).one_or_none() is not None:
                return False
            else:
                connection.execute(sa.insert(table).values(app=app, revision=1, progress=stored))
            states = [
                {"app": app, **dict(zip(_KEY, key, strict=True)), "month": state.month, "state": state.to_json()}
                for key, state in progress.states.items()
            ]
            upsert(connection, detector_states, states, ["state"])
            alarms = [
                {
                    "app": app,
                    **dict(zip(_KEY, key, strict=True)),
                    "at": crossing.at,
                    "crossing": dataclasses.asdict(crossing),
                }
                for key, crossing in crossings
            ]
            upsert(connection, detector_alarms, alarms, ["crossing"])
        return True

    def alarms(self, app: str, since: datetime, until: datetime) -> dict[Key, list[Crossing]]:
        """Alarms raised with since < at <= until, each detector's oldest first: a micro-batch that ends at `until` is
        in it."""
        table = detector_alarms
        inside = (table.c.app == app, table.c.at > since.timestamp(), table.c.at <= until.timestamp())
        crossings: dict[Key, list[Crossing]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(sa.select(table).where(*inside).order_by(table.c.at, table.c.descriptor)):
                crossing = Crossing(**row.crossing)
                crossings.setdefault((row.dimension, row.value, row.descriptor), []).append(crossing)
        return crossings


def at_moment(seconds: float) -> datetime:
    """The time in UTC. seconds: since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What the detectors of one app are asked to watch.

    reference: all of its rows; releases are compared with them, too. reference_id: names it; another one opens all
    detectors anew. begin: from when on rows count against it, such as the end of its window.
    """

    app: str
    reference: Summary
    reference_id: str
    begin: datetime
    descriptors: Mapping[str, Descriptor]
    rules: DriftRules

    @property
    def flags(self) -> list[str]:
        """Harmful flags that mean the same in the reference, with enough rows there; chosen by the reference alone."""
        return [
            name
            for name, descriptor in self.descriptors.items()
            if descriptor.harmful
            and name in self.reference.flags
            and self.reference.flags[name].n >= self.rules.minimum_rows
            and self.reference.versions.get(name, "") == descriptor.version
        ]

    def detector(self, name: str, place: int = 0, *, sliced: bool = True) -> FlagDetector:
        """The detector of one flag. place, sliced: see `DriftRules.flag_alpha`."""
        alpha = self.rules.flag_alpha(name, self.flags, place, sliced=sliced)
        return FlagDetector(self.reference.flags[name], alpha, self.rules.floor(self.descriptors[name]))


@dataclass(frozen=True, slots=True)
class FlagFinding:
    """One flag of the whole app or of a release, and the alarms its detector raised in the window asked for.

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
    return DetectorSpec(pinned.app, reference.whole, str(pinned.id), pinned.counts_from, fitting, rules)


def advance_detectors(store: DetectorStore, reader: WindowReader, spec: DetectorSpec, until: datetime) -> bool:
    """Counts the rows before `until` that were not counted yet. Raises StoreUnavailable.

    Rows that arrive later with an earlier time are not counted by the detectors (the tests of windows see them): leave
    the newest moments out, for as long as requests take. False when another monitor advanced the app meanwhile.
    """
    progress = store.load(spec.app) or DetectorProgress(spec.reference_id, spec.begin.timestamp())
    if progress.reference != spec.reference_id:
        # All detectors are opened anew against another reference, on what is left of the month's budget.
        begin, flags = max(spec.begin.timestamp(), progress.counted_until), spec.reference.flags
        states = {
            key: FlagDetector(flags[key[2]], 0.0, 0.0).open(begin, spec.reference_id, state)
            for key, state in progress.states.items()
            if key[2] in flags
        }
        progress = dataclasses.replace(
            progress, reference=spec.reference_id, counted_until=begin, releases=[], states=states
        )
    crossings: list[tuple[Key, Crossing]] = []
    since, end = progress.counted_until, until.timestamp()
    while since < end:  # cut at the ends of days: each day has a start of its own
        next_day = min(end, (since // DAY + 1) * DAY)
        between = at_moment(since), at_moment(next_day)
        releases = reader.by_value(spec.app, *between, RELEASE)
        whole = reader.whole(spec.app, *between)
        crossings += _count(spec, progress, (since, next_day), whole, releases)
        since = next_day
    return store.save(spec.app, progress, crossings)


def _count(
    spec: DetectorSpec,
    progress: DetectorProgress,
    span: tuple[float, float],
    whole: Summary,
    releases: Mapping[str, Summary],
) -> Iterator[tuple[Key, Crossing]]:
    """Takes the detectors over the rows of one span of time, within one day; the alarms on the way."""
    month = at_moment(span[0]).strftime("%Y-%m")
    if month != progress.month:
        progress.month, progress.places = month, []
    answered = {name: part for name, part in releases.items() if name and name != OTHER and part.rows}
    # A release that appears gives the app a start; those that answer first after the pin have its start for theirs.
    fresh = sorted(answered.keys() - set(progress.releases))
    begins = bool(fresh and progress.releases)
    progress.releases += fresh
    progress.places += [(RELEASE, name) for name in sorted(answered) if (RELEASE, name) not in progress.places]
    watched = progress.places[:MOST_PLACES]
    places = [(0, (APP, ""), whole)]
    places += [(watched.index(each) + 1, each, answered[each[1]]) for each in watched if each[1] in answered]
    for place, slice_, summary in places:
        for name in spec.flags:
            detector, key = spec.detector(name, place), (*slice_, name)
            state = progress.states.get(key) or detector.open(span[0], spec.reference_id)
            if begins and place == 0:
                state = detector.begin(state, span[0])
            seen = summary.flags.get(name, FlagSummary())
            progress.states[key], crossings = detector.advance(state, [FlagBatch(*span, seen.n, seen.hits)])
            yield from ((key, crossing) for crossing in crossings)
    progress.counted_until = span[1]


def findings(store: DetectorStore, spec: DetectorSpec, since: datetime, until: datetime) -> list[FlagFinding]:
    """Every watched flag of the whole app, and the releases that alarmed, in a window. Raises StoreUnavailable."""
    crossings_of: dict[Key, list[Crossing]] = {(APP, "", name): [] for name in spec.flags}
    crossings_of |= store.alarms(spec.app, since, until)
    named = []
    for (dimension, value, name), crossings in crossings_of.items():
        if name in spec.descriptors:
            flag = spec.reference.flags.get(name)
            label = {APP: spec.app} if dimension == APP else {dimension: value}
            share = flag.share if flag is not None and flag.n else None
            named.append(FlagFinding(spec.descriptors[name], label, share, tuple(crossings)))
    return named


def sequential_alarms(findings: Sequence[FlagFinding]) -> list[Alarm]:
    """One alarm for each flag, whichever slices it rose in."""
    by_flag: dict[str, list[FlagFinding]] = {}
    for each in findings:
        if each.alarm:
            by_flag.setdefault(each.descriptor.name, []).append(each)
    raised = []
    for name, hits in by_flag.items():
        plainest = min(hits, key=lambda each: each.crossings[-1].p_value)
        labels = tuple(dict(each.label) for each in hits)
        evidence = EvidenceQuery.of_slice(name, "equal", 1.0, plainest.label)
        raised.append(Alarm(name, plainest.why, plainest.descriptor.side, labels, "sequential", evidence=evidence))
    return raised
