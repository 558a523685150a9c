"""What the daemon looks with: the production log, the monitor's stores and the configuration, kept open."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType

import sqlalchemy as sa

from llmops.settings import Settings
from monitoring.act.action_tables import ensure_tables
from monitoring.act.alarm_book import Finding
from monitoring.act.clocks import RetentionClock, was_noted
from monitoring.act.schedule import DAY, WindowSchedule
from monitoring.config import MonitorConfig
from monitoring.decide.alarms import EvidenceQuery, find_evidence
from monitoring.decide.detector_store import DetectorStore, at_moment
from monitoring.decide.pinned_summaries import PinnedSummaries
from monitoring.decide.references import PinnedReference
from monitoring.decide.result import MonitorResult
from monitoring.decide.watch import (
    RELEASE,
    STILL_ARRIVING,
    FlagFinding,
    Watched,
    advance_detectors,
    findings,
    watched_of,
)
from monitoring.deletion import retain
from monitoring.run import run_monitor
from monitoring.store.database import apps_in_log, newest_record_at, reading
from monitoring.store.hourly import APP
from monitoring.store.rows import HOUR
from monitoring.stores import opened

logger = logging.getLogger("llmops.monitoring")

_RETAIN_EVERY_SECONDS = 3600.0
_LOOK_BACK = timedelta(minutes=10)
"""Rows that came since a clock is right again and before we saw it."""


class LogWork:
    """A `Work` over one log; a context that closes what it opened.

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
        now: Callable[[], float] = time.time,
    ) -> None:
        """Opens log and stores. Raises StoreUnavailable."""
        self._settings, self._champion, self._now = settings, champion, now
        if schedule.length != DAY:  # the month's budget is then spread over more windows
            rules = dataclasses.replace(config.rules, windows_per_month=schedule.windows_a_month)
            config = dataclasses.replace(config, rules=rules)
        self._config, self._settle = config, timedelta(seconds=settle)
        self._opened = contextlib.ExitStack()
        self._stores = self._opened.enter_context(opened(settings, config))
        self._detectors, self._clock = DetectorStore(self.engine), RetentionClock(self.engine)
        ensure_tables(self.engine)
        self._frozen: dict[str, tuple[int, PinnedSummaries]] = {}  # by app: of the reference with that id
        self._retained_at = float("-inf")
        self._complete_until = datetime.fromtimestamp(0, UTC)

    def __enter__(self) -> LogWork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @property
    def engine(self) -> sa.Engine:
        """The database of log and monitor."""
        return self._stores.engine

    def ingest(self) -> int:
        began = datetime.fromtimestamp(self._now(), UTC)
        rows = self._stores.ingest().rows
        self._complete_until = began - self._settle
        return rows

    def apps(self) -> Sequence[str]:
        return apps_in_log(self.engine)

    def advance(self, app: str) -> Sequence[Finding]:
        """Without a pinned reference there is nothing to hold the rows against: the first window makes one.

        An alarm is found again for a day, so that one that could not be booked is booked by a later tick; the book
        knows those that it has.
        """
        pinned = self._stores.references.pinned(app, self._champion(app))
        if pinned is None or not pinned.frozen:
            return ()
        watched = watched_of(pinned, self._frozen_of(pinned), self._config.descriptors.descriptors, self._config.rules)
        self._recall(app, pinned)
        advance_detectors(self._detectors, self._stores.reader, watched, self._complete_until)
        since = self._complete_until - DAY
        if was_noted(pinned.pinned_at.timestamp(), self._now()):
            since = max(pinned.pinned_at, since)
        if since >= self._complete_until:
            return ()
        found = findings(self._detectors, watched, since, self._complete_until)
        return [self._finding(watched, each) for each in found if each.alarm]

    def test_window(self, app: str, since: datetime, until: datetime) -> MonitorResult:
        champion = self._champion(app)
        return run_monitor(self._settings, app, since, until, config=self._config, champion=champion, scheduled=True)

    def retain(self) -> None:
        days = self._settings.retention_days
        now = self._now()
        if days is None or 0 <= now - self._retained_at < _RETAIN_EVERY_SECONDS:
            return
        if self._clock.believes(now):
            retain(self._stores.log, self.engine, days, now=datetime.fromtimestamp(now, UTC))
        self._retained_at = now

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

    def _frozen_of(self, pinned: PinnedReference) -> PinnedSummaries:
        number, frozen = self._frozen.get(pinned.app, (None, None))
        if frozen is None or number != pinned.id:
            frozen = self._stores.references.frozen(pinned)
            frozen = frozen or self._stores.freeze(pinned.app, pinned.since, pinned.until, pinned.release)
            self._frozen[pinned.app] = (pinned.id, frozen)
        return frozen

    def _finding(self, watched: Watched, found: FlagFinding) -> Finding:
        """The newest alarm of one flag, laid to a release where only one answered."""
        last = found.crossings[-1]
        since, at = at_moment(last.since), at_moment(last.at)
        label: Mapping[str, str] = found.label
        if APP in label:
            releases = self._stores.reader.summary(watched.app, since, at, RELEASE)
            names = [name for name, summary in releases.items() if name and summary.rows]
            label = {RELEASE: names[0]} if len(names) == 1 else label
        dimension, value = next(iter(found.label.items()))
        place = None if dimension == APP else (dimension, value)
        asked = EvidenceQuery(found.descriptor.name, "equal", 1.0, place)
        limit = self._config.rules.rows_named
        (rows,) = find_evidence(self._stores.reader, watched.app, since, at, [asked], limit)
        return Finding(
            app=watched.app,
            what=found.descriptor.name,
            kind="sequential",
            why=found.why,
            side=found.descriptor.side,
            release=label.get(RELEASE),
            slice=label,
            rows=rows,
            source=f"sequential at {at.isoformat()}",
        )
