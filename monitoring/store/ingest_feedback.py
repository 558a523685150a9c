"""Follows the log's feedback: adds each, once, to the summaries of the answer that it is about.

Feedback on a row that is not described yet waits, and so does all that came after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from llmops.production_log import ProductionLog
from monitoring.store.database import in_parts, ingest_cursors, log_places, reading, translated, writing
from monitoring.store.hourly import Opinion, SummaryKey, add_to_stored, summarise_feedback, write_summaries
from monitoring.store.ingest import BATCH, DEFAULT_SLICES, Position, advance, position_of
from monitoring.store.segments import between, decode
from monitoring.store.summaries import Summary

if TYPE_CHECKING:
    from monitoring.descriptors import DescriptorSet


@dataclass(frozen=True, slots=True)
class IngestedFeedback:
    """added: to summaries. unfit: about no described row (a raw model's, a deleted one). waiting: 1,000 at most, until
    the rows that they are about are described."""

    added: int = 0
    unfit: int = 0
    waiting: int = 0


def ingest_feedback(
    log: ProductionLog,
    engine: sa.Engine,
    descriptor_set: DescriptorSet,
    *,
    slices: Sequence[str] = DEFAULT_SLICES,
) -> IngestedFeedback:
    """Adds what was said since the last time; call it after `ingest`. Raises StoreUnavailable."""
    added = unfit = 0
    while True:
        position = position_of(engine, descriptor_set, slices)
        given, after = log.feedback_since(position.feedback_cursor, limit=BATCH)
        with reading(engine) as connection:
            numbers = _numbers_in_log(connection, [each.record_key for each in given])
        # Those before the first whose record lies beyond the cursor.
        waits = (place for place, each in enumerate(given) if numbers.get(each.record_key, 0) > position.cursor)
        ready = next(waits, len(given))
        if ready < len(given):
            if not ready:
                return IngestedFeedback(added, unfit, len(given))
            given, after = log.feedback_since(position.feedback_cursor, limit=ready)
        if after == position.feedback_cursor:
            return IngestedFeedback(added, unfit)
        said: dict[str, dict[str, list[Opinion]]] = {}
        for each in given:
            if each.record_key in numbers:
                said.setdefault(each.app, {}).setdefault(each.record_key, []).append((each.score, each.label))
        fit, summaries = 0, {}
        with reading(engine) as connection:
            for app, by_key in said.items():
                found, new = _of_app(connection, position, app, by_key, numbers)
                fit += found
                summaries[app] = add_to_stored(connection, position.version, app, new)
        with translated("write"), writing(engine) as connection:
            changes = {"feedback_cursor": after, "unfit": ingest_cursors.c.unfit + len(given) - fit}
            if advance(connection, position, **changes):
                for app, stored in summaries.items():
                    write_summaries(connection, position.version, app, stored)
                added, unfit = added + fit, unfit + len(given) - fit


def _numbers_in_log(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    """The number that the log gave to each record, by its key."""
    found: dict[str, int] = {}
    for part in in_parts(keys):
        query = sa.select(log_places.c.key, log_places.c.seq).where(log_places.c.key.in_(part))
        found.update({key: int(seq) for key, seq in connection.execute(query)})
    return found


def _of_app(
    connection: sa.Connection,
    position: Position,
    app: str,
    said: Mapping[str, Sequence[Opinion]],
    numbers: Mapping[str, int],
) -> tuple[int, dict[SummaryKey, Summary]]:
    """How many opinions are about a described row, and their summaries. numbers: in the log, of each record."""
    left, parts = dict(said), []
    for key, seq in sorted(((key, numbers[key]) for key in said), key=lambda item: item[1]):
        if key not in left:
            continue  # stood in the same segment as an earlier one
        for segment in between(connection, [position.version], app, seq - 1, seq):
            rows = decode(segment.data, ())
            parts.append(summarise_feedback(rows, left, position.dimensions))
            for found in left.keys() & set(rows.keys):
                del left[found]
    new: dict[SummaryKey, list[Summary]] = {}
    for part in parts:
        for place, summary in part.items():
            new.setdefault(place, []).append(summary)
    fit = sum(len(said[key]) for key in said.keys() - left.keys())
    return fit, {place: Summary.merged(summaries) for place, summaries in new.items()}
