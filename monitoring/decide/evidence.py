"""The requests behind alarms: those rows of a window that show a change best, found in one pass over its segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmops.production_log import SHADOW
from monitoring.store.rows import ARM, DescribedRows

if TYPE_CHECKING:
    from monitoring.decide.pinned_summaries import Windows


@dataclass(frozen=True, slots=True)
class Telling:
    """Which rows show a change of one descriptor.

    want: `high` or `low`: values beyond `value`, the farthest first; `equal`: values that equal it, the newest first.
    place: dimension and value that the rows must have; None for any row.
    """

    name: str
    want: Literal["high", "low", "equal"]
    value: float | str
    place: tuple[str, str] | None = None


def telling_rows(
    reader: Windows, app: str, since: datetime, until: datetime, asked: Sequence[Telling], limit: int
) -> list[tuple[str, ...]]:
    """For each of `asked`, at most `limit` request ids, most telling first. Reads the window once, hour by hour.

    Raises StoreUnavailable.
    """
    if not asked or not limit:
        return [() for _ in asked]
    best = [_Best(each, limit) for each in asked]
    columns = sorted({each.name for each in asked})
    for rows in reader.parts(app, since, until, columns, shadow=True):
        for each in best:
            each.add(rows)
    return [each.request_ids for each in best]


class _Best:
    """The rows kept so far for one question."""

    def __init__(self, asked: Telling, limit: int) -> None:
        self._asked, self._limit = asked, limit
        self._found: list[tuple[float, float, str]] = []  # score, time, request id; the most telling first

    @property
    def request_ids(self) -> tuple[str, ...]:
        return tuple(request_id for _, _, request_id in self._found)

    def add(self, rows: DescribedRows) -> None:
        if self._asked.name in rows.columns:
            self._found = sorted(self._found + self._new(rows), reverse=True)[: self._limit]

    def _new(self, rows: DescribedRows) -> list[tuple[float, float, str]]:
        score = np.where(self._chosen(rows), self._scores(rows), -np.inf)
        positions = np.flatnonzero(score > (-np.inf if self._asked.want == "equal" else 0.0))
        if len(positions) > self._limit:
            best = np.lexsort((rows.at[positions], score[positions]))[-self._limit :]
            positions = positions[best]
        return [(float(score[each]), float(rows.at[each]), rows.request_ids[each]) for each in positions.tolist()]

    def _chosen(self, rows: DescribedRows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        place = self._asked.place
        if place is not None and place[0] == ARM:
            return np.asarray(rows.dimensions[ARM] == place[1], dtype=bool)
        answered = np.asarray(rows.dimensions[ARM] != SHADOW, dtype=bool)
        return answered if place is None else answered & np.asarray(rows.dimensions[place[0]] == place[1], dtype=bool)

    def _scores(self, rows: DescribedRows) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        column, asked = rows.columns[self._asked.name], self._asked
        if asked.want == "equal":
            return np.where(column == asked.value, rows.at, -np.inf)
        distance = (column - np.float32(asked.value)).astype(np.float64)
        distance = distance if asked.want == "high" else -distance
        return np.where(np.isfinite(distance), distance, -np.inf)
