"""Follows the production log and its feedback: describes what is new, once, and keeps it beside the log.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from llmops.hashing import content_hash
from llmops.production_log import PREDICT, SHADOW, LogRecord, ProductionLog, in_batches
from monitoring.store import hourly, segments
from monitoring.store.database import (
    MOST_LISTED,
    descriptor_segments,
    forestall_ingest,
    hourly_summaries,
    ingest_cursors,
    ingest_failures,
    log_places,
    reading,
    translated,
    writing,
)
from monitoring.store.rows import ARM, DIMENSIONS, HOUR, SHADOW_OF, Column, DescribedRows, Objects, objects
from monitoring.store.summaries import Summary, SummaryMerge, stored_label

if TYPE_CHECKING:
    from monitoring.descriptors import DescriptorSet

BATCH = 1000
_CHARACTERS = 20_000_000  # of a batch, when the ones before tell how long its texts will be
_LEAST_BATCH = 16

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, in rows of the log or in windows."""


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
        return (*hourly.ALWAYS, *self.slices)


def ingest(
    log: ProductionLog,
    engine: sa.Engine,
    descriptor_set: DescriptorSet,
    *,
    slices: Sequence[str] = ("release",),
    progress: Progress | None = None,
) -> int:
    """Describes all that the log holds beyond the cursor, in batches of bounded size; returns how many rows.

    slices: of DIMENSIONS, what hours are summarised by. Rows of raw models (no app), and of tabular models, which are
    no texts, are passed over.

    Raises:
        StoreUnavailable: the database cannot be read or written; what was done stays.
        CannotRun: a descriptor can never work here.
    """
    work = _Ingest(engine, descriptor_set)
    position = start = position_of(engine, descriptor_set, slices)
    end, rows, size = log.records_end(), 0, BATCH
    while position.cursor < end:
        records, after = log.records_since(position.cursor, limit=min(size, end - position.cursor))
        if after == position.cursor:
            break
        batches = list(work.describe(position, records, after))
        if work.write(position, after, batches):
            rows += sum(len(batch.rows) for batch in batches)
        if progress:
            progress(after - start.cursor, end - start.cursor)
        if records:
            characters = sum(len(record.input) + len(record.output) for record in records) / len(records)
            size = max(min(BATCH, int(_CHARACTERS / (characters + 1))), _LEAST_BATCH)
        position = position_of(engine, descriptor_set, slices)
    work.finish(position)
    return rows


def rebuild_hours(connection: sa.Connection, app: str, hours: Collection[int]) -> None:
    """Summarises hours anew from the segments and the log's feedback, in every version, in the caller's transaction.

    For rows that were taken out of the segments (`segments.rewrite_without`).
    """
    forestall_ingest(connection)
    for position in positions(connection):
        hourly.delete_hours(connection, position.version, app, list(hours))
        for hour in sorted(hours):
            since, until = hour * HOUR, (hour + 1) * HOUR
            said = hourly.feedback_between(connection, app, since, until, position.feedback_cursor)
            for segment in segments.stored(connection, position.version, app, since=since, until=until):
                rows = segments.decode(segment.data)
                rows = rows.select((rows.at >= since) & (rows.at < until))
                descriptors = segments.descriptors_in(segment.data)
                new = hourly.summarise_by_hour(rows, descriptors, position.dimensions)
                for part in (new, hourly.summarise_feedback(rows, said, position.dimensions)):
                    summaries = hourly.add_to_stored(connection, position.version, app, part)
                    hourly.write_summaries(connection, position.version, app, summaries)


def positions(connection: sa.Connection) -> list[Position]:
    """Of every version, the newest first."""
    columns = [ingest_cursors.c[name] for name in Position.__slots__]
    rows = connection.execute(sa.select(*columns).order_by(ingest_cursors.c.id.desc()))
    return [Position(**{**row._mapping, "slices": tuple(row.slices)}) for row in rows]


def position_of(engine: sa.Engine, descriptor_set: DescriptorSet, slices: Sequence[str]) -> Position:
    """How far the version has come; begins it when it is new. Raises StoreUnavailable."""
    kept = sorted(set(slices))
    version = content_hash([segments.FORMAT, descriptor_set.version, kept])[:16]
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
    segments: Sequence[segments.Segment]
    summaries: Sequence[hourly.StoredSummary]


@dataclass(frozen=True, slots=True)
class _Ingest:
    engine: sa.Engine
    descriptor_set: DescriptorSet

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
            new = hourly.summarise_by_hour(rows, self.descriptor_set.descriptors, position.dimensions)
            with reading(self.engine) as connection:
                last = segments.open_segment(connection, position.version, app)
                extended = segments.extended(last, app, rows, self.descriptor_set.descriptors, *span)
                summaries = hourly.add_to_stored(connection, position.version, app, new)
            yield _Batch(app, rows, failures, extended, summaries)

    def write(self, position: Position, after: int, batches: Sequence[_Batch]) -> bool:
        """Everything in one transaction; False when another change came first, and nothing was written."""
        described = ingest_cursors.c.described + sum(len(batch.rows) for batch in batches)
        with translated("write"), writing(self.engine) as connection:
            if not advance(connection, position, cursor=after, described=described):
                return False
            for batch in batches:
                segments.write_segments(connection, position.version, batch.segments)
                hourly.write_summaries(connection, position.version, batch.app, batch.summaries)
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


_Kept = tuple[Mapping[str, Column], list[int]]
"""Values of an older version, by descriptor; and the places of their rows among the new ones."""


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
    for segment in segments.between(connection, versions, app, *span):
        same = {
            name
            for name, each in segments.descriptors_in(segment.data).items()
            if name in descriptor_set.descriptors and descriptor_set.descriptors[name].version == each.version
        }
        rows = segments.decode(segment.data, same)
        known = [place for place, key in enumerate(rows.keys) if key in places]
        if same and known:
            chosen = rows.select(np.array(known, dtype=np.int64))
            found.append((chosen.columns, [places[key] for key in chosen.keys]))
    return found


def _described(
    records: Sequence[LogRecord], kept: Sequence[_Kept], descriptor_set: DescriptorSet
) -> tuple[DescribedRows, dict[str, tuple[int, str]]]:
    columns: dict[str, Column] = {
        name: np.full(len(records), None if each.kind == "label" else np.nan, object if each.kind == "label" else "f4")
        for name, each in descriptor_set.descriptors.items()
    }
    missing = [set(columns) for _ in records]
    for values_of, places in kept:
        for name, values in values_of.items():
            columns[name][places] = values
        for place in places:
            missing[place].difference_update(values_of)
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

    def texts(values: Iterable[Any]) -> Objects:
        return objects([stored_label(value) if isinstance(value, str) else None for value in values])

    dimensions = {
        name: objects([getattr(record, name) for record in records]) for name in DIMENSIONS if name != "language"
    }
    dimensions["language"] = columns.get(segments.LANGUAGE, objects([None] * len(records)))
    dimensions[ARM] = texts(SHADOW if each.outcome == SHADOW else each.details.get("arm") for each in records)
    dimensions[SHADOW_OF] = texts(each.details.get(SHADOW_OF) for each in records)
    return DescribedRows(
        [record.key for record in records],
        [record.request_id for record in records],
        np.array([record.at.timestamp() for record in records], dtype=np.float64),
        dimensions,
        columns,
    )


def ingest_feedback(
    log: ProductionLog, engine: sa.Engine, descriptor_set: DescriptorSet, *, slices: Sequence[str] = ("release",)
) -> int:
    """Adds feedback, once, to the summaries of the answers that it is about; returns how many opinions.

    Call it after `ingest`: feedback on a row that is not described yet waits, and so does all that came after it.
    Feedback on a row that never will be (a raw model's, a deleted one) is passed over. Raises StoreUnavailable.
    """
    added = 0
    while True:
        position = position_of(engine, descriptor_set, slices)
        given, after = log.feedback_since(position.feedback_cursor, limit=BATCH)
        with reading(engine) as connection:
            numbers = _numbers_in_log(connection, [each.record_key for each in given])
        # Those before the first whose record lies beyond the cursor.
        waits = (place for place, each in enumerate(given) if numbers.get(each.record_key, 0) > position.cursor)
        ready = next(waits, len(given))
        if ready == 0 and given:
            return added
        if ready < len(given):
            given, after = log.feedback_since(position.feedback_cursor, limit=ready)
        if after == position.feedback_cursor:
            return added
        said: dict[str, dict[str, list[hourly.Opinion]]] = {}
        for each in given:
            if each.record_key in numbers:
                said.setdefault(each.app, {}).setdefault(each.record_key, []).append((each.score, each.label))
        fit, summaries = 0, {}
        with reading(engine) as connection:
            for app, by_key in said.items():
                found, new = _of_app(connection, position, app, by_key, numbers)
                fit += found
                summaries[app] = hourly.add_to_stored(connection, position.version, app, new)
        with translated("write"), writing(engine) as connection:
            changes = {"feedback_cursor": after, "unfit": ingest_cursors.c.unfit + len(given) - fit}
            if advance(connection, position, **changes):
                for app, stored in summaries.items():
                    hourly.write_summaries(connection, position.version, app, stored)
                added += fit


def _numbers_in_log(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    """The number that the log gave to each record, by its key."""
    found: dict[str, int] = {}
    for part in in_batches(keys, MOST_LISTED):
        query = sa.select(log_places.c.key, log_places.c.seq).where(log_places.c.key.in_(part))
        found.update({key: int(seq) for key, seq in connection.execute(query)})
    return found


def _of_app(
    connection: sa.Connection,
    position: Position,
    app: str,
    said: Mapping[str, Sequence[hourly.Opinion]],
    numbers: Mapping[str, int],
) -> tuple[int, dict[hourly.SummaryKey, Summary]]:
    """How many opinions are about a described row, and their summaries. numbers: in the log, of each record."""
    left = dict(said)
    merges: dict[hourly.SummaryKey, SummaryMerge] = {}
    for key, seq in sorted(((key, numbers[key]) for key in said), key=lambda item: item[1]):
        if key not in left:
            continue  # stood in the same segment as an earlier one
        for segment in segments.between(connection, [position.version], app, seq - 1, seq):
            rows = segments.decode(segment.data, ())
            for place, summary in hourly.summarise_feedback(rows, left, position.dimensions).items():
                merges.setdefault(place, SummaryMerge()).add(summary)
            for found in left.keys() & set(rows.keys):
                del left[found]
    fit = sum(len(said[key]) for key in said.keys() - left.keys())
    return fit, {place: merge.result() for place, merge in merges.items()}
