"""Follows the production log and its feedback: describes what is new, once, and keeps it beside the log.

A batch's segments, hourly summaries and the cursor after them are written in one transaction, and only when nobody has
changed anything since the batch was begun. So two ingests at once are safe, and one that is killed has done a batch or
has not: no row is missed and none counts twice. A row of another app changes nothing, and a day without traffic costs
one question to the database.

When descriptors or slices change, the log is gone through from its beginning once more. Values of descriptors that are
the same as before are taken from the old segments, also for rows whose texts retention has deleted since; a changed
descriptor of the text has no value there. When the new version has caught up, the older ones are deleted.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa

from llmops.hashing import content_hash
from llmops.production_log import PREDICT, SHADOW, LogRecord, ProductionLog
from monitoring.descriptors import DescriptorSet
from monitoring.store import hourly, segments
from monitoring.store.database import (
    archived_files,
    descriptor_segments,
    forestall_ingest,
    hourly_summaries,
    ingest_cursors,
    ingest_failures,
    reading,
    translated,
    upsert,
    writing,
)
from monitoring.store.rows import ARM, DIMENSIONS, HOUR, SHADOW_OF, Column, DescribedRows, Objects, objects
from monitoring.store.summaries import Summary, stored_label

BATCH = 1000
_CHARACTERS = 20_000_000  # of a batch, when the ones before tell how long its texts will be
_LEAST_BATCH = 16

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, in rows of the log or in windows."""

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""As the built-in `map`, wherever it calls the function: here, or on the nodes of a cluster."""


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


@dataclass(frozen=True, slots=True)
class DescribedPart:
    """New rows of one app. failures: descriptor → rows and the first one's reason. said: opinions on the rows that came
    with them, by key."""

    app: str
    rows: DescribedRows
    failures: Mapping[str, tuple[int, str]]
    said: Mapping[str, Sequence[hourly.Opinion]] = field(default_factory=dict)


def ingest(
    log: ProductionLog,
    engine: sa.Engine,
    descriptor_set: DescriptorSet,
    *,
    slices: Sequence[str] = ("release",),
    progress: Progress | None = None,
    spread: Spread = map,
) -> int:
    """Describes all that the log holds beyond the cursor, in batches of bounded size; returns how many rows.

    slices: of DIMENSIONS, what hours are summarised by. Rows of raw models (no app), and of tabular models, which are
    no texts, are passed over.
    spread: describes the batches.

    Raises:
        StoreUnavailable: the database cannot be read or written; what was done stays.
        CannotRun: a descriptor can never work here.
    """
    position = start = position_of(engine, descriptor_set, slices)
    end, rows = log.records_end(), 0
    complete = False
    while not complete:
        complete = True
        new = _new_batches(log, engine, descriptor_set, position, end)
        for after, through, parts in spread(partial(_describe, descriptor_set), new):
            complete = write(engine, descriptor_set, position, (after, through), parts, cursor=through)
            position = position_of(engine, descriptor_set, slices)
            if not complete:  # another one has changed something: what follows is read again from where it came to
                break
            rows += sum(len(part.rows) for part in parts)
            if progress:
                progress(through - start.cursor, end - start.cursor)
    _finish(engine, position)
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
                    hourly.write_summaries(connection, hourly.add_to_stored(connection, position.version, app, part))


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


def write(
    engine: sa.Engine,
    descriptor_set: DescriptorSet,
    position: Position,
    span: tuple[int, int],
    parts: Sequence[DescribedPart],
    archived: Sequence[Mapping[str, Any]] = (),
    **changes: Any,
) -> bool:
    """Adds described rows to what is kept, in one transaction; False when another change came first, and nothing was
    written.

    span: what the log numbers the rows after and through. archived: of `archived_files`, what these rows are all of.
    changes: of the position, such as the cursor. Raises StoreUnavailable.
    """
    described = sum(len(part.rows) for part in parts)
    added = []
    for part in parts:
        new = hourly.summarise_by_hour(part.rows, descriptor_set.descriptors, position.dimensions)
        for place, summary in hourly.summarise_feedback(part.rows, part.said, position.dimensions).items():
            new[place] = Summary.merged([new[place], summary])
        with reading(engine) as connection:
            of_app = connection, position.version, part.app
            extended = segments.extended(*of_app, part.rows, descriptor_set.descriptors, *span)
            added.append((part, extended, hourly.add_to_stored(*of_app, new)))
    with translated("write"), writing(engine) as connection:
        if not advance(connection, position, described=ingest_cursors.c.described + described, **changes):
            return False
        for part, extended, summaries in added:
            segments.write_segments(connection, extended)
            hourly.write_summaries(connection, summaries)
            of = {"version": position.version, "app": part.app, "hour": int(part.rows.at.max() // HOUR)}
            failures = [
                {**of, "descriptor": name, "rows": times, "reason": stored_label(reason)}
                for name, (times, reason) in part.failures.items()
            ]
            upsert(connection, ingest_failures, failures, replaced=(), added=("rows",))
        if archived:
            connection.execute(sa.insert(archived_files), [{"version": position.version, **each} for each in archived])
    return True


def _finish(engine: sa.Engine, position: Position) -> None:
    """Once, when the version has caught up: deletes what older versions left."""
    if position.caught_up:
        return
    with translated("write"), writing(engine) as connection:
        if not advance(connection, position, caught_up=True):
            return  # another one is still at work, and will
        older = [each.version for each in positions(connection) if each.id < position.id]
        for table in (descriptor_segments, hourly_summaries, ingest_failures, archived_files, ingest_cursors):
            connection.execute(sa.delete(table).where(table.c.version.in_(older)))
        # Releases up to 0.9 kept values here, a row of JSON for each request; nothing reads them any more.
        connection.exec_driver_sql("DROP TABLE IF EXISTS descriptor_values")


_Kept = tuple[Mapping[str, Column], list[int]]
"""Values of an older version, by descriptor; and the places of their rows among the new ones."""


@dataclass(frozen=True, slots=True)
class _NewBatch:
    """Records that the log numbers after < seq <= through, by app, with what is known of each app's."""

    after: int
    through: int
    parts: Mapping[str, tuple[Sequence[LogRecord], Sequence[_Kept]]]


def _new_batches(
    log: ProductionLog, engine: sa.Engine, descriptor_set: DescriptorSet, position: Position, end: int
) -> Iterator[_NewBatch]:
    """All that there is after the position, up to the cursor `end`."""
    cursor, size = position.cursor, BATCH
    while cursor < end:
        records, through = log.records_since(cursor, limit=min(size, end - cursor))
        if through == cursor:
            return
        by_app: dict[str, list[LogRecord]] = {}
        for record in filter(is_described, records):
            by_app.setdefault(record.app, []).append(record)
        parts = {}
        for app, own in by_app.items():
            with reading(engine) as connection:
                kept = _kept_values(connection, position, app, own, (cursor, through), descriptor_set)
            parts[app] = own, kept
        yield _NewBatch(cursor, through, parts)
        cursor = through
        if records:
            characters = sum(len(record.input) + len(record.output) for record in records) / len(records)
            size = max(min(BATCH, int(_CHARACTERS / (characters + 1))), _LEAST_BATCH)


def is_described(record: LogRecord) -> bool:
    """Whether the record is of an app, and a text."""
    return bool(record.app) and record.route != PREDICT


def _describe(descriptor_set: DescriptorSet, batch: _NewBatch) -> tuple[int, int, list[DescribedPart]]:
    """What is to be written of a batch; in any process."""
    parts = [DescribedPart(app, *describe(own, descriptor_set, kept)) for app, (own, kept) in batch.parts.items()]
    return batch.after, batch.through, parts


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


def describe(
    records: Sequence[LogRecord], descriptor_set: DescriptorSet, kept: Sequence[_Kept] = ()
) -> tuple[DescribedRows, dict[str, tuple[int, str]]]:
    """The records as rows, and what could not be computed. kept: values that need not be. Raises CannotRun."""
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
