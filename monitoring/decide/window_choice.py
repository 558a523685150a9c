"""Which rows are compared with which: the reference and the current window.

A run never compares rows with themselves: the part of a reference in the log that overlaps the current window is left
out of that run. Without `since`, the current window is the last 24 hours: ever longer windows from the reference's end
on would share rows from run to run and spend the false-alarm budget on the same evidence.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.errors import CannotRun, UsageError
from monitoring.decide.references import Awaited, PinnedReference, References
from monitoring.store.windows import WindowReader

DEFAULT_WINDOW = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class LogWindow:
    """Rows of one app with `since <= at < until`; `rows` counts them."""

    since: datetime
    until: datetime
    rows: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"since": self.since.isoformat(), "until": self.until.isoformat(), "rows": self.rows}


@dataclass(frozen=True, slots=True)
class WindowPair:
    """What one run compares.

    reference: None while the first window of a release is awaited and nothing was pinned before. pinned: its record;
    None while it is only proposed. whole: whether it is all of what was pinned, so that the frozen summaries are its.
    """

    reference: LogWindow | None
    current: LogWindow
    pinned: PinnedReference | None = None
    whole: bool = True


def choose_windows(
    reader: WindowReader,
    pinned: PinnedReference | None,
    awaited: Awaited | None,
    app: str,
    since: datetime | None,
    until: datetime | None,
) -> WindowPair:
    """The two windows of a run; writes nothing and counts no rows.

    Raises:
        UsageError: `since` is not before `until`, or the current window covers the whole reference.
        CannotRun: the app has no rows, or there is no reference and no `since` that could make one.
    """
    until = until or datetime.now(UTC)
    if since is not None and since >= until:
        raise UsageError(f"--since {since.isoformat()} must be before --until {until.isoformat()}")
    if since is None:
        starts = [pinned.until] if pinned is not None and pinned.in_log else []
        starts += [awaited.since] if awaited is not None else []
        current = LogWindow(max([until - DEFAULT_WINDOW, *(start for start in starts if start < until)]), until)
    else:
        current = LogWindow(since, until)
    if pinned is not None:
        return _beside(pinned, current)
    if since is None and awaited is None:
        raise CannotRun(
            f"no reference window is pinned for app {app}: give --since TIME, and the rows before it "
            "become the reference"
        )
    first = reader.first_at(app)
    if first is None:
        raise CannotRun(
            f"the production log has no rows of app {app}; serve some, or import them with `llmops log import`"
        )
    if since is not None and first < since:
        return WindowPair(LogWindow(first, since), current)
    if awaited is not None:
        return WindowPair(None, current)
    raise CannotRun(
        f"app {app} has no rows before --since {current.since.isoformat()} to compare with (its first is at "
        f"{first.isoformat()}); choose a later --since"
    )


def _beside(pinned: PinnedReference, current: LogWindow) -> WindowPair:
    since, until = pinned.since, pinned.until
    if not pinned.in_log or current.until <= since or current.since >= until:
        return WindowPair(LogWindow(since, until), current, pinned)
    if current.since > since:  # the part before it
        return WindowPair(LogWindow(since, current.since), current, pinned, whole=False)
    if current.until < until:
        return WindowPair(LogWindow(current.until, until), current, pinned, whole=False)
    raise UsageError(
        f"the current window covers the whole reference ({since.isoformat()} to {until.isoformat()}); "
        "choose a later --since, or an --until before it"
    )


# A reference that is being gathered: the rows of a release from its promotion on, until there are enough of them.
#
# Few rows see little: against 25 of them refusals must rise to half before anything is proved. So a first window is not
# pinned before the promoted release has given `first_window_rows` answers. A window that alarmed is no part of it, nor
# is what lies before that window's end.


@dataclass(frozen=True, slots=True)
class ReferenceProgress:
    """How far a reference has come. release: whose rows count; None for all rows of the app. since, until: where they
    lie. rows: so many there are; needed: so many it takes."""

    release: str | None
    since: datetime
    until: datetime
    rows: int
    needed: int

    @property
    def complete(self) -> bool:
        return self.rows >= self.needed

    @property
    def note(self) -> str:
        """Empty when it is complete."""
        return "" if self.complete else f"reference is being gathered: {self.rows} of {self.needed} rows"

    def to_json(self) -> dict[str, Any]:
        since = self.since.isoformat()
        return {"release": self.release, "since": since, "rows": self.rows, "needed": self.needed}


def reference_progress(
    reader: WindowReader, references: References, app: str, awaited: Awaited, until: datetime, needed: int
) -> ReferenceProgress | None:
    """What there is of an awaited reference up to `until`; None when that lies before the promotion.

    Raises StoreUnavailable.
    """
    if until <= awaited.since:
        return None
    since = references.last_rejected(app, awaited.since, until) or awaited.since
    answered = reader.by_value(app, since, until, "release").get(awaited.release) if since < until else None
    return ReferenceProgress(awaited.release, since, until, answered.rows if answered else 0, needed)
