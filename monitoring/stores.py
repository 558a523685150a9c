"""The log, the monitor's stores and the configuration, opened together for one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from llmops.production_log import ProductionLog
from llmops.settings import Settings
from monitoring.config import MonitorConfig, read_config
from monitoring.decide.pinned_summaries import PinnedSummaries, freeze
from monitoring.decide.references import PinnedReference, References
from monitoring.store.database import ingest_cursors, open_database, reading
from monitoring.store.ingest import Progress, ingest, ingest_feedback, positions
from monitoring.store.windows import WindowReader

if TYPE_CHECKING:
    from monitoring.decide.rules import DriftRules


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

    def ingest(self, progress: Progress | None = None) -> int:
        """Describes the log's new rows, of every app, and joins the feedback that came; returns how many rows."""
        done = ingest(self.log, self.engine, self.config.descriptors, slices=self.slices, progress=progress)
        ingest_feedback(self.log, self.engine, self.config.descriptors, slices=self.slices)
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
def opened(
    settings: Settings, config: MonitorConfig | None = None, rules: DriftRules | None = None
) -> Iterator[Stores]:
    """Log and monitor's stores, closed at the end. Raises BadFile, StoreUnavailable."""
    config = config or read_config(settings)
    config = config if rules is None else dataclasses.replace(config, rules=rules)
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
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table(ingest_cursors.name):
            return None
        found = positions(connection)
    return found[0].cursor if found else None


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
