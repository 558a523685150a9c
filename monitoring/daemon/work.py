"""What the daemon looks with: the production log, the monitor's stores and the configuration, kept open; and when."""

import contextlib
import dataclasses
import logging
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

import sqlalchemy as sa

from llmops.errors import UsageError
from llmops.settings import Settings
from monitoring.act.action_tables import ensure_tables, retention_clock, was_noted
from monitoring.act.alarm_book import Sighting
from monitoring.config import MonitorConfig
from monitoring.decide.alarms import EvidenceQuery, find_evidence
from monitoring.decide.pinned_summaries import PinnedSummaries
from monitoring.decide.references import PinnedReference
from monitoring.decide.result import MonitorResult
from monitoring.decide.watch import (
    RELEASE,
    STILL_ARRIVING,
    DetectorStore,
    FlagFinding,
    advance_detectors,
    at_moment,
    detector_spec,
    findings,
)
from monitoring.run import run_monitor
from monitoring.store.database import apps_in_log, newest_record_at, reading, writing_alone
from monitoring.store.hourly import APP
from monitoring.store.rows import HOUR
from monitoring.stores import archive_cut, opened, retain, retain_archived

logger = logging.getLogger("llmops.monitoring")

DAY = timedelta(days=1)
_RETAIN_EVERY_SECONDS = 3600.0
_LEAP, _PROBATION = 2 * 86_400.0, 86_400.0
_LOOK_BACK = timedelta(minutes=10)
"""Rows that came since a clock is right again and before we saw it."""


class _InUse(Exception):
    """Another process writes to the log's archives."""


@dataclass(frozen=True, slots=True)
class WindowSchedule:
    """Windows of one length, one after the other. at: the time of day, in UTC, when one of them closes.

    length: a day divided by a whole number, so that a window closes at the same times every day.
    """

    at: time = time(0, 0)
    length: timedelta = DAY

    def __post_init__(self) -> None:
        if self.length <= timedelta(0) or DAY % self.length:
            raise UsageError(f"--every-window: {self.length} does not divide a day; 1h, 6h or 24h do")

    @property
    def windows_a_month(self) -> int:
        """Of 30 days: what a month's false-alarm budget is spread over."""
        return 30 * (DAY // self.length)

    def last_closed(self, now: datetime) -> tuple[datetime, datetime]:
        """Start and end of the window that closed last."""
        now = now.astimezone(UTC)
        start = datetime.combine(now.date(), self.at, UTC) - DAY
        until = start + (now - start) // self.length * self.length
        return until - self.length, until


class LogWork(contextlib.AbstractContextManager["LogWork"]):
    """Reads, tests and tidies one log; a context that closes what it opened. Every method raises LlmopsError.

    champion: gives the release that serves an app, which decides what it is compared with. settle: seconds that rows
    wait before detectors count them.
    """

    def __init__(
        self,
        settings: Settings,
        config: MonitorConfig,
        schedule: WindowSchedule,
        champion: Callable[[str], str | None],
        *,
        settle: float = STILL_ARRIVING.total_seconds(),
        now: Callable[[], float] = clock.time,
    ) -> None:
        """Opens log and stores. Raises StoreUnavailable."""
        self._settings, self._champion, self._now = settings, champion, now
        if schedule.length != DAY:  # the month's budget is then spread over more windows
            rules = dataclasses.replace(config.rules, windows_per_month=schedule.windows_a_month)
            config = dataclasses.replace(config, rules=rules)
        self.config, self.schedule, self._settle = config, schedule, timedelta(seconds=settle)
        self._opened = contextlib.ExitStack()
        self._stores = self._opened.enter_context(opened(settings, config))
        self.engine = self._stores.engine
        self._detectors = DetectorStore(self.engine)
        ensure_tables(self.engine)
        self._frozen: dict[str, tuple[int, PinnedSummaries]] = {}  # by app: of the reference with that id
        self._retained_at = float("-inf")
        self._complete_until = datetime.fromtimestamp(0, UTC)

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def ingest(self) -> int:
        """Describes the log's new rows; returns how many."""
        began = datetime.fromtimestamp(self._now(), UTC)
        rows = self._stores.ingest()
        self._complete_until = began - self._settle
        return rows

    def apps(self) -> Sequence[str]:
        """Those that have records, sorted."""
        return apps_in_log(self.engine)

    def advance(self, app: str) -> Sequence[Sighting]:
        """Takes the sequential detectors over the app's new rows; what has crossed its bound.

        Without a pinned reference there is nothing to hold the rows against: the first window makes one.

        An alarm is found again for a day, so that one that could not be booked is booked by a later tick; the book
        knows those that it has.
        """
        pinned = self._stores.references.pinned(app, self._champion(app))
        if pinned is None or not pinned.frozen:
            return ()
        number, frozen = self._frozen.get(app, (None, None))
        if frozen is None or number != pinned.id:
            frozen = self._stores.references.frozen(pinned)
            frozen = frozen or self._stores.freeze(app, pinned.since, pinned.until, pinned.release)
            self._frozen[app] = (pinned.id, frozen)
        spec = detector_spec(pinned, frozen, self.config.descriptors.descriptors, self.config.rules)
        self._recall(app, pinned)
        advance_detectors(self._detectors, self._stores.reader, spec, self._complete_until)
        since = self._complete_until - DAY
        if was_noted(pinned.pinned_at.timestamp(), self._now()):
            since = max(pinned.pinned_at, since)
        if since >= self._complete_until:
            return ()
        watched = findings(self._detectors, spec, since, self._complete_until)
        return [self._finding(app, each) for each in watched if each.alarm]

    def test_window(self, app: str, since: datetime, until: datetime) -> MonitorResult:
        """Tests a window that the schedule gives."""
        champion = self._champion(app)
        return run_monitor(self._settings, app, since, until, config=self.config, champion=champion, scheduled=True)

    def retain(self) -> None:
        """Once an hour: deletes texts and archived hours that are older than the settings say; nothing when they say
        nothing. What fails, or archives that another process writes to, wait for the next hour."""
        now, log = self._now(), self._stores.log
        moment, days = datetime.fromtimestamp(now, UTC), self._settings.retention_days
        oldest = archive_cut(self._settings, moment, days)
        if oldest is None or 0 <= now - self._retained_at < _RETAIN_EVERY_SECONDS:
            return
        self._retained_at = now
        if clock_is_believed(self.engine, now):
            retain(log, self.engine, days, now=moment)
            with contextlib.suppress(_InUse):
                retain_archived(log, oldest, _leave)

    def _recall(self, app: str, pinned: PinnedReference) -> None:
        """Begins anew with detectors that a clock that was ahead has taken past the present: they would count no row
        until it comes. Where newer rows lie there, the clock is wrong now, and they wait for it."""
        counted, present = self._detectors.counted_until(app), self._now() + HOUR
        if counted is None or counted <= present:
            return
        with reading(self.engine) as connection:
            newest = newest_record_at(connection, app)
        if newest is None or newest + HOUR < counted:
            self._detectors.restart(app, max(self._complete_until - _LOOK_BACK, pinned.counts_from))
            logger.warning("%s: the clock was ahead; its detectors begin anew", app)

    def _finding(self, app: str, flag: FlagFinding) -> Sighting:
        """The newest alarm of one flag, laid to a release where only one answered."""
        last, what = flag.crossings[-1], flag.descriptor
        since, at = at_moment(last.since), at_moment(last.at)
        label: Mapping[str, str] = flag.label
        if APP in label:
            releases = self._stores.reader.by_value(app, since, at, RELEASE)
            names = [name for name, summary in releases.items() if name and summary.rows]
            label = {RELEASE: names[0]} if len(names) == 1 else label
        dimension, value = next(iter(flag.label.items()))
        asked = EvidenceQuery(what.name, "equal", 1.0, None if dimension == APP else (dimension, value))
        (rows,) = find_evidence(self._stores.reader, app, since, at, [asked], self.config.rules.rows_named)
        return Sighting(
            app=app,
            what=what.name,
            kind="sequential",
            why=flag.why,
            side=what.side,
            release=label.get(RELEASE),
            slice=label,
            rows=rows,
            source=f"sequential at {at.isoformat()}",
        )


def _leave() -> None:
    """For `retain_archived`: to archive may take longer than the detectors may wait."""
    logger.info("another process writes to the log's archives: their old hours are deleted in an hour")
    raise _InUse


def clock_is_believed(engine: sa.Engine, now: float) -> bool:
    """Whether texts may be deleted for good by this time, in seconds since the epoch; notes it.

    A time that is more than two days after the one believed last (or, at first, after the newest record) is believed
    only when it has gone on for a day. A daemon that was off for some days deletes a day late; a clock that leaps ahead
    and comes back deletes nothing. Raises StoreUnavailable.
    """
    with writing_alone(engine) as connection:
        row = connection.execute(sa.select(retention_clock)).one_or_none()
        seen = newest_record_at(connection) if row is None else row.seen_at
        doubted = None if row is None or (row.doubted_at or now) > now else row.doubted_at
        ahead = 0.0 if seen is None else now - seen
        believed = ahead <= _LEAP or (doubted is not None and now - doubted >= _PROBATION)
        noted = {"seen_at": now, "doubted_at": None} if believed else {"seen_at": seen, "doubted_at": doubted or now}
        connection.execute(sa.delete(retention_clock))
        connection.execute(sa.insert(retention_clock).values(id=1, **noted))
    if not believed:
        days = ahead / 86_400
        logger.warning("the clock is %.0f days after the last look: texts are deleted when it has run a day", days)
    return believed
