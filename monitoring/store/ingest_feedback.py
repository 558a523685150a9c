"""Joins feedback in the log with the described answers that it is about."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from llmops.production_log import ProductionLog, in_batches
from monitoring.descriptors import DescriptorSet
from monitoring.store import hourly, segments
from monitoring.store.database import MOST_LISTED, ingest_cursors, log_places, reading, translated, writing
from monitoring.store.ingest import BATCH, Position, advance, position_of
from monitoring.store.summaries import Summary, SummaryMerge


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
        fit, summaries = 0, list[dict[str, Any]]()
        with reading(engine) as connection:
            for app, by_key in said.items():
                found, new = _of_app(connection, position, app, by_key, numbers)
                fit += found
                summaries += hourly.add_to_stored(connection, position.version, app, new)
        with translated("write"), writing(engine) as connection:
            changes = {"feedback_cursor": after, "unfit": ingest_cursors.c.unfit + len(given) - fit}
            if advance(connection, position, **changes):
                hourly.write_summaries(connection, summaries)
                added += fit


def _numbers_in_log(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    """The number that the log gave to each record, by its key."""
    numbers: dict[str, int] = {}
    for part in in_batches(keys, MOST_LISTED):
        query = sa.select(log_places.c.key, log_places.c.seq).where(log_places.c.key.in_(part))
        numbers.update({key: int(seq) for key, seq in connection.execute(query)})
    return numbers


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
