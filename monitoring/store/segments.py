"""Described rows as Arrow streams in the log's database, some thousands in each.

A segment says of itself what its columns are and in which version, so that it can be summed up again, and its values
be used again, when the configuration has become another.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from monitoring.descriptors.model import Descriptor
from monitoring.store.database import descriptor_segments as table
from monitoring.store.database import forestall_ingest
from monitoring.store.rows import HOUR, ROW_DIMENSIONS, Column, DescribedRows, Objects, objects
from monitoring.store.summaries import stored_label

SEGMENT_ROWS = 4096
FORMAT = 1
"""Part of the storage's version: raised when segments or summaries are written otherwise."""

LANGUAGE = "input.language"
_STORED = tuple(name for name in ROW_DIMENSIONS if name != "language")
_OF_ROW = ("key", "request_id", "at")


def encode(rows: DescribedRows, descriptors: Mapping[str, Descriptor]) -> bytes:
    """As an Arrow stream. Of the columns those that `descriptors` names are kept."""
    import pyarrow as pa

    arrays: dict[str, Any] = {"key": pa.array(list(rows.keys)), "request_id": pa.array(list(rows.request_ids))}
    arrays["at"] = pa.array(rows.at)
    for name in _STORED:
        given = rows.dimensions.get(name)
        texts = [None] * len(rows) if given is None else given.tolist()
        arrays[f"/{name}"] = pa.array(texts, pa.string()).dictionary_encode()
    kept = {name: descriptors[name] for name in rows.columns if name in descriptors}
    for name, descriptor in kept.items():
        column = rows.columns[name]
        if descriptor.kind == "label":
            texts = [stored_label(value) for value in column.tolist()]
            arrays[name] = pa.array(texts, pa.string()).dictionary_encode()
        else:
            values = np.ascontiguousarray(column, dtype=np.float32)
            flags = descriptor.kind == "flag"
            arrays[name] = pa.array(values > 0, mask=np.isnan(values)) if flags else pa.array(values)
    described = {name: [each.kind, each.side, each.version] for name, each in kept.items()}
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    batch = batch.replace_schema_metadata({"descriptors": json.dumps(described)})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes, columns: Collection[str] | None = None) -> DescribedRows:
    """Reads `encode`. columns: only these descriptors', as far as the segment has them; None for all."""
    batch, descriptors = _opened(data, columns)
    arrays = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
    read = {
        name: _decoded(arrays[name], each.kind)
        for name, each in descriptors.items()
        if name in arrays and (columns is None or name in columns)
    }
    dimensions = {name: _labels(arrays[f"/{name}"]) for name in _STORED}
    language = _decoded(arrays[LANGUAGE], "label") if LANGUAGE in arrays else objects([None] * batch.num_rows)
    dimensions["language"] = language
    at = arrays["at"].to_numpy()
    keys, request_ids = (arrays[name].to_numpy(zero_copy_only=False).tolist() for name in ("key", "request_id"))
    return DescribedRows(keys, request_ids, at, dimensions, read)


def descriptors_in(data: bytes) -> dict[str, Descriptor]:
    """The descriptors whose values the segment holds: name, kind, side and version."""
    return _opened(data, ())[1]


def read_segments(
    connection: sa.Connection,
    version: str,
    app: str,
    *,
    since: float = -np.inf,
    until: float = np.inf,
    columns: Collection[str] | None = None,
) -> Iterator[DescribedRows]:
    """The app's rows with `since <= at < until` (seconds), one segment's at a time, in the order of the log."""
    for segment in stored(connection, version, app, since=since, until=until):
        rows = decode(segment.data, columns)
        if segment.at_min < since or segment.at_max >= until:
            rows = rows.select((rows.at >= since) & (rows.at < until))
        if len(rows):
            yield rows


def stored(
    connection: sa.Connection, version: str, app: str, *, since: float = -np.inf, until: float = np.inf
) -> Iterator[sa.Row[Any]]:
    """The app's segments that may have rows with `since <= at < until`, one after another."""
    chosen = [table.c.version == version, table.c.app == app]
    if since > -np.inf:
        chosen.append(table.c.at_max >= since)
    if until < np.inf:
        chosen.append(table.c.at_min < until)
    yield from _one_by_one(connection, *chosen)


def between(
    connection: sa.Connection, versions: Sequence[str], app: str, after_seq: int, through_seq: int
) -> Iterator[sa.Row[Any]]:
    """The app's segments that may have rows which the log numbers after_seq < seq <= through_seq, the oldest first."""
    chosen = (table.c.version.in_(versions), table.c.app == app)
    overlapping = (table.c.through_seq > after_seq, table.c.after_seq < through_seq)
    yield from _one_by_one(connection, *chosen, *overlapping)


def _one_by_one(connection: sa.Connection, *chosen: sa.ColumnElement[bool]) -> Iterator[sa.Row[Any]]:
    """In the order of their ids. By these, since the driver would hold all of a result, or the connection meanwhile."""
    for number in connection.execute(sa.select(table.c.id).where(*chosen).order_by(table.c.id)).scalars().all():
        row = connection.execute(sa.select(table).where(table.c.id == number)).one_or_none()
        if row is not None:
            yield row


def keys_between(connection: sa.Connection, version: str, app: str, since: float, until: float) -> set[str]:
    """Keys of the app's rows with `since <= at < until`, and of others that stand in the same segments."""
    segments = stored(connection, version, app, since=since, until=until)
    return {key for segment in segments for key in _keys_of(segment.data)}


def extended(
    connection: sa.Connection,
    version: str,
    app: str,
    rows: DescribedRows,
    descriptors: Mapping[str, Descriptor],
    after_seq: int,
    through_seq: int,
) -> list[dict[str, Any]]:
    """The segments to write for new rows, as rows of the table: the app's newest where it has room, filled up, and new
    ones, which have no id. Only reads."""
    newest = sa.select(table).where(table.c.version == version, table.c.app == app).order_by(table.c.id.desc()).limit(1)
    last = connection.execute(newest).one_or_none()
    same: dict[str, Any] = {"after_seq": after_seq}
    if last is not None and last.rows < SEGMENT_ROWS:
        same = {"after_seq": last.after_seq, "id": last.id}
        rows = DescribedRows.concat([decode(last.data), rows])
    segments = []
    for start in range(0, len(rows), SEGMENT_ROWS):
        part = rows.select(np.arange(start, min(start + SEGMENT_ROWS, len(rows))))
        segments.append(
            {"version": version, "app": app, **same, "through_seq": through_seq, **_columns(part, descriptors)}
        )
        same = {"after_seq": after_seq}
    return segments


def write_segments(connection: sa.Connection, segments: Sequence[Mapping[str, Any]]) -> None:
    """Stores new ones, and those that have an id in their place."""
    for segment in segments:
        if "id" in segment:
            connection.execute(sa.update(table).where(table.c.id == segment["id"]).values(**segment))
        else:
            connection.execute(sa.insert(table).values(**segment))


def rewrite_without(connection: sa.Connection, app: str, keys: Collection[str]) -> list[int]:
    """Deletes these records' rows from the app's segments, of every version, in the caller's transaction.

    An ingest that is under way begins its batch again, so delete the records from the log first (in this transaction
    or an earlier one). Returns the hours whose summaries are to be rebuilt (`ingest.rebuild_hours`).
    """
    forgotten = frozenset(keys)
    hours: set[int] = set()
    forestall_ingest(connection)
    for segment in _one_by_one(connection, table.c.app == app):
        if forgotten.isdisjoint(_keys_of(segment.data)):
            continue
        rows = decode(segment.data)
        leaves = np.fromiter((key in forgotten for key in rows.keys), dtype=bool, count=len(rows))
        hours.update((rows.at[leaves] // HOUR).astype(np.int64).tolist())
        if leaves.all():
            connection.execute(sa.delete(table).where(table.c.id == segment.id))
            continue
        rest = _columns(rows.select(~leaves), descriptors_in(segment.data))
        connection.execute(sa.update(table).where(table.c.id == segment.id).values(rest))
    return sorted(hours)


def holds(connection: sa.Connection, keys: Collection[str]) -> set[str]:
    """Which of the records have a row in a segment of any app and version: to prove that none has. Reads them all."""
    wanted = frozenset(keys)
    held: set[str] = set()
    for segment in _one_by_one(connection):
        held |= wanted.intersection(_keys_of(segment.data))
    return held


def _columns(rows: DescribedRows, descriptors: Mapping[str, Descriptor]) -> dict[str, Any]:
    """The columns of a segment that depend on its rows, of which there is at least one."""
    span = {"at_min": float(rows.at.min()), "at_max": float(rows.at.max())}
    return {"rows": len(rows), **span, "data": encode(rows, descriptors)}


def _keys_of(data: bytes) -> list[str]:
    import pyarrow as pa

    with pa.ipc.open_stream(data, options=pa.ipc.IpcReadOptions(included_fields=[0])) as stream:
        keys: list[str] = stream.read_next_batch().column(0).to_numpy(zero_copy_only=False).tolist()
    return keys


def _opened(data: bytes, columns: Collection[str] | None) -> tuple[Any, dict[str, Descriptor]]:
    import pyarrow as pa

    with pa.ipc.open_stream(data) as stream:
        schema = stream.schema
        if columns is None:
            batch = stream.read_next_batch()
    described = json.loads(schema.metadata[b"descriptors"])
    descriptors = {
        name: Descriptor(name, kind, side, version=version) for name, (kind, side, version) in described.items()
    }
    if columns is not None:
        wanted = {*_OF_ROW, *(f"/{name}" for name in _STORED), *columns, LANGUAGE}
        places = [place for place, name in enumerate(schema.names) if name in wanted]
        with pa.ipc.open_stream(data, options=pa.ipc.IpcReadOptions(included_fields=places)) as stream:
            batch = stream.read_next_batch()
    return batch, descriptors


def _labels(array: Any) -> Objects:
    """Of an array with a dictionary. To make one object of each text, and not one of each row, is ten times faster."""
    texts = objects([*array.dictionary.to_pylist(), None])
    chosen: Objects = texts[array.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return chosen


def _decoded(array: Any, kind: str) -> Column:
    if kind == "label":
        return _labels(array)
    if kind == "numeric":
        column: Column = array.to_numpy()
        return column
    missing = array.is_null().to_numpy(zero_copy_only=False)
    values = array.fill_null(False).to_numpy(zero_copy_only=False)
    return np.where(missing, np.float32(np.nan), values.astype(np.float32))
