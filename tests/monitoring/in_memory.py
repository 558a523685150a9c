"""Described rows in memory, read as the log's windows are, and random windows of every descriptor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from monitoring.config import MonitorConfig
from monitoring.store.rows import ARM, ROW_DIMENSIONS, DescribedRows, objects
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader
from tests.moments import HOUR, START

FLAG_SHARE = 0.05

Change = Callable[[Any, Any], Any]


class InMemoryWindows(WindowReader):
    """A reader of rows that no database holds; shadow rows count under their arm only."""

    def __init__(self, config: MonitorConfig, *rows: DescribedRows) -> None:
        self._set, self._rows = config.descriptors, DescribedRows.concat(rows)

    def summary(
        self, app: str, since: datetime | None, until: datetime | None, dimension: str | None = None
    ) -> dict[str | None, Summary]:
        rows = self.rows(app, since, until, shadow=dimension == ARM)
        if dimension is None:
            return {None: Summary.of(rows, self._set)}
        values = {value for value in rows.dimensions.get(dimension, ()) if value}
        return {value: Summary.of(rows.select(rows.dimensions[dimension] == value), self._set) for value in values}

    def hours(self, app: str, since: datetime | None, until: datetime | None) -> list[tuple[datetime, Summary]]:
        rows = self.rows(app, since, until)
        hours = sorted(set((rows.at // 3600).tolist()))
        return [
            (datetime.fromtimestamp(hour * 3600, UTC), Summary.of(rows.select(rows.at // 3600 == hour), self._set))
            for hour in hours
        ]

    def segments(
        self, app: str, since: datetime | None, until: datetime | None, columns: Collection[str] | None = None
    ) -> Iterator[DescribedRows]:
        since, until = since or datetime.min.replace(tzinfo=UTC), until or datetime.max.replace(tzinfo=UTC)
        rows = self._rows.select((self._rows.at >= since.timestamp()) & (self._rows.at < until.timestamp()))
        for start in range(0, len(rows), 100):
            yield rows.select(np.arange(start, min(start + 100, len(rows))))


def window(
    config: MonitorConfig,
    rows: int,
    seed: int,
    *,
    hours: int = 0,
    change: Mapping[str, Change] | None = None,
    **dimensions: str,
) -> DescribedRows:
    """Random rows of one hour, which begins `hours` after START; the numbers of a side are one signal, as in texts."""
    chance = np.random.default_rng(seed)
    signal = {side: chance.normal(size=rows) for side in ("input", "output", "service")}
    columns: dict[str, Any] = {}
    for name, descriptor in config.descriptors.descriptors.items():
        if descriptor.kind == "numeric":
            columns[name] = (10 + signal[descriptor.side] + chance.normal(scale=0.5, size=rows)).astype(np.float32)
        elif descriptor.kind == "flag":
            columns[name] = (chance.random(rows) < FLAG_SHARE).astype(np.float32)
        else:
            columns[name] = chance.choice(np.array(["en", "de", "fr"], dtype=object), size=rows, p=[0.8, 0.15, 0.05])
    for name, changed in (change or {}).items():
        columns[name] = changed(columns[name], chance)
    at = (START + hours * HOUR).timestamp() + np.sort(chance.random(rows)) * 3600
    given = {"release": "assistant@1", ARM: "champion", **dimensions}
    return DescribedRows(
        [f"{seed:08x}{row:024x}" for row in range(rows)],
        [f"s{seed}r{row}" for row in range(rows)],
        at,
        {name: objects([given.get(name)] * rows) for name in ROW_DIMENSIONS},
        columns,
    )


def shifted(by: float) -> Change:
    return lambda column, _chance: column + np.float32(by)


def share(of: float) -> Change:
    return lambda column, chance: (chance.random(len(column)) < of).astype(np.float32)
