"""Descriptor values, computed once for each record and kept beside the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from llmops.production_log import LogRecord, ProductionLog, in_batches
from monitoring.database import descriptor_values as table
from monitoring.database import translated, writing
from monitoring.descriptors import DESCRIPTOR_VERSION, DESCRIPTORS, describe

BATCH = 256

Progress = Callable[[int, int], None]
"""Called with rows done and rows in the window."""


@dataclass(frozen=True, slots=True)
class DescribedRows:
    """A window of the log as columns. Numbers and flags are float32 with NaN for None; labels are text or None."""

    request_ids: Sequence[str]
    releases: np.ndarray[Any, np.dtype[np.object_]]
    columns: dict[str, np.ndarray[Any, Any]]

    def __len__(self) -> int:
        return len(self.request_ids)

    def select(self, chosen: np.ndarray[Any, Any]) -> DescribedRows:
        """The rows at the given positions, or where a mask of booleans is true."""
        positions = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        ids = [self.request_ids[position] for position in positions.tolist()]
        columns = {name: column[positions] for name, column in self.columns.items()}
        return DescribedRows(ids, self.releases[positions], columns)


class DescriptorStore:
    """Computes and reads descriptor values. One monitor at a time is usual; two at once only do some work twice."""

    def __init__(self, engine: sa.Engine, version: str = DESCRIPTOR_VERSION) -> None:
        self._engine = engine
        self._version = version

    def compute_missing(
        self,
        log: ProductionLog,
        *,
        app: str,
        since: datetime | None = None,
        until: datetime | None = None,
        batch: int = BATCH,
        progress: Progress | None = None,
    ) -> int:
        """Describes the app's records of the window that have no values of this version yet; returns how many.

        Memory is bounded by `batch` records. Each batch is stored before the next is read, so a stopped run goes on
        where it was. Raises StoreUnavailable.
        """
        total = log.count(app=app, since=since, until=until)
        # Records and values are only ever added, so equal counts mean that nothing is missing.
        if total == self.count(app=app, since=since, until=until):
            return 0
        done = computed = 0
        for records in in_batches(log.iterate(batch=batch, app=app, since=since, until=until), batch):
            known = self._known([record.key for record in records])
            missing = [record for record in records if record.key not in known]
            if missing:
                self._insert(_rows(missing, self._version))
            done, computed = done + len(records), computed + len(missing)
            if progress:
                progress(done, total)
        return computed

    def count(self, *, app: str, since: datetime | None = None, until: datetime | None = None) -> int:
        """Rows of the window that have values of this version."""
        query = self._within(sa.select(sa.func.count()).select_from(table), app, since, until)
        with translated("read"), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def read(self, *, app: str, since: datetime | None = None, until: datetime | None = None) -> DescribedRows:
        """The values of the window `since <= at < until`, oldest row first. Raises StoreUnavailable."""
        chosen = sa.select(table.c.request_id, table.c.release, table.c["values"])
        query = self._within(chosen, app, since, until).order_by(table.c.at, table.c.key)
        ids: list[str] = []
        releases: list[str | None] = []
        lists: dict[str, list[Any]] = {name: [] for name in DESCRIPTORS}
        with translated("read"), self._engine.connect() as connection:
            for request_id, release, values in connection.execution_options(yield_per=1000).execute(query):
                ids.append(request_id)
                releases.append(release)
                for name, column in lists.items():
                    column.append(values.get(name))
        columns = {name: _column(name, lists.pop(name)) for name in DESCRIPTORS}
        return DescribedRows(ids, _objects(releases), columns)

    def _within(
        self, query: sa.Select[Any], app: str, since: datetime | None, until: datetime | None
    ) -> sa.Select[Any]:
        query = query.where(table.c.app == app, table.c.version == self._version)
        if since is not None:
            query = query.where(table.c.at >= since.timestamp())
        return query if until is None else query.where(table.c.at < until.timestamp())

    def _known(self, keys: Sequence[str]) -> set[str]:
        query = sa.select(table.c.key).where(table.c.version == self._version, table.c.key.in_(keys))
        with translated("read"), self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        with translated("write"):
            try:
                with writing(self._engine) as connection:
                    connection.execute(sa.insert(table), rows)
            except sa.exc.IntegrityError:
                # Another monitor described some of them meanwhile; the values are the same.
                known = self._known([row["key"] for row in rows])
                rest = [row for row in rows if row["key"] not in known]
                if rest:
                    with writing(self._engine) as connection:
                        connection.execute(sa.insert(table), rest)


def _rows(records: Sequence[LogRecord], version: str) -> list[dict[str, Any]]:
    return [
        {
            "key": record.key,
            "version": version,
            "at": record.at.timestamp(),
            "app": record.app,
            "release": record.release,
            "request_id": record.request_id,
            "values": values,
        }
        for record, values in zip(records, describe(records), strict=True)
    ]


def _column(name: str, values: list[Any]) -> np.ndarray[Any, Any]:
    if DESCRIPTORS[name].kind == "label":
        return _objects(values)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)


def _objects(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.object_]]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
