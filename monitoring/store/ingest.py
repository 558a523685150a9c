"""Follows the production log: describes what is new, once, and keeps it beside the log.

A batch's segments, hourly summaries and the cursor after them are written in one transaction, and only when nobody has
changed anything since the batch was begun. So two ingests at once are safe, and one that is killed has done a batch or
has not: no row is missed and none counts twice. A row of another app changes nothing, and a day without traffic costs
one question to the database.

When descriptors or slices change, the log is gone through from its beginning once more. Values of descriptors that are
the same as before are taken from the old segments, also for rows whose texts retention has deleted since; a changed
descriptor of the text has no value there. When the new version has caught up, the older ones are deleted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from llmops.hashing import content_hash
from llmops.production_log import PREDICT, SHADOW, LogRecord, ProductionLog
from monitoring.store.database import (
    descriptor_segments,
    forestall_ingest,
    hourly_summaries,
    ingest_cursors,
    ingest_failures,
    reading,
    translated,
    writing,
)
from monitoring.store.hourly import (
    ALWAYS,
    StoredSummary,
    add_to_stored,
    delete_hours,
    feedback_between,
    summarise_by_hour,
    summarise_feedback,
    write_summaries,
)
from monitoring.store.rows import ARM, DIMENSIONS, HOUR, SHADOW_OF, Column, DescribedRows, objects
from monitoring.store.segments import (
    FORMAT,
    LANGUAGE,
    Segment,
    between,
    decode,
    descriptors_in,
    extended,
    open_segment,
    stored,
    write_segments,
)
from monitoring.store.summaries import stored_label

if TYPE_CHECKING:
    from monitoring.descriptors import DescriptorSet

BATCH = 1000
_CHARACTERS = 20_000_000  # of a batch, when the ones before tell how long its texts will be
_LEAST_BATCH = 16

DEFAULT_SLICES = ("release",)
Progress = Callable[[int, int], None]
"""Called with rows of the log gone through and rows to go through."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingest did. failures: by descriptor, rows whose value could not be computed."""

    rows: int
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Position:
    """How far a version has come; a row of `ingest_cursors`."""

    id: int
    version: str
    slices: tuple[str, ...]
    cursor: int
    feedback_cursor: int
    revision: int
    caught_up: bool

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What hours are summarised by."""
        return (*ALWAYS, *self.slices)


def ingest(
    log: ProductionLog,
    engine: sa.Engine,
    descriptor_set: DescriptorSet,
    *,
    slices: Sequence[str] = DEFAULT_SLICES,
    until_cursor: int | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Describes all that the log holds beyond the cursor, in batches of bounded size.

    slices: of DIMENSIONS, what hours are summarised by. until_cursor: as the log counts (`records_end`); to stop at,
    or some rows after. Rows of raw models (no app), and of tabular models, which are no texts, are passed over.

    Raises:
        StoreUnavailable: the database cannot be read or written; what was done stays.
        CannotRun: a descriptor can never work here.
    """
    work = _Ingest(engine, descriptor_set, tuple(slices))
    position = start = work.position()
    end = log.records_end() if until_cursor is None else until_cursor
    rows, failures, size = 0, Counter[str](), BATCH
    while position.cursor < end:
        records, after = log.records_since(position.cursor, limit=min(size, end - position.cursor))
        if after == position.cursor:
            break
        batches = list(work.describe(position, records, after))
        if work.write(position, after, batches):
            rows += sum(len(batch.rows) for batch in batches)
            failures.update({name: times for batch in batches for name, (times, _) in batch.failures.items()})
        if progress:
            progress(after - start.cursor, end - start.cursor)
        if records:
            characters = sum(len(record.input) + len(record.output) for record in records) / len(records)
            size = max(min(BATCH, int(_CHARACTERS / (characters + 1))), _LEAST_BATCH)
        position = work.position()
    work.finish(position)
    return Ingested(rows, failures)


def rebuild_hours(connection: sa.Connection, app: str, hours: Collection[int]) -> None:
    """Summarises hours anew from the segments and the log's feedback, in every version, in the caller's transaction.

    For rows that were taken out of the segments (`segments.rewrite_without`).
    """
    forestall_ingest(connection)
    for position in positions(connection):
        delete_hours(connection, position.version, app, list(hours))
        for hour in sorted(hours):
            since, until = hour * HOUR, (hour + 1) * HOUR
            said = feedback_between(connection, app, since, until, position.feedback_cursor)
            for segment in stored(connection, position.version, app, since=since, until=until):
                rows = decode(segment.data)
                rows = rows.select((rows.at >= since) & (rows.at < until))
                new = summarise_by_hour(rows, descriptors_in(segment.data), position.dimensions)
                for part in (new, summarise_feedback(rows, said, position.dimensions)):
                    summaries = add_to_stored(connection, position.version, app, part)
                    write_summaries(connection, position.version, app, summaries)


def positions(connection: sa.Connection) -> list[Position]:
    """Of every version, the newest first."""
    names = ("id", "version", "slices", "cursor", "feedback_cursor", "revision", "caught_up")
    query = sa.select(*(ingest_cursors.c[name] for name in names)).order_by(ingest_cursors.c.id.desc())
    return [Position(row[0], row[1], tuple(row[2]), *row[3:]) for row in connection.execute(query)]


def position_of(engine: sa.Engine, descriptor_set: DescriptorSet, slices: Sequence[str]) -> Position:
    """How far the version has come; begins it when it is new. Raises StoreUnavailable."""
    kept = sorted(set(slices))
    version = content_hash([FORMAT, descriptor_set.version, kept])[:16]
    for _ in range(2):
        with translated("read"), engine.begin() as connection:
            found = [each for each in positions(connection) if each.version == version]
        if found:
            break
        values = {"version": version, "descriptors": descriptor_set.version, "slices": kept, "caught_up": False}
        zero = dict.fromkeys(("cursor", "feedback_cursor", "revision", "described", "unfit"), 0)
        # Another one may begin it at the same moment.
        with translated("write"), contextlib.suppress(sa.exc.IntegrityError), writing(engine) as connection:
            connection.execute(sa.insert(ingest_cursors).values(**values, **zero))
    return found[0]


def advance(connection: sa.Connection, position: Position, **changes: Any) -> bool:
    """Moves a cursor unless anything was changed since the position was read. Call it first in a transaction."""
    table = ingest_cursors.c
    same = sa.and_(table.version == position.version, table.revision == position.revision)
    moved = sa.update(ingest_cursors).where(same).values(revision=table.revision + 1, **changes)
    return connection.execute(moved).rowcount == 1


@dataclass(frozen=True, slots=True)
class _Batch:
    """New rows of one app. failures: descriptor → rows and the first one's reason."""

    app: str
    rows: DescribedRows
    failures: Mapping[str, tuple[int, str]]
    segments: Sequence[Segment]
    summaries: Sequence[StoredSummary]


@dataclass(frozen=True, slots=True)
class _Ingest:
    engine: sa.Engine
    descriptor_set: DescriptorSet
    slices: tuple[str, ...]

    def position(self) -> Position:
        return position_of(self.engine, self.descriptor_set, self.slices)

    def describe(self, position: Position, records: Sequence[LogRecord], after: int) -> Iterator[_Batch]:
        """What is to be written for records that the log holds up to the cursor `after`; writes nothing."""
        by_app: dict[str, list[LogRecord]] = {}
        for record in records:
            if record.app and record.route != PREDICT:
                by_app.setdefault(record.app, []).append(record)
        span = position.cursor, after
        for app, own in by_app.items():
            with reading(self.engine) as connection:
                kept = _kept_values(connection, position, app, own, span, self.descriptor_set)
            rows, failures = _described(own, kept, self.descriptor_set)
            new = summarise_by_hour(rows, self.descriptor_set.descriptors, position.dimensions)
            with reading(self.engine) as connection:
                last = open_segment(connection, position.version, app)
                segments = extended(last, app, rows, self.descriptor_set.descriptors, *span)
                summaries = add_to_stored(connection, position.version, app, new)
            yield _Batch(app, rows, failures, segments, summaries)

    def write(self, position: Position, after: int, batches: Sequence[_Batch]) -> bool:
        """Everything in one transaction; False when another change came first, and nothing was written."""
        described = ingest_cursors.c.described + sum(len(batch.rows) for batch in batches)
        with translated("write"), writing(self.engine) as connection:
            if not advance(connection, position, cursor=after, described=described):
                return False
            for batch in batches:
                write_segments(connection, position.version, batch.segments)
                write_summaries(connection, position.version, batch.app, batch.summaries)
                hour = int(batch.rows.at.max() // HOUR)
                for name, (times, reason) in batch.failures.items():
                    place = {"version": position.version, "app": batch.app, "hour": hour, "descriptor": name}
                    same = (ingest_failures.c[column] == value for column, value in place.items())
                    added = sa.update(ingest_failures).where(*same).values(rows=ingest_failures.c.rows + times)
                    if connection.execute(added).rowcount == 0:
                        values = {**place, "rows": times, "reason": stored_label(reason)}
                        connection.execute(sa.insert(ingest_failures).values(values))
        return True

    def finish(self, position: Position) -> None:
        """Once, when the version has caught up: deletes what older versions left."""
        if position.caught_up:
            return
        with translated("write"), writing(self.engine) as connection:
            if not advance(connection, position, caught_up=True):
                return  # another one is still at work, and will
            older = [each.version for each in positions(connection) if each.id < position.id]
            for table in (descriptor_segments, hourly_summaries, ingest_failures, ingest_cursors):
                connection.execute(sa.delete(table).where(table.c.version.in_(older)))
            # Releases up to 0.9 kept values here, a row of JSON for each request; nothing reads them any more.
            connection.exec_driver_sql("DROP TABLE IF EXISTS descriptor_values")


@dataclass(frozen=True, slots=True)
class _Kept:
    """Values of an older version. places: of the rows among the new ones."""

    columns: Mapping[str, Column]
    places: Column


def _kept_values(
    connection: sa.Connection,
    position: Position,
    app: str,
    records: Sequence[LogRecord],
    span: tuple[int, int],
    descriptor_set: DescriptorSet,
) -> list[_Kept]:
    """What other versions hold of the records, by descriptors that have not changed; of two, the newer comes last."""
    versions = [each.version for each in positions(connection) if each.version != position.version]
    if not versions:
        return []
    places = {record.key: place for place, record in enumerate(records)}
    found = []
    for segment in between(connection, versions, app, *span):
        same = {
            name
            for name, each in descriptors_in(segment.data).items()
            if name in descriptor_set.descriptors and descriptor_set.descriptors[name].version == each.version
        }
        rows = decode(segment.data, same)
        known = np.array([place for place, key in enumerate(rows.keys) if key in places], dtype=np.int64)
        if same and len(known):
            chosen = rows.select(known)
            found.append(_Kept(chosen.columns, np.array([places[key] for key in chosen.keys], dtype=np.int64)))
    return found


def _described(
    records: Sequence[LogRecord], kept: Sequence[_Kept], descriptor_set: DescriptorSet
) -> tuple[DescribedRows, dict[str, tuple[int, str]]]:
    columns: dict[str, Column] = {
        name: np.full(len(records), None if each.kind == "label" else np.nan, object if each.kind == "label" else "f4")
        for name, each in descriptor_set.descriptors.items()
    }
    missing = [set(columns) for _ in records]
    for part in kept:
        for name, values in part.columns.items():
            columns[name][part.places] = values
        for place in part.places.tolist():
            missing[place].difference_update(part.columns)
    alike: dict[frozenset[str], list[int]] = {}
    for place, names in enumerate(missing):
        alike.setdefault(frozenset(names), []).append(place)
    failures: dict[str, tuple[int, str]] = {}
    for wanted, places in alike.items():
        if wanted:
            described = descriptor_set.only(wanted).describe([records[place] for place in places])
            for name, values in described.columns.items():
                columns[name][places] = values
            for name, times in described.failures.items():
                before, reason = failures.get(name, (0, described.reasons.get(name, "")))
                failures[name] = before + times, reason
    return _as_rows(records, columns, descriptor_set), failures


def _as_rows(records: Sequence[LogRecord], columns: dict[str, Column], descriptor_set: DescriptorSet) -> DescribedRows:
    for name, each in descriptor_set.descriptors.items():
        if each.kind == "label":
            columns[name] = objects([stored_label(value) for value in columns[name].tolist()])
    dimensions = {
        name: objects([getattr(record, name) for record in records]) for name in DIMENSIONS if name != "language"
    }
    dimensions["language"] = columns.get(LANGUAGE, objects([None] * len(records)))
    dimensions[ARM] = objects(
        [SHADOW if record.outcome == SHADOW else _text(record.details.get("arm")) for record in records]
    )
    dimensions[SHADOW_OF] = objects([_text(record.details.get(SHADOW_OF)) for record in records])
    return DescribedRows(
        [record.key for record in records],
        [record.request_id for record in records],
        np.array([record.at.timestamp() for record in records], dtype=np.float64),
        dimensions,
        columns,
    )


def _text(value: Any) -> str | None:
    return stored_label(value) if isinstance(value, str) else None
