"""What the detectors remember between runs, and the alarms they raised: three tables in the log's database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from monitoring.decide.detectors import Crossing, DetectorState
from monitoring.store.database import make_tables, reading, translated, upsert, writing

Key = tuple[str, str, str]
"""Dimension, value, descriptor. The whole app has the dimension `app` and an empty value."""

_metadata = sa.MetaData()

# One row for each month that a detector lived in: the newest is its state, the others show how it stood at their ends.
detector_states = sa.Table(
    "detector_states",
    _metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("dimension", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(512), primary_key=True),
    sa.Column("descriptor", sa.String(255), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("state", sa.JSON, nullable=False),
)

# How far an app's detectors have counted. revision: grows with each advance, so that of two monitors one counts.
detector_progress = sa.Table(
    "detector_progress",
    _metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
)

detector_alarms = sa.Table(
    "detector_alarms",
    _metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("dimension", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(512), primary_key=True),
    sa.Column("descriptor", sa.String(255), primary_key=True),
    sa.Column("at", sa.Float, primary_key=True),
    sa.Column("crossing", sa.JSON, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an app's detectors have counted, together.

    reference: what they count against. counted_until: seconds since the epoch. places: slices (dimension, value) in the
    month's order of appearance. releases: seen since the reference was pinned. revision: 0 before the first save.
    """

    reference: str
    counted_until: float
    month: str = ""
    places: tuple[tuple[str, str], ...] = ()
    releases: tuple[str, ...] = ()
    states: Mapping[Key, DetectorState] = field(default_factory=dict)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class FoundCrossing:
    """An alarm of one detector."""

    key: Key
    crossing: Crossing


class DetectorStore:
    """Keeps the detectors of all apps. Raises StoreUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        with translated("open"), writing(engine) as connection:
            make_tables(connection, _metadata)

    def load(self, app: str) -> Progress | None:
        """Where the app's detectors stand; None before their first advance."""
        with reading(self._engine) as connection:
            chosen = sa.select(detector_progress).where(detector_progress.c.app == app)
            row = connection.execute(chosen).one_or_none()
            if row is None:
                return None
            query = sa.select(detector_states).where(detector_states.c.app == app).order_by(detector_states.c.month)
            states: dict[Key, DetectorState] = {}
            for stored in connection.execute(query):
                state = DetectorState.from_json(stored.state)
                if state.reference == row.progress["reference"]:
                    states[stored.dimension, stored.value, stored.descriptor] = state
        kept = row.progress
        return Progress(
            kept["reference"],
            kept["counted_until"],
            kept["month"],
            places=tuple((dimension, value) for dimension, value in kept["places"]),
            releases=tuple(kept["releases"]),
            states=states,
            revision=row.revision,
        )

    def counted_until(self, app: str) -> float | None:
        """Up to when the app's rows are counted; None before the first advance."""
        query = sa.select(detector_progress.c.progress).where(detector_progress.c.app == app)
        with reading(self._engine) as connection:
            found = connection.execute(query).scalar()
        return None if found is None else float(found["counted_until"])

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

    def save(self, app: str, progress: Progress, found: Sequence[FoundCrossing]) -> bool:
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
                {"app": app, **_columns(key), "month": state.month, "state": state.to_json()}
                for key, state in progress.states.items()
            ]
            upsert(connection, detector_states, states, ["state"])
            alarms = [
                {"app": app, **_columns(each.key), "at": each.crossing.at, "crossing": asdict(each.crossing)}
                for each in found
            ]
            upsert(connection, detector_alarms, alarms, ["crossing"])
        return True

    def alarms(self, app: str, since: datetime, until: datetime) -> list[FoundCrossing]:
        """Alarms raised with since < at <= until, the oldest first: a micro-batch that ends at `until` is in it."""
        table = detector_alarms
        inside = (table.c.app == app, table.c.at > since.timestamp(), table.c.at <= until.timestamp())
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(table).where(*inside).order_by(table.c.at, table.c.descriptor)).all()
        return [FoundCrossing((row.dimension, row.value, row.descriptor), Crossing(**row.crossing)) for row in rows]

    def forget(self, dimension: str, value: str) -> int:
        """Deletes every state and alarm of a slice, such as a user's; returns the rows deleted."""
        deleted = 0
        with translated("write"), writing(self._engine) as connection:
            for table in (detector_states, detector_alarms):
                chosen = (table.c.dimension == dimension, table.c.value == value)
                deleted += connection.execute(sa.delete(table).where(*chosen)).rowcount
            for row in connection.execute(sa.select(detector_progress)).all():
                kept = [place for place in row.progress["places"] if place != [dimension, value]]
                if len(kept) < len(row.progress["places"]):
                    changed = {"progress": {**row.progress, "places": kept}, "revision": row.revision + 1}
                    mine = detector_progress.c.app == row.app
                    connection.execute(sa.update(detector_progress).where(mine).values(**changed))
                    deleted += 1
        return deleted


def at_moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _columns(key: Key) -> dict[str, str]:
    return dict(zip(("dimension", "value", "descriptor"), key, strict=True))
