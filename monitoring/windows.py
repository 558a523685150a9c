"""Which rows are compared with which: the pinned reference window and the current window.

The reference is the app's newest pinned window. With none pinned, the rows before the first `since` are it, and are
then pinned. A run never compares rows with themselves: the part of the reference that overlaps the current window is
left out of that run.

Without `since`, the current window is the last 24 hours before `until`, or less where the reference ends within them.
Ever longer windows from the reference's end on would share rows from run to run and spend the false-alarm budget on
the same evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.errors import CannotRun, UsageError
from llmops.production_log import ProductionLog
from monitoring.database import reference_windows as table
from monitoring.database import translated, writing

DEFAULT_WINDOW = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of one app with `since <= at < until`; `rows` counts them."""

    since: datetime
    until: datetime
    rows: int

    def to_json(self) -> dict[str, Any]:
        return {"since": self.since.isoformat(), "until": self.until.isoformat(), "rows": self.rows}


@dataclass(frozen=True, slots=True)
class PinnedReference:
    """What an app's windows are compared with, until another is pinned."""

    app: str
    since: datetime
    until: datetime
    pinned_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class WindowPair:
    """What one run compares. pinned: the reference's record; None while it is only proposed."""

    reference: Window
    current: Window
    pinned: PinnedReference | None


class ReferenceWindows:
    """The pinned references, newest first; older ones stay on record."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def pinned(self, app: str) -> PinnedReference | None:
        """The reference in force. Raises StoreUnavailable."""
        query = sa.select(table).where(table.c.app == app).order_by(table.c.id.desc()).limit(1)
        with translated("read"), self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        since, until, at = (datetime.fromtimestamp(moment, UTC) for moment in (row.since, row.until, row.pinned_at))
        return PinnedReference(app, since, until, at, row.why)

    def pin(self, app: str, since: datetime, until: datetime, why: str) -> PinnedReference:
        """Makes `since <= at < until` the app's reference from now on. Raises UsageError, StoreUnavailable."""
        if since >= until:
            raise UsageError(f"a reference window must end after it starts ({since.isoformat()})")
        pinned = PinnedReference(app, since, until, datetime.now(UTC), why)
        moments = {"since": since.timestamp(), "until": until.timestamp(), "pinned_at": pinned.pinned_at.timestamp()}
        with translated("write"), writing(self._engine) as connection:
            connection.execute(sa.insert(table).values(app=app, why=why, **moments))
        return pinned


def choose_windows(
    log: ProductionLog,
    references: ReferenceWindows,
    app: str,
    since: datetime | None,
    until: datetime | None,
) -> WindowPair:
    """The two windows of a run; writes nothing.

    Raises:
        UsageError: `since` is not before `until`, or the current window covers the whole reference.
        CannotRun: the app has no rows, or there is no reference and no `since` that could make one.
    """
    until = until or datetime.now(UTC)
    pinned = references.pinned(app)
    if since is None:
        since = until - DEFAULT_WINDOW
        if pinned and since < pinned.until < until:
            since = pinned.until
    elif since >= until:
        raise UsageError(f"--since {since.isoformat()} must be before --until {until.isoformat()}")
    elif pinned is None:
        pair = _propose(log, app, since)
        return WindowPair(pair, _window(log, app, since, until), None)
    if pinned is None:
        raise CannotRun(
            f"no reference window is pinned for app {app}: give --since TIME, and the rows before it "
            "become the reference"
        )
    start, end = _without_overlap(pinned, since, until)
    return WindowPair(_window(log, app, start, end), _window(log, app, since, until), pinned)


def _propose(log: ProductionLog, app: str, since: datetime) -> Window:
    first = log.read(app=app, limit=1)
    if not first:
        raise CannotRun(
            f"the production log has no rows of app {app}; serve some, or import them with `llmops log import`"
        )
    if first[0].at >= since:
        raise CannotRun(
            f"app {app} has no rows before --since {since.isoformat()} to compare with (its first is at "
            f"{first[0].at.isoformat()}); choose a later --since"
        )
    return _window(log, app, first[0].at, since)


def _without_overlap(pinned: PinnedReference, since: datetime, until: datetime) -> tuple[datetime, datetime]:
    if until <= pinned.since or since >= pinned.until:
        return pinned.since, pinned.until
    if since > pinned.since:
        return pinned.since, since
    if until < pinned.until:
        return until, pinned.until
    raise UsageError(
        f"the current window covers the whole reference ({pinned.since.isoformat()} to {pinned.until.isoformat()}); "
        "choose a later --since, or an --until before it"
    )


def _window(log: ProductionLog, app: str, since: datetime, until: datetime) -> Window:
    return Window(since, until, log.count(app=app, since=since, until=until))
