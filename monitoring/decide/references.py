"""What an app's windows are compared with: references, pinned for good, each with its frozen summaries.

A reference moves only when one is pinned: at a promotion, by hand, or, with none pinned, by the first run that is given
`since`. What it was like is stored when it is pinned, so that later rows, deleted texts or newly computed descriptors
change nothing of it. A reference that was pinned for a release counts while that release is the champion: a rollback
returns to the reference of the release that it returns to.

An accepted window is one whose run ended `ok`. After a promotion the reference is, as the setting `at_promotion` says,
the new champion's `first-window`, gathered as docs/monitoring.md describes; the last accepted `previous-window` of the
champion before; or what the `gate` saw, the champion's answers to the eval set. Only the output is compared with those,
since neither the questions nor the speed of an eval run are those of production.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from llmops.errors import UsageError
from llmops.production_log import make_tables
from monitoring.decide.pinned_summaries import PinnedSummaries
from monitoring.store.database import NUMBER, UtcTime, translated, writing_alone
from monitoring.store.summaries import Summary

# The tables of references and accepted windows, in the production log's database, beside the monitor's others.
#
# They hold no text and no request id: of requests only counts.

metadata = sa.MetaData()

# Every pinning is kept. frozen: whether its summaries are stored.
pinned_references = sa.Table(
    "pinned_references",
    metadata,
    sa.Column("id", NUMBER, primary_key=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("until", UtcTime, nullable=False),
    sa.Column("pinned_at", UtcTime, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("source", sa.String(32), nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("frozen", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)

# dimension, value: the slice; both empty for all rows, `stratum` for rows with like questions.
reference_summaries = sa.Table(
    "reference_summaries",
    metadata,
    sa.Column("reference", NUMBER, primary_key=True),
    sa.Column("dimension", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(255), primary_key=True),
    sa.Column("summary", sa.LargeBinary, nullable=False),
)

# Releases whose first accepted window shall become the reference; the newest of an app counts, until it is pinned.
awaited_references = sa.Table(
    "awaited_references",
    metadata,
    sa.Column("id", NUMBER, primary_key=True),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("release", sa.String(255), nullable=False),
    sa.Column("since", UtcTime, nullable=False),
    sqlite_autoincrement=True,
)

# Windows whose run ended `ok`. release: the one that answered all of it, or most of it.
accepted_windows = sa.Table(
    "accepted_windows",
    metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("until", UtcTime, primary_key=True),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("accepted_at", UtcTime, nullable=False),
)

# Windows whose run ended with an alarm: no reference is gathered from their rows.
rejected_windows = sa.Table(
    "rejected_windows",
    metadata,
    sa.Column("app", sa.String(255), primary_key=True),
    sa.Column("until", UtcTime, primary_key=True),
)

_BEFORE = "reference_windows"  # where references stood before they were frozen


def ensure_tables(engine: sa.Engine) -> None:
    """Makes these tables when absent, and takes over references of an older database. Raises StoreUnavailable."""
    with writing_alone(engine) as connection:
        make_tables(connection, metadata)
        if sa.inspect(connection).has_table(_BEFORE):
            names = ("app", "since", "until", "pinned_at", "why")
            old = sa.table(_BEFORE, sa.column("id"), *(sa.column(name) for name in names))
            kept = sa.select(*(old.c[name] for name in names), sa.literal("by-hand"), sa.false()).order_by(old.c.id)
            taken_over = sa.insert(pinned_references).from_select([*names, "source", "frozen"], kept)
            connection.execute(taken_over)
            connection.exec_driver_sql(f"DROP TABLE {_BEFORE}")


_FIVE_WEEKS = timedelta(days=35)
Source = Literal["gate", "first-window", "previous-window", "first-since", "by-hand"]


@dataclass(frozen=True, slots=True)
class PinnedReference:
    """A window, or with the source `gate` an eval run, that an app is compared with.

    release: whose rows alone it holds; None for all. frozen: whether its summaries are stored.
    """

    id: int
    app: str
    since: datetime
    until: datetime
    pinned_at: datetime
    why: str
    source: Source
    release: str | None
    frozen: bool

    @property
    def in_log(self) -> bool:
        """Whether it is a window of the production log."""
        return self.source != "gate"

    @property
    def counts_from(self) -> datetime:
        """From when on rows count against it: its end, or, of what an eval run gave, when it was pinned."""
        return self.until if self.in_log else self.pinned_at

    def became(self, since: datetime, until: datetime) -> bool:
        """Whether a window is this reference, or the last one that it was gathered from."""
        gathered = self.source == "first-window" and since < self.until <= until
        return gathered or (self.in_log and since <= self.since and self.until <= until)

    def to_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name).isoformat() for name in ("since", "until", "pinned_at")}
        return {**asdict(self), **times}


@dataclass(frozen=True, slots=True)
class Awaited:
    """A release whose first accepted window from `since` on becomes the reference."""

    release: str
    since: datetime


@dataclass(frozen=True, slots=True)
class AcceptedWindow:
    """A window whose run ended `ok`; release: the one that answered most of it."""

    since: datetime
    until: datetime
    release: str | None
    rows: int


class References:
    """References and accepted windows of one database. Every method raises StoreUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        ensure_tables(engine)
        self._engine = engine

    def pinned(
        self, app: str, champion: str | None = None, *, beside: tuple[datetime, datetime] | None = None
    ) -> PinnedReference | None:
        """The reference in force: the newest one that was pinned for the champion or for no release in particular;
        when there is none, or the champion is not known, the newest one.

        beside: a window to be compared with it. One that lies within that window, or was gathered up to it, is passed
        over for an older one: a window that became the reference is compared, when it is looked at again, with what it
        was compared with first.
        """
        references = self.all(app)
        fitting = [each for each in references if champion is None or each.release in (None, champion)] or references
        if beside is not None:
            fitting = [each for each in fitting if not each.became(*beside)] or fitting
        return next(iter(fitting), None)

    def pins_before(self, reference: PinnedReference) -> int:
        """References of the app that were pinned in the five weeks before it: what a month's first pools share."""
        earlier = reference.pinned_at - _FIVE_WEEKS
        return sum(each.id < reference.id and each.pinned_at > earlier for each in self.all(reference.app))

    def all(self, app: str | None = None) -> list[PinnedReference]:
        """Every reference of the app, or of all, the newest first."""
        query = sa.select(pinned_references).order_by(pinned_references.c.id.desc())
        rows = self._read(query if app is None else query.where(pinned_references.c.app == app))
        return [PinnedReference(**row._mapping) for row in rows]

    def pin(
        self,
        app: str,
        since: datetime,
        until: datetime,
        why: str,
        *,
        source: Source = "by-hand",
        release: str | None = None,
        frozen: PinnedSummaries | None = None,
    ) -> PinnedReference:
        """Makes it the app's reference from now on. frozen: None to store its summaries when it is first used.

        Raises UsageError when it ends before it starts.
        """
        if since >= until:
            raise UsageError(f"a reference window must end after it starts ({since.isoformat()})")
        pinned = PinnedReference(0, app, since, until, datetime.now(UTC), why, source, release, frozen is not None)
        values = {name: value for name, value in asdict(pinned).items() if name != "id"}
        with writing_alone(self._engine) as connection:
            insert = sa.insert(pinned_references).values(values).returning(pinned_references.c.id)
            pinned = replace(pinned, id=connection.execute(insert).scalar_one())
            if frozen is not None:
                _store(connection, pinned.id, frozen)
        return pinned

    def freeze(self, reference: PinnedReference, frozen: PinnedSummaries) -> None:
        """Stores what a reference is like, unless it is stored already."""
        table = pinned_references.c
        with writing_alone(self._engine) as connection:
            mine = sa.update(pinned_references).where(table.id == reference.id, table.frozen.is_(False))
            if connection.execute(mine.values(frozen=True)).rowcount == 1:
                _store(connection, reference.id, frozen)

    def frozen(self, reference: PinnedReference) -> PinnedSummaries | None:
        """What the reference was like when it was pinned; None when nothing is stored yet."""
        rows = self._read(sa.select(reference_summaries).where(reference_summaries.c.reference == reference.id))
        parts = {(row.dimension, row.value): Summary.from_bytes(row.summary) for row in rows}
        return PinnedSummaries(parts) if parts else None

    def await_first_window(self, app: str, release: str, since: datetime) -> None:
        """From now on, the release's first accepted window from `since` on becomes the reference."""
        with writing_alone(self._engine) as connection:
            connection.execute(sa.insert(awaited_references).values(app=app, release=release, since=since))

    def awaited(self, app: str, champion: str | None = None) -> Awaited | None:
        """The release whose first window is awaited: none once a later reference is pinned, or once another release
        is the champion."""
        table = awaited_references.c
        query = sa.select(table.release, table.since).where(table.app == app).order_by(table.id.desc()).limit(1)
        awaited = next((Awaited(**row._mapping) for row in self._read(query)), None)
        if awaited is None or (champion is not None and awaited.release != champion):
            return None
        newest = next(iter(self.all(app)), None)
        return None if newest is not None and newest.pinned_at > awaited.since else awaited

    def accept(self, app: str, window: AcceptedWindow) -> None:
        """Remembers that a window's run ended `ok`; again for a window that ends at the same time, the newer counts."""
        self._settle(accepted_windows, app, **asdict(window), accepted_at=datetime.now(UTC))

    def reject(self, app: str, until: datetime) -> None:
        """Remembers that the run of the window that ends then alarmed; if it was accepted before, it is no more."""
        self._settle(rejected_windows, app, until=until)

    def last_rejected(self, app: str, since: datetime, until: datetime) -> datetime | None:
        """The end of the last window that alarmed and ended after `since`, at `until` at the latest."""
        table = rejected_windows.c
        query = sa.select(table.until).where(table.app == app, table.until > since, table.until <= until)
        return next((row.until for row in self._read(query.order_by(table.until.desc()).limit(1))), None)

    def last_accepted(self, app: str, release: str | None = None) -> AcceptedWindow | None:
        """The accepted window that ends last, of the release when one is named."""
        table = accepted_windows.c
        query = sa.select(table.since, table.until, table.release, table.rows).where(table.app == app)
        if release is not None:
            query = query.where(table.release == release)
        newest = self._read(query.order_by(table.until.desc()).limit(1))
        return next((AcceptedWindow(**row._mapping) for row in newest), None)

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with translated("read"), self._engine.connect() as connection:
            return connection.execute(query).all()

    def _settle(self, table: sa.Table, app: str, **values: Any) -> None:
        with writing_alone(self._engine) as connection:
            for other in (accepted_windows, rejected_windows):
                same = (other.c.app == app, other.c.until == values["until"])
                connection.execute(sa.delete(other).where(*same))
            connection.execute(sa.insert(table).values(app=app, **values))


def _store(connection: sa.Connection, number: int, frozen: PinnedSummaries) -> None:
    rows = [
        {"reference": number, "dimension": dimension, "value": value, "summary": summary.to_bytes()}
        for (dimension, value), summary in frozen.parts.items()
    ]
    connection.execute(sa.insert(reference_summaries), rows)
