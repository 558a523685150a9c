"""Feedback in the summaries of the hour and slices of the answer that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa

from monitoring.store.database import feedback_given, log_places
from monitoring.store.hourly import Place, values_in
from monitoring.store.rows import HOUR, DescribedRows
from monitoring.store.summaries import Summary, summary_of_feedback

Said = tuple[float | None, str | None]
"""A score and a label, as far as given."""


def summarise_feedback(
    rows: DescribedRows, said: Mapping[str, Sequence[Said]], dimensions: Sequence[str]
) -> dict[Place, Summary]:
    """By dimension, hour and value of the rows. said: what was said of each, by the record's key."""
    rows = rows.select(np.fromiter((key in said for key in rows.keys), dtype=bool, count=len(rows)))
    hours = (rows.at // HOUR).astype(np.int64).tolist()
    found: dict[Place, list[Said]] = {}
    for dimension in dimensions:
        for key, hour, value in zip(rows.keys, hours, values_in(rows, dimension), strict=True):
            if value is not None:
                found.setdefault((dimension, hour, value), []).extend(said[key])
    return {place: _summary(given) for place, given in found.items()}


def feedback_between(
    connection: sa.Connection, app: str, since: float, until: float, cursor: int
) -> dict[str, list[Said]]:
    """What was said, up to the feedback cursor, of the app's requests with `since <= at < until`, by record key."""
    given, log = feedback_given.c, log_places.c
    query = sa.select(given.record_key, given.score, given.label).join(log_places, log.key == given.record_key)
    query = query.where(log.app == app, log.at >= since, log.at < until, given.seq <= cursor)
    said: dict[str, list[Said]] = {}
    for key, score, label in connection.execute(query):
        said.setdefault(key, []).append((score, label))
    return said


def _summary(given: Sequence[Said]) -> Summary:
    scores = [score for score, _ in given if score is not None]
    return summary_of_feedback(scores, [label for _, label in given if label is not None])
