"""The log, the monitor's stores and the configuration, opened together for one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from llmops.audit import AuditLog
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from monitoring.config import MonitorConfig, read_config
from monitoring.decide.pinned_summaries import PinnedSummaries, freeze
from monitoring.decide.references import PinnedReference, References
from monitoring.descriptors import DescriptorSet
from monitoring.store.database import ingest_cursors, open_database, reading
from monitoring.store.ingest import Position, Progress, Spread, ingest, positions
from monitoring.store.ingest_feedback import ingest_feedback
from monitoring.store.windows import WindowReader

if TYPE_CHECKING:
    from llmops.production_log.archive import Archive


@dataclass(frozen=True, slots=True)
class Stores:
    """What a run reads and writes. Every method raises StoreUnavailable."""

    config: MonitorConfig
    log: ProductionLog
    engine: sa.Engine
    reader: WindowReader
    references: References

    @property
    def slices(self) -> tuple[str, ...]:
        """What is summarised. Releases are told apart in any case: references and acceptance go by them."""
        return tuple(dict.fromkeys((*self.config.slices, "release")))

    def ingest(
        self,
        progress: Progress | None = None,
        *,
        archive: Archive | None = None,
        spread: Spread = map,
        waiting: Callable[[], None] = lambda: None,
    ) -> int:
        """Describes the log's new rows, of every app, and joins the feedback that came; returns how many rows.

        archive: whose records are described too, as far as the log has them no longer; also raises Corrupted.
        spread: where descriptors are computed. waiting: called while another process writes to the log's archives.
        """
        place: tuple[sa.Engine, DescriptorSet] = (self.engine, self.config.descriptors)
        done = ingest(self.log, *place, slices=self.slices, progress=progress, spread=spread)
        ingest_feedback(self.log, *place, slices=self.slices)
        if archive is not None:
            from llmops.pipelines.database import database_url, only_one
            from monitoring.store.ingest_archive import ingest_archive

            with only_one(database_url(self.log.url), "log archive", waiting):
                done += ingest_archive(archive, *place, slices=self.slices, progress=progress, spread=spread)
        return done

    def freeze(self, app: str, since: datetime, until: datetime, release: str | None) -> PinnedSummaries:
        """What a window of the log is like."""
        return freeze(
            self.reader, self.config.descriptors, app, since, until, dimensions=self.config.slices, release=release
        )

    def frozen(self, pinned: PinnedReference) -> PinnedSummaries:
        """What a reference was like when it was pinned; while that is not stored, what its rows are like now."""
        stored = self.references.frozen(pinned)
        return stored or self.freeze(pinned.app, pinned.since, pinned.until, pinned.release)


@contextmanager
def opened(settings: Settings, config: MonitorConfig | None = None) -> Iterator[Stores]:
    """Log and monitor's stores, closed at the end. Raises BadFile, StoreUnavailable."""
    config = config or read_config(settings)
    with ExitStack() as stack:
        # First the log: it makes the folder and the log's own table.
        log = stack.enter_context(closing(ProductionLog(settings.resolved_log_url)))
        engine = open_database(settings.resolved_log_url)
        stack.callback(engine.dispose)
        yield Stores(config, log, engine, WindowReader(engine, config.descriptors), References(engine))


def described_up_to(engine: sa.Engine) -> int | None:
    """The cursor up to which the log is described, by the newest version; None where nothing was ever described.

    Raises StoreUnavailable.
    """
    position = newest_position(engine)
    return None if position is None else position.cursor


def newest_position(engine: sa.Engine) -> Position | None:
    """How far the newest version has come; None where nothing was ever described. Raises StoreUnavailable."""
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table(ingest_cursors.name):
            return None
        return next(iter(positions(connection)), None)


def retain(
    log: ProductionLog, engine: sa.Engine, days: int | None, *, now: datetime | None = None, dry_run: bool = False
) -> int:
    """Deletes the texts of records older than `days` that are described; returns of how many. None: deletes nothing.

    Raises StoreUnavailable.
    """
    if days is None:
        return 0
    before = (now or datetime.now(UTC)) - timedelta(days=days)
    cursor = described_up_to(engine) or 0  # nothing described yet, such as after an ingest that failed: nothing is due
    return log.delete_texts(before, described_up_to=cursor, dry_run=dry_run)


@contextmanager
def opened_archives(
    log: ProductionLog, waiting: Callable[[], None] = lambda: None, *, new: Archive | None = None
) -> Iterator[Sequence[Archive]]:
    """All archives of the log, alone among the processes that write to them.

    waiting: called when another process does, which is waited for. new: one that the log may not know yet.

    Raises StoreUnavailable: one of them is gone.
    """
    if new is None and not log.archives():
        yield ()
        return
    from llmops.pipelines.database import database_url, only_one
    from llmops.production_log.archive import Archive

    with only_one(database_url(log.url), "log archive", waiting):
        if new is not None:
            log.add_archive(new.url)
            yield (new,)
            return
        archives = [Archive(url) for url in log.archives()]
        for archive in archives:
            archive.check()
        yield archives


def archive_cut(settings: Settings, now: datetime, days: int | None) -> datetime | None:
    """Hours that ended by then go from archives; None: none does. days: where the settings do not say how many."""
    kept = days if settings.archive_retention_days is None else settings.archive_retention_days
    return None if kept is None else now - timedelta(days=kept)


def delete_archived(log: ProductionLog, archive: Archive, before: datetime, *, dry_run: bool = False) -> dict[str, int]:
    """As `Archive.delete_before`; the audit log gets the counts. Raises StoreUnavailable."""
    deleted = archive.delete_before(before, dry_run=dry_run)
    if deleted["archived_hours"] and not dry_run:
        details = {"archive": archive.url, "before": before.isoformat(), "deleted": deleted}
        AuditLog(log.url).append("retain", "production log", details)
    return deleted


def retain_archived(
    log: ProductionLog, before: datetime, waiting: Callable[[], None] = lambda: None, *, dry_run: bool = False
) -> Counter[str]:
    """As `delete_archived`, in all archives of the log; returns the sums. waiting: as `opened_archives`."""
    deleted: Counter[str] = Counter()
    with opened_archives(log, waiting) as archives:
        for archive in archives:
            deleted.update(delete_archived(log, archive, before, dry_run=dry_run))
    return deleted
