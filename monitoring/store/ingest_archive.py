"""Describes what an archive of the log holds and the log holds no longer, some files at a time.

Their rows and the note that they are described are written in one transaction, so what was interrupted is begun again,
and no row counts twice. Rows that the log still has are left to `ingest`. Feedback counts as it was archived.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from llmops.hashing import content_hash
from llmops.production_log import LogRecord
from llmops.production_log.archive import Archive, StoredPartition
from monitoring.descriptors import DescriptorSet
from monitoring.descriptors.model import in_parts
from monitoring.store import segments
from monitoring.store.database import archived_files, log_places, reading
from monitoring.store.ingest import BATCH, DescribedPart, Progress, Spread, describe, is_described, position_of, write


@dataclass(frozen=True, slots=True)
class _File:
    """A file of an archive: all of a partition's where no manifest says that they share no record. stored: of its
    partition only this. entry: for `archived_files`."""

    stored: StoredPartition
    records: int
    entry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Files:
    """Some files to describe. known: keys of records that are described, or that the log has. entries: of the files
    whose rows will then be described all."""

    archive: str
    files: Sequence[_File]
    known: frozenset[str]
    entries: Sequence[dict[str, Any]]


def ingest_archive(
    archive: Archive,
    engine: sa.Engine,
    descriptor_set: DescriptorSet,
    *,
    slices: Sequence[str] = ("release",),
    progress: Progress | None = None,
    spread: Spread = map,
) -> int:
    """Describes the archived records that are not described yet; returns how many. Call it after `ingest`, alone among
    the processes that write to the archive. Arguments as `ingest`.

    Raises:
        StoreUnavailable: archive or database cannot be read or written; what was done stays.
        Corrupted: a file of the archive is not as it was written.
        CannotRun: a descriptor can never work here.
    """
    version = position_of(engine, descriptor_set, slices).version
    with reading(engine) as connection:
        columns = (archived_files.c[name] for name in ("app", "hour", "content"))
        query = sa.select(*columns).where(archived_files.c.version == version)
        done = {tuple(row) for row in connection.execute(query)}
    new = [file for file in _files(archive) if tuple(file.entry.values()) not in done]
    rows = seen = 0
    for files, parts in spread(partial(_describe, descriptor_set), _tasks(archive.url, engine, version, new)):
        while True:  # until nobody writes at the same moment
            position = position_of(engine, descriptor_set, slices)
            span = position.cursor, position.cursor
            if write(engine, descriptor_set, position, span, parts, archived=files.entries):
                break
        rows += sum(len(part.rows) for part in parts)
        seen += sum(file.records for file in files.files)
        if progress:
            progress(seen, sum(file.records for file in new))
    return rows


def _files(archive: Archive) -> Iterator[_File]:
    for stored in archive.partitions():
        if stored.manifest is None:
            parts = [(stored.files, BATCH)]
        else:
            parts = [((path,), each.records) for path, each in zip(stored.files, stored.manifest.files, strict=True)]
        for paths, records in parts:
            content = content_hash([path.rpartition("/")[2] for path in paths])[:16]
            entry = {"app": stored.partition.app, "hour": stored.partition.hour, "content": content}
            yield _File(dataclasses.replace(stored, files=paths), records, entry)


def _tasks(archive: str, engine: sa.Engine, version: str, new: Sequence[_File]) -> Iterator[_Files]:
    """Files of up to so many records together, or a single one."""
    for files in in_parts(new, lambda file: file.records, rows=BATCH, most=BATCH):
        known, entries = set[str](), []
        for file in files:
            partition, place = file.stored.partition, log_places.c
            since, until = partition.since.timestamp(), partition.until.timestamp()
            with reading(engine) as connection:
                described = segments.keys_between(connection, version, partition.app, since, until)
                own = sa.select(place.key).where(place.app == partition.app, place.at >= since, place.at < until)
                in_log = set(connection.execute(own).scalars())
            known |= described | in_log
            if in_log <= described:  # else the log may lose them before they are described
                entries.append(file.entry)
        yield _Files(archive, files, frozenset(known), entries)


def _describe(descriptor_set: DescriptorSet, files: _Files) -> tuple[_Files, list[DescribedPart]]:
    """What is to be written of the files; in any process."""
    archive, by_app = Archive(files.archive), dict[str, list[LogRecord]]()
    for file in files.files:
        for record in archive.records(file.stored):
            if record.key not in files.known and is_described(record):
                by_app.setdefault(record.app, []).append(record)
    parts = []
    for app, records in by_app.items():
        said = {each.key: [(one.score, one.label) for one in each.feedback] for each in records if each.feedback}
        parts.append(DescribedPart(app, *describe(records, descriptor_set), said))
    return dataclasses.replace(files, known=frozenset()), parts
