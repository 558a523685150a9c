"""Reads windows of the described log: whole hours from their summaries, the rest from the rows.

A window is `since <= at < until`. Its summary equals that of all its rows (sums to a relative 1e-12), as long as no
hour has more than 200 values of the dimension or labels of a descriptor. Memory is bounded by 200 summaries and one
segment, whatever the window's length. Rows of shadow requests count only in the dimensions `arm` and `shadow_release`.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable
from llmops.production_log import SHADOW
from monitoring.descriptors import DescriptorSet
from monitoring.store.database import descriptor_segments, ingest_cursors, ingest_failures, reading
from monitoring.store.hourly import (
    APP,
    MOST_VALUES,
    feedback_between,
    read_hours,
    rows_by_value,
    summarise_by_hour,
    summarise_feedback,
)
from monitoring.store.ingest import Position, positions
from monitoring.store.packed_summaries import Packed, from_bytes
from monitoring.store.rows import ARM, HOUR, DescribedRows
from monitoring.store.segments import read_segments
from monitoring.store.summaries import OTHER, Summary, SummaryMerge

_FIRST_HOUR, _END_HOUR = -(1 << 40), 1 << 40

Span = tuple[float, float]


class WindowReader:
    """Windows in one version of the descriptors. Every method raises StoreUnavailable, and CannotRun when the log was
    never described by these descriptors."""

    def __init__(self, engine: sa.Engine, descriptor_set: DescriptorSet) -> None:
        self._engine, self._set = engine, descriptor_set

    def first_at(self, app: str) -> datetime | None:
        """When the app's first row came; None without any."""
        with self._reading() as (connection, position):
            table = descriptor_segments.c
            chosen = (table.version == position.version, table.app == app)
            at = connection.execute(sa.select(sa.func.min(table.at_min)).where(*chosen)).scalar()
        return None if at is None else datetime.fromtimestamp(at, UTC)

    def whole(self, app: str, since: datetime | None, until: datetime | None) -> Summary:
        """Of all the app's rows."""
        return self.by_value(app, since, until, APP).get("", Summary())

    def by_value(self, app: str, since: datetime | None, until: datetime | None, dimension: str) -> dict[str, Summary]:
        """A summary for each value of the dimension.

        Of more than MOST_VALUES values those with the most rows have summaries; under OTHER the rows of the rest are
        counted. A dimension that hours are not summarised by is counted row by row: as exact, and slower.
        """
        with self._reading() as (connection, position):
            window = _Window(connection, position, self._set, app, _seconds(since), _seconds(until, math.inf))
            return window.by_value(dimension)

    def hours(self, app: str, since: datetime | None, until: datetime | None) -> list[tuple[datetime, Summary]]:
        """A summary for each hour that has rows or feedback, by its beginning; the first and the last may be parts."""
        with self._reading() as (connection, position):
            window = _Window(connection, position, self._set, app, _seconds(since), _seconds(until, math.inf))
            by_hour = window.by_hour()
        return [(datetime.fromtimestamp(hour * HOUR, UTC), summary) for hour, summary in sorted(by_hour.items())]

    def parts(
        self,
        app: str,
        since: datetime | None,
        until: datetime | None,
        columns: Collection[str] | None = None,
        where: Mapping[str, str | None] | None = None,
        *,
        shadow: bool = False,
    ) -> Iterator[DescribedRows]:
        """The window's rows, some thousands at a time, in the order of the log.

        columns: only these descriptors. where: only rows with these values of dimensions. shadow: also the rows of
        shadow requests, which are else left out unless `where` asks for the arm `shadow`.
        """
        wanted = dict(where or {})
        for rows in self.segments(app, since, until, columns):
            chosen = np.ones(len(rows), dtype=bool)
            if not shadow and wanted.get(ARM) != SHADOW:
                chosen &= rows.dimensions[ARM] != SHADOW
            for name, value in wanted.items():
                chosen &= np.array([found == value for found in rows.dimensions[name]], dtype=bool)
            if chosen.any():
                yield rows.select(chosen)

    def segments(
        self, app: str, since: datetime | None, until: datetime | None, columns: Collection[str] | None = None
    ) -> Iterator[DescribedRows]:
        """All rows of the window, those of shadow requests too, a segment's at a time."""
        with self._reading() as (connection, position):
            span = {"since": _seconds(since), "until": _seconds(until, math.inf)}
            yield from read_segments(connection, position.version, app, columns=columns, **span)

    def failures(self, app: str, since: datetime | None, until: datetime | None) -> dict[str, int]:
        """By descriptor, rows of the window without a value because it could not be computed.

        They are counted by batches of up to 1,000 rows, under the hour of the batch's newest row.
        """
        table = ingest_failures.c
        with self._reading() as (connection, position):
            query = sa.select(table.descriptor, sa.func.sum(table.rows)).where(
                table.version == position.version, table.app == app
            )
            if since is not None:
                query = query.where(table.hour >= since.timestamp() // HOUR)
            if until is not None:
                query = query.where(table.hour < until.timestamp() / HOUR)
            rows = connection.execute(query.group_by(table.descriptor).order_by(table.descriptor)).all()
        return {name: int(count) for name, count in rows}

    @contextmanager
    def _reading(self) -> Iterator[tuple[sa.Connection, Position]]:
        with reading(self._engine) as connection:
            mine = sa.select(ingest_cursors.c.id).where(ingest_cursors.c.descriptors == self._set.version)
            ids = set(connection.execute(mine).scalars())
            found = [position for position in positions(connection) if position.id in ids]
            if not found:
                raise CannotRun("the production log was not described by the present descriptors yet")
            # While other slices are being summarised, the former ones are complete.
            yield connection, next((each for each in found if each.caught_up), found[0])


@dataclass(frozen=True, slots=True)
class _Window:
    """One window of one app, in one transaction."""

    connection: sa.Connection
    position: Position
    descriptor_set: DescriptorSet
    app: str
    since: float
    until: float

    def by_value(self, dimension: str) -> dict[str, Summary]:
        hours, edges = self._hours_and_edges(dimension)
        merges: dict[str, SummaryMerge] = {}
        rows = rows_by_value(self.connection, self.position.version, self.app, dimension, *hours)
        kept = {value for value, _ in sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:MOST_VALUES]}
        others = sum(count for value, count in rows.items() if value not in kept)
        for _, value, stored in self._stored(dimension, hours, kept if len(kept) < len(rows) else None):
            merges.setdefault(value, SummaryMerge()).add(stored)
        for _, value, summary in self._at_edges(edges, dimension):
            if value in merges or len(merges) < MOST_VALUES or value == OTHER:
                merges.setdefault(value, SummaryMerge()).add(summary)
            else:
                others += summary.rows
        if others:
            merges.setdefault(OTHER, SummaryMerge()).add(Summary(rows=others))
        return {value: merge.result() for value, merge in merges.items()}

    def by_hour(self) -> dict[int, Summary]:
        hours, edges = self._hours_and_edges(APP)
        merges: dict[int, SummaryMerge] = {}
        parts: Iterable[tuple[int, str, Summary | Packed]]
        parts = itertools.chain(self._stored(APP, hours), self._at_edges(edges, APP))
        for hour, _, part in parts:
            merges.setdefault(hour, SummaryMerge()).add(part)
        return {hour: merge.result() for hour, merge in merges.items()}

    def _hours_and_edges(self, dimension: str) -> tuple[tuple[int, int], list[Span]]:
        """The whole hours first … end - 1, and what is left of the window before and after them."""
        first = _FIRST_HOUR if self.since == -math.inf else math.ceil(self.since / HOUR)
        end = _END_HOUR if self.until == math.inf else math.floor(self.until / HOUR)
        if first >= end or dimension not in self.position.dimensions:
            return (0, 0), [(self.since, self.until)]
        before, after = (self.since, first * HOUR), (end * HOUR, self.until)
        return (first, end), [
            (since, until) for since, until in (before, after) if -math.inf < since < until < math.inf
        ]

    def _stored(
        self, dimension: str, hours: tuple[int, int], values: Collection[str] | None = None
    ) -> Iterator[tuple[int, str, Packed]]:
        """Hour, value and summary of whole hours. Raises StoreUnavailable, which names the hour, for one that is
        damaged."""
        place = self.connection, self.position.version, self.app, dimension, *hours
        with closing(read_hours(*place, values)) as summaries:
            for hour, value, data in summaries:
                try:
                    packed = from_bytes(data)
                except ValueError as error:
                    at = datetime.fromtimestamp(hour * HOUR, UTC).isoformat()
                    raise StoreUnavailable(
                        f"production log: the monitor's summary of the hour {at} is damaged: {error}"
                    ) from error
                yield hour, value, packed

    def _at_edges(self, edges: Sequence[Span], dimension: str) -> Iterator[tuple[int, str, Summary]]:
        """Hour, value and summary of the rows of spans, and of the feedback on them."""
        for since, until in edges:
            said = feedback_between(self.connection, self.app, since, until, self.position.feedback_cursor)
            for rows in read_segments(self.connection, self.position.version, self.app, since=since, until=until):
                new = summarise_by_hour(rows, self.descriptor_set.descriptors, [dimension])
                for part in (new, summarise_feedback(rows, said, [dimension])):
                    yield from ((hour, value, summary) for (_, hour, value), summary in part.items())


def _seconds(moment: datetime | None, otherwise: float = -math.inf) -> float:
    return otherwise if moment is None else moment.timestamp()
