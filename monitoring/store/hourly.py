"""Summaries of whole hours, for the app and for each slice, added up as rows are described.

Each row counts once in the dimension APP, and once under its value in each dimension that it has one in. Rows of
shadow requests were returned to nobody: they count only under the arm `shadow` and the release that gave the answer.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from llmops.production_log import SHADOW, in_batches
from monitoring.descriptors.model import Descriptor
from monitoring.store.database import MOST_LISTED, feedback_given, log_places, upsert
from monitoring.store.database import hourly_summaries as table
from monitoring.store.packed_summaries import Integers, from_bytes
from monitoring.store.rows import ARM, HOUR, DescribedRows
from monitoring.store.summaries import OTHER, Summariser, Summary, SummaryMerge, summary_of_feedback

APP = "app"
"""The dimension of the whole app; its one value is empty."""

SHADOW_RELEASE = "shadow_release"
"""The dimension of shadow rows: by the release that answered unseen."""

ALWAYS = (APP, ARM, SHADOW_RELEASE)
"""Summarised whatever the configuration slices by."""

MOST_VALUES = 200
"""Of one dimension in one hour; rows of others are counted under OTHER."""

VALUE_CHARACTERS = 512
SummaryKey = tuple[str, int, str]
"""Dimension, hour, value."""


def values_in(rows: DescribedRows, dimension: str) -> list[str | None]:
    """Each row's value in the dimension; None where it does not count there."""
    variants = rows.dimensions[ARM].tolist()
    if dimension == ARM:
        return [_named(arm) for arm in variants]
    if dimension == APP:
        return [None if arm == SHADOW else "" for arm in variants]
    unseen = dimension == SHADOW_RELEASE
    values = rows.dimensions["release" if unseen else dimension].tolist()
    return [_named(value) if (arm == SHADOW) is unseen else None for arm, value in zip(variants, values, strict=True)]


def summarise_by_hour(
    rows: DescribedRows, descriptors: Mapping[str, Descriptor], dimensions: Sequence[str]
) -> dict[SummaryKey, Summary]:
    """The rows' summaries, before any limit on the number of values."""
    summariser = Summariser(rows, descriptors)
    hours = (rows.at // HOUR).astype(np.int64)
    by_place: dict[SummaryKey, Summary] = {}
    for dimension in dimensions:
        places, groups = group(zip(hours.tolist(), values_in(rows, dimension), strict=True), len(rows))
        summaries = summariser.by_group(groups, len(places))
        by_place |= {(dimension, *place): summary for place, summary in zip(places, summaries, strict=True)}
    return by_place


def group(pairs: Iterable[tuple[int, str | None]], length: int) -> tuple[list[tuple[int, str]], Integers]:
    """The different pairs of hour and value, in order of appearance, and each row's among them; -1 without a value."""
    numbers: dict[tuple[int, str], int] = {}
    groups = np.full(length, -1, dtype=np.int64)
    for row, (hour, value) in enumerate(pairs):
        if value is not None:
            groups[row] = numbers.setdefault((hour, value), len(numbers))
    return list(numbers), groups


def add_to_stored(
    connection: sa.Connection, version: str, app: str, new: Mapping[SummaryKey, Summary]
) -> list[dict[str, Any]]:
    """The rows of the table that are to be written so that `new` is counted too. Only reads.

    Each is counted in its own place, or in OTHER when the hour has MOST_VALUES values without it.
    """
    known = _values_stored(connection, version, app, {hour for _, hour, _ in new})
    counted: dict[SummaryKey, list[Summary]] = {}
    for (dimension, hour, value), summary in new.items():
        values = known.setdefault((dimension, hour), set())
        if value not in values and len(values) < MOST_VALUES:
            values.add(value)
        counted.setdefault((dimension, hour, value if value in values else OTHER), []).append(summary)
    before = dict(_read(connection, version, app, counted))
    merged = []
    for place, summaries in counted.items():
        total = summaries[0]
        if place in before or len(summaries) > 1:
            merge = SummaryMerge()
            if place in before:
                merge.add(from_bytes(before[place]))
            for summary in summaries:
                merge.add(summary)
            total = merge.result()
        total = total.limited()
        names = dict(zip(("dimension", "hour", "value"), place, strict=True))
        merged.append({"version": version, "app": app, **names, "rows": total.rows, "data": total.to_bytes()})
    return merged


def write_summaries(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores them in the place of those with the same dimension, hour and value."""
    upsert(connection, table, rows, ("rows", "data"))


def delete_hours(connection: sa.Connection, version: str, app: str, hours: Sequence[int]) -> None:
    """Deletes their summaries, in every dimension."""
    for part in in_batches(hours, MOST_LISTED):
        chosen = (table.c.version == version, table.c.app == app, table.c.hour.in_(part))
        connection.execute(sa.delete(table).where(*chosen))


def read_hours(
    connection: sa.Connection,
    version: str,
    app: str,
    dimension: str,
    first: int,
    end: int,
    values: Collection[str] | None = None,
) -> Generator[tuple[int, str, bytes]]:
    """Hour, value and data of the summaries of the hours first … end - 1, in this order. values: only of these."""
    columns = (table.c.hour, table.c.value, table.c.data)
    query = sa.select(*columns).where(*_within(version, app, dimension, first, end))
    if values is not None:
        query = query.where(table.c.value.in_(list(values)))
    query = query.order_by(table.c.hour, table.c.value)
    with connection.execute(query, execution_options={"yield_per": 100}) as rows:
        yield from rows


def rows_by_value(
    connection: sa.Connection, version: str, app: str, dimension: str, first: int, end: int
) -> Counter[str]:
    """How many rows the hours first … end - 1 have of each value."""
    query = sa.select(table.c.value, sa.func.sum(table.c.rows)).where(*_within(version, app, dimension, first, end))
    return Counter({value: int(rows) for value, rows in connection.execute(query.group_by(table.c.value))})


def _within(version: str, app: str, dimension: str, first: int, end: int) -> list[sa.ColumnElement[bool]]:
    same = [table.c.version == version, table.c.app == app, table.c.dimension == dimension]
    return [*same, table.c.hour >= first, table.c.hour < end]


def _values_stored(
    connection: sa.Connection, version: str, app: str, hours: set[int]
) -> dict[tuple[str, int], set[str]]:
    values: dict[tuple[str, int], set[str]] = {}
    for part in in_batches(sorted(hours), MOST_LISTED):
        query = sa.select(table.c.dimension, table.c.hour, table.c.value)
        chosen = (table.c.version == version, table.c.app == app, table.c.hour.in_(part), table.c.value != OTHER)
        for dimension, hour, value in connection.execute(query.where(*chosen)):
            values.setdefault((dimension, hour), set()).add(value)
    return values


def _read(
    connection: sa.Connection, version: str, app: str, keys: Collection[SummaryKey]
) -> Iterator[tuple[SummaryKey, bytes]]:
    by_slice: dict[tuple[str, int], list[str]] = {}
    for dimension, hour, value in keys:
        by_slice.setdefault((dimension, hour), []).append(value)
    for (dimension, hour), values in by_slice.items():
        chosen = [*_within(version, app, dimension, hour, hour + 1), table.c.value.in_(values)]
        for value, data in connection.execute(sa.select(table.c.value, table.c.data).where(*chosen)):
            yield (dimension, hour, value), data


def _named(value: str | None) -> str | None:
    """None for an empty value; no longer than the table takes."""
    return value[:VALUE_CHARACTERS] if value else None


Opinion = tuple[float | None, str | None]
"""A score and a label, as far as given."""


def summarise_feedback(
    rows: DescribedRows, said: Mapping[str, Sequence[Opinion]], dimensions: Sequence[str]
) -> dict[SummaryKey, Summary]:
    """By dimension, hour and value of the rows. said: what was said of each, by the record's key."""
    rows = rows.select(np.fromiter((key in said for key in rows.keys), dtype=bool, count=len(rows)))
    hours = (rows.at // HOUR).astype(np.int64).tolist()
    opinions: dict[SummaryKey, list[Opinion]] = {}
    for dimension in dimensions:
        for key, hour, value in zip(rows.keys, hours, values_in(rows, dimension), strict=True):
            if value is not None:
                opinions.setdefault((dimension, hour, value), []).extend(said[key])
    return {
        place: summary_of_feedback(
            [score for score, _ in given if score is not None], [label for _, label in given if label is not None]
        )
        for place, given in opinions.items()
    }


def feedback_between(
    connection: sa.Connection, app: str, since: float, until: float, cursor: int
) -> dict[str, list[Opinion]]:
    """What was said, up to the feedback cursor, of the app's requests with `since <= at < until`, by record key."""
    given, log = feedback_given.c, log_places.c
    query = sa.select(given.record_key, given.score, given.label).join(log_places, log.key == given.record_key)
    query = query.where(log.app == app, log.at >= since, log.at < until, given.seq <= cursor)
    said: dict[str, list[Opinion]] = {}
    for key, score, label in connection.execute(query):
        said.setdefault(key, []).append((score, label))
    return said
