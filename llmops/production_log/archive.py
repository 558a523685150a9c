"""The log's archive: closed hours of the production log as Parquet files, in a folder or an S3 bucket.

    ROOT/app=assistant/date=2026-01-31/hour=12/records-000-1f0c8a53e2b7d964.parquet
                                               _manifest.json

A manifest lists the files that count. Files are named after their content, read back before a manifest lists them, and
deleted after it lists them no longer. So a writer that is killed leaves the partition as it was or as it was to become,
and files in no manifest, which the next one deletes. Writers must hold one lock for all archives of a log
(`llmops.pipelines.database.only_one`).
"""

import dataclasses
import functools
import hashlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq

from llmops.errors import Corrupted, StoreUnavailable, first_line
from llmops.file_storage import FileStorage
from llmops.hashing import file_sha256
from llmops.processes import scratch_folder
from llmops.production_log.archive_layout import (
    PARTITIONING,
    SCHEMA,
    ArchivedFile,
    Manifest,
    Partition,
    app_folder,
    lines_of,
    record_of_text,
    tables_of,
)
from llmops.production_log.forgetting import Belongings
from llmops.production_log.log import ProductionLog
from llmops.production_log.record import SHADOW, LogRecord, in_batches

FILE_BYTES = 128 << 20
"""When a partition's file is large enough, and the next one begins."""

MANIFEST = "_manifest.json"
_DIGITS = 16  # of a content's hash in a file's name
_DELETED_AT_ONCE = 500
Choose = Callable[[pa.Table], Any]
"""Says of each row whether it is wanted: booleans, null for no."""


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """A partition as it lies there. files: paths of those that count; without a manifest, all Parquet files. unlisted:
    paths of what a killed writer left."""

    partition: Partition
    manifest: Manifest | None
    files: tuple[str, ...]
    unlisted: tuple[str, ...]


class Archive:
    """Writes, reads and deletes archived records.

    Every method raises StoreUnavailable, and Corrupted for a file that is not as it was written. Reading methods take
    the windows of `ProductionLog.read`, and give equal records.
    """

    def __init__(self, url: str) -> None:
        """url: a folder, or `s3://BUCKET/PREFIX`. Raises UsageError, CannotRun."""
        self._storage = FileStorage(url, "archive")
        self.url = self._storage.url

    def check(self) -> None:
        """Raises StoreUnavailable where the archive's folder is gone, such as a disk that is not mounted."""
        if not self._storage.exists():
            advice = "if it was deleted for good: llmops log archive --to … --unregister"
            raise StoreUnavailable(f"archive {self.url}: is not there; {advice}")

    def archive(self, log: ProductionLog, partition: Partition, seen: tuple[int, ...]) -> tuple[Manifest, bool]:
        """Has the partition hold all that the log has of a closed hour, beside what it holds already; returns its
        manifest, and whether anything was written. seen: as `ProductionLog.hours` tells it.

        An archived record stays as it is, but gains new feedback; retention in the log takes no text from it.
        """
        stored = self._stored(partition, list(self._storage.files(partition.folder)))
        if stored.manifest is not None and stored.manifest.seen == seen:
            self._delete(stored.unlisted)
            return stored.manifest, False
        window: dict[str, Any] = {"app": partition.app, "since": partition.since, "until": partition.until}
        live = log.iterate(**window, shadow=True, feedback=True)
        return self._rewrite(stored, _merged(self.records(stored), live), seen), True

    def delete_from(self, log: ProductionLog, partition: Partition, manifest: Manifest, **up_to: int | None) -> int:
        """Deletes from the log what the partition holds, once it is read back; returns how many records. up_to: as
        `ProductionLog.delete_archived`."""
        deleted = 0
        for entry in manifest.files:
            self._check_file(partition, entry)
            path = f"{partition.folder}/{entry.name}"
            rows = (row for table in self._tables(path, ["key", "feedback"]) for row in table.to_pylist())
            for some in in_batches(rows, _DELETED_AT_ONCE):
                said = {row["key"]: {each["key"] for each in row["feedback"]} for row in some}
                deleted += log.delete_archived(said, **up_to)
        return deleted

    def count(self, **window: Any) -> int:
        """Number of records in the window."""
        paths, chosen = (path for stored in self.partitions(**window) for path in stored.files), _in_window(**window)
        return sum(table.num_rows for path in paths for table in self._tables(path, ["key"], chosen))

    def read(
        self, *, limit: int | None = None, newest: bool = False, feedback: bool = False, **window: Any
    ) -> list[LogRecord]:
        """Records of the window, oldest first; at most so many, from the start, or from the end with `newest`."""
        if not newest:
            return list(itertools.islice(self.iterate(feedback=feedback, **window), limit))
        records: list[LogRecord] = []
        for hour in reversed(self._hours(**window)):
            missing = None if limit is None else limit - len(records)
            records[:0] = deque(self._of_hour(hour, feedback, **window), maxlen=missing)
            if len(records) == limit:
                break
        return records

    def iterate(self, *, feedback: bool = False, **window: Any) -> Iterator[LogRecord]:
        """Records of the window, oldest first, with bounded memory."""
        for hour in self._hours(**window):
            yield from self._of_hour(hour, feedback, **window)

    def request_ids(self, beginning: str, *, limit: int) -> list[str]:
        """Ids of requests that begin so, at most so many; the id alone that is just so."""

        def begins(table: pa.Table) -> Any:
            return pc.starts_with(table["request_id"], beginning)

        paths = (path for stored in self.partitions() for path in stored.files)
        tables = (table for path in paths for table in self._tables(path, ["request_id"], begins))
        ids = {name for table in tables for name in table["request_id"].to_pylist()}
        return [beginning] if beginning in ids else sorted(ids)[:limit]

    def dataset(self) -> Any:
        """The files that count as one `pyarrow.dataset.Dataset`, with the columns of SCHEMA and of PARTITIONING.

        DuckDB reads it, and of it only the partitions and columns that a query asks for.
        """
        return pyarrow.dataset.dataset(
            [f"{self._storage.root}/{path}" for stored in self.partitions() for path in stored.files],
            schema=pa.schema([*SCHEMA, *PARTITIONING]),
            filesystem=self._storage.filesystem,
            format="parquet",
            partitioning=pyarrow.dataset.partitioning(PARTITIONING, flavor="hive"),
            partition_base_dir=self._storage.root,
        )

    def find(
        self, names: Collection[str], request_id: str | None = None, keys: Collection[str] = ()
    ) -> tuple[list[Mapping[str, Any]], Belongings, set[Partition]]:
        """Searches every file, listed in a manifest or not, for records of the users, of the request or with the keys,
        and for opinions by the users, on those records or comparing with them.

        Returns rows as `ProductionLog.belongings` takes them, the opinions, and where any of it lies.
        """
        rows = list[Mapping[str, Any]]()
        opinions, places, partitions = set[tuple[str, str]](), set[tuple[str, float]](), set[Partition]()
        of_request = () if request_id is None else (request_id,)

        def is_own(table: pa.Table) -> Any:
            shadow = pc.and_(pc.equal(table["outcome"], SHADOW), _is_in(table["shadow_of"], of_request))
            named = (("user", names), ("request_id", of_request), ("key", keys))
            return functools.reduce(pc.or_, [shadow, *(_is_in(table[name], values) for name, values in named)])

        def is_wanted(table: pa.Table) -> Any:
            return pc.or_(is_own(table), pc.greater(pc.list_value_length(table["feedback"]), 0))

        for path in self._storage.files():
            partition = Partition.of_folder(path.rpartition("/")[0])
            if partition is None or not path.endswith(".parquet"):
                continue
            for table in self._tables(path, SCHEMA.names[:-1], is_wanted):
                for row, own in zip(table.to_pylist(), is_own(table).to_pylist(), strict=True):
                    said = {
                        (each["key"], row["key"])
                        for each in row["feedback"]
                        if own or each["user"] in names or each["compared_key"] in keys
                    }
                    opinions |= said
                    if own:
                        rows.append({**row, "app": partition.app, "input": "", "output": ""})
                    elif said:
                        places.add((partition.app, row["at"].timestamp()))
                    if own or said:
                        partitions.add(partition)
        return rows, Belongings(opinions=frozenset(opinions), places=frozenset(places)), partitions

    def forget(self, belongings: Belongings, partitions: Iterable[Partition]) -> dict[str, int]:
        """Rewrites the partitions without it; returns how many records and opinions it deleted."""
        keys, opinions = belongings.all_keys, {key for key, _ in belongings.opinions}
        deleted = {"archived_records": 0, "archived_feedback": 0}

        def kept(records: Iterable[LogRecord]) -> Iterator[LogRecord]:
            for record in records:
                gone = record.key in keys
                said = () if gone else tuple(each for each in record.feedback if each.key not in opinions)
                deleted["archived_records"] += gone
                deleted["archived_feedback"] += len(record.feedback) - len(said)
                if not gone:
                    yield dataclasses.replace(record, feedback=said)

        for partition in sorted(partitions):
            stored = self._stored(partition, list(self._storage.files(partition.folder)))
            self._rewrite(stored, kept(self.records(stored)), None)
        return deleted

    def delete_before(self, moment: datetime, *, dry_run: bool = False) -> dict[str, int]:
        """Deletes the partitions of hours that ended by then; returns how many, and of how many records."""
        deleted = {"archived_hours": 0, "archived_records": 0}
        for stored in self.partitions(until=moment):
            if stored.partition.until <= moment:
                deleted["archived_hours"] += 1
                deleted["archived_records"] += 0 if stored.manifest is None else stored.manifest.records
                if not dry_run:
                    self._rewrite(stored, (), None)
        return deleted

    def verify(self) -> Iterator[tuple[StoredPartition, list[str]]]:
        """Reads every partition back, and says of each what is not as its manifest says."""
        for stored in self.partitions():
            manifest, problems = stored.manifest, [f"{path}: is in no manifest" for path in stored.unlisted]
            if manifest is None:
                problems.append(f"{stored.partition.folder}: has no manifest")
            for entry in () if manifest is None else manifest.files:
                try:
                    self._check_file(stored.partition, entry)
                except (Corrupted, StoreUnavailable) as error:
                    problems.append(str(error))
            yield stored, problems

    def _rewrite(self, stored: StoredPartition, records: Iterable[LogRecord], seen: tuple[int, ...] | None) -> Manifest:
        """Replaces what a partition holds; without a record the partition goes."""
        partition, old = stored.partition, stored.manifest
        known = {} if old is None else {each.name: each for each in old.files}
        tables, files = tables_of(records), list[ArchivedFile]()
        feedback, first, last = 0, None, None
        with scratch_folder("archive") as folder:
            local = folder / "records.parquet"
            while True:
                content, rows = hashlib.sha256(), 0
                with pq.ParquetWriter(local, SCHEMA, compression="zstd") as writer:
                    for table in tables:
                        writer.write_table(table, row_group_size=table.num_rows)
                        content.update(lines_of(table))
                        rows += table.num_rows
                        feedback += pc.sum(pc.list_value_length(table["feedback"])).as_py()
                        first, last = first or table["at"][0].as_py(), table["at"][-1].as_py()
                        if local.stat().st_size >= FILE_BYTES:
                            break
                if not rows:
                    break
                name = f"records-{len(files):03}-{content.hexdigest()[:_DIGITS]}.parquet"
                if name not in known:  # else these very records are there already
                    known[name] = ArchivedFile(name, rows, local.stat().st_size, file_sha256(local))
                    self._storage.write(f"{partition.folder}/{name}", local)
                    self._check_file(partition, known[name])
                files.append(known[name])
        since, until = (None if at is None else at.isoformat() for at in (first, last))
        count, hour = sum(each.records for each in files), partition.since.isoformat()
        new = Manifest(partition.app, hour, count, feedback, since, until, tuple(files), seen)
        path = f"{partition.folder}/{MANIFEST}"
        if new != old:
            self._storage.write(path, new.to_json())
        listed = {f"{partition.folder}/{each.name}" for each in files}
        self._delete(sorted({*stored.files, *stored.unlisted} - listed))
        if not files:
            self._delete([path])
        return new

    def _check_file(self, partition: Partition, entry: ArchivedFile) -> None:
        """Raises Corrupted where the file, read back, is not as its entry says."""
        path = f"{partition.folder}/{entry.name}"
        content, rows = hashlib.sha256(), 0
        with self._reading(path):
            same = self._storage.sha256(path) == entry.sha256
        for table in self._tables(path, ["record"]) if same else ():
            content.update(lines_of(table))
            rows += table.num_rows
        if rows != entry.records or content.hexdigest()[:_DIGITS] not in entry.name:
            raise Corrupted(f"archive {self.url}: {path} is not as it was written")

    def _delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._storage.delete(path)

    def _stored(self, partition: Partition, paths: Sequence[str]) -> StoredPartition:
        """paths: of all files in the partition's folder."""
        path = f"{partition.folder}/{MANIFEST}"
        content = self._storage.read(path) if path in paths else None
        if content is None:
            manifest, files = None, tuple(each for each in paths if each.endswith(".parquet"))
        else:
            manifest = Manifest.from_json(content, f"{self.url}/{path}")
            files = tuple(f"{partition.folder}/{each.name}" for each in manifest.files)
        return StoredPartition(partition, manifest, files, tuple(sorted(set(paths) - {path, *files})))

    def partitions(
        self, app: str | None = None, since: datetime | None = None, until: datetime | None = None, **_: Any
    ) -> Iterator[StoredPartition]:
        """Partitions that may have records of the window, in order of time."""
        paths: dict[Partition, list[str]] = {}
        for path in self._storage.files("" if app is None else app_folder(app)):
            partition = Partition.of_folder(path.rpartition("/")[0])
            if partition is None or (since and partition.until <= since) or (until and partition.since >= until):
                continue
            paths.setdefault(partition, []).append(path)
        for partition in sorted(paths):
            yield self._stored(partition, paths[partition])

    def _hours(self, **window: Any) -> list[list[StoredPartition]]:
        """The window's partitions, those of one hour together."""
        return [list(same) for _, same in itertools.groupby(self.partitions(**window), lambda it: it.partition.hour)]

    def _of_hour(self, hour: Sequence[StoredPartition], feedback: bool, **window: Any) -> Iterator[LogRecord]:
        """The window's records of an hour, of all apps, in order."""
        apps = [self.records(stored, _in_window(**window)) for stored in hour]
        for record in heapq.merge(*apps, key=_place):
            yield record if feedback else dataclasses.replace(record, feedback=())

    def records(self, stored: StoredPartition, choose: Choose | None = None) -> Iterator[LogRecord]:
        """The partition's records in order; without a manifest its files may overlap."""

        def of_file(path: str) -> Iterator[LogRecord]:
            for table in self._tables(path, ["record"], choose):
                yield from map(record_of_text, table["record"].to_pylist())

        by_file = [of_file(path) for path in stored.files]
        yield from itertools.chain(*by_file) if stored.manifest is not None else _merged(*by_file)

    def _tables(self, path: str, columns: Sequence[str], choose: Choose | None = None) -> Iterator[pa.Table]:
        """A file's row groups, of the chosen rows. Of row groups without any, `record` is not read."""
        with self._reading(path), self._storage.open(path) as opened, pq.ParquetFile(opened) as file:
            for group in range(file.num_row_groups):
                chosen = None if choose is None else choose(file.read_row_group(group, columns=SCHEMA.names[:-1]))
                if chosen is None:
                    yield file.read_row_group(group, columns=columns)
                elif pc.any(chosen).as_py():
                    yield file.read_row_group(group, columns=columns).filter(chosen)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreUnavailable(f"archive {self.url}: {path} is missing, or went while it was read") from error
        except pa.ArrowException as error:
            raise Corrupted(f"archive {self.url}: {path}: {first_line(error)}") from error


def _place(record: LogRecord) -> tuple[datetime, str]:
    return record.at, record.key


def _merged(*sources: Iterable[LogRecord]) -> Iterator[LogRecord]:
    """Each record of some ordered sources once, with the feedback of all; what an earlier source has stands."""
    for _, same in itertools.groupby(heapq.merge(*sources, key=_place), _place):
        first, *others = same
        said = {each.key: each for record in (*others, first) for each in record.feedback}
        yield dataclasses.replace(first, feedback=tuple(said.values())) if others else first


def _in_window(
    app: str | None = None,  # noqa: ARG001 - partitions are chosen by it
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
    shadow: bool = False,
) -> Choose:
    def choose(table: pa.Table) -> Any:
        wanted = [pc.is_valid(table["key"])]
        if request_id is not None:
            wanted.append(pc.equal(table["request_id"], request_id))
        elif not shadow:
            wanted.append(pc.not_equal(table["outcome"], SHADOW))
        wanted += [] if since is None else [pc.greater_equal(table["at"], since)]
        wanted += [] if until is None else [pc.less(table["at"], until)]
        return functools.reduce(pc.and_, wanted)

    return choose


def _is_in(column: pa.ChunkedArray, values: Collection[str]) -> Any:
    return pc.is_in(column, pa.array(sorted(values), pa.string()))
