"""Rows for the monitor's tests: cheap descriptors and log records, described rows, and windows of them in memory."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa

from llmops.production_log import LogRecord
from llmops.text_io import read_toml
from monitoring.config import MonitorConfig
from monitoring.descriptors.descriptor_set import DEFAULT_FILE, DescriptorSet
from monitoring.descriptors.model import Declared, Descriptor, Kind, Of, Side
from monitoring.store.rows import ARM, ROW_DIMENSIONS, DescribedRows, objects
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader
from tests.moments import HOUR, START

APP = "assistant"
STEP = timedelta(seconds=40)

Compute = Callable[[Sequence[Any]], Sequence[Any]]


def default_descriptors() -> DescriptorSet:
    """Those that the packaged file declares."""
    return DescriptorSet.from_config(read_toml(DEFAULT_FILE)["descriptor"], file=DEFAULT_FILE)


def declare(name: str, kind: Kind, of: Of, compute: Compute, version: str = "1", side: Side = "input") -> Declared:
    return Declared(Descriptor(name, kind, side, version=version), of, compute)


def cheap_set(*, output_version: str = "1", calls: list[int] | None = None) -> DescriptorSet:
    """Lengths, a flag, a label and the latency. calls: gets the number of answers each time they are described."""

    def of_answers(texts: Sequence[Any]) -> Sequence[Any]:
        if calls is not None:
            calls.append(len(texts))
        return [len(text) for text in texts]

    return DescriptorSet(
        [
            declare("input.length", "numeric", "input", lambda texts: [len(text) for text in texts]),
            declare("input.language", "label", "input", lambda texts: [text[:2] for text in texts]),
            declare("output.length", "numeric", "output", of_answers, output_version),
            declare("output.refusal", "flag", "output", lambda texts: ["sorry" in text for text in texts]),
            declare("latency_ms", "numeric", "record", lambda records: [each.latency_ms for each in records]),
        ]
    )


def record(number: int, **given: Any) -> LogRecord:
    """The log's record number so, STEP after the one before."""
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "key": f"{number:032x}",
        "at": START + number * STEP,
        "status": 200,
        "outcome": "ok",
        "input": ("en ", "de ", "fr ")[number % 3] + "x" * (number % 7),
        "output": "sorry" if number % 5 == 0 else "y" * (number % 11),
        "release": f"{APP}@{1 + number % 2}",
        "route": "chat",
        "latency_ms": 10.0 * (number % 13) + 0.25,
        "user": f"user{number % 4}",
        "details": {"arm": "champion"},
    }
    return LogRecord(**{**values, **given})


def records(numbers: Iterable[int], **given: Any) -> list[LogRecord]:
    return [record(number, **given) for number in numbers]


def described_rows(
    at: Sequence[float], numbers: Sequence[float | None], labels: Sequence[str | None], release: str = f"{APP}@1"
) -> DescribedRows:
    """Rows with a number, a flag (the number is above 1) and a label."""
    column = np.array([np.nan if value is None else value for value in numbers], dtype=np.float32)
    flags = np.where(np.isnan(column), np.nan, column > 1).astype(np.float32)
    dimensions = {name: objects([None] * len(at)) for name in ROW_DIMENSIONS}
    dimensions["release"] = objects([release] * len(at))
    keys = [f"k{place}" for place in range(len(at))]
    columns = {"number": column, "flag": flags, "label": objects(labels)}
    return DescribedRows(keys, keys, np.array(at, dtype=np.float64), dimensions, columns)


def described_set() -> DescriptorSet:
    """The descriptors of `described_rows`."""
    kinds: dict[str, Kind] = {"number": "numeric", "flag": "flag", "label": "label"}
    return DescriptorSet([declare(name, kind, "record", list) for name, kind in kinds.items()])


FLAG_SHARE = 0.05

Change = Callable[[Any, Any], Any]


def selected(engine: sa.Engine, query: sa.Select[Any] | str) -> list[Any]:
    """The first column of what a query finds."""
    with engine.connect() as connection:
        return list(connection.execute(sa.text(query) if isinstance(query, str) else query).scalars())


def rows_in(reader: WindowReader, app: str, since: datetime | None, until: datetime | None, **of: Any) -> DescribedRows:
    """The window's rows, oldest first. of: as `WindowReader.parts` takes it."""
    rows = DescribedRows.concat(reader.parts(app, since, until, **of))
    return rows.select(np.argsort(rows.at, kind="stable"))


class InMemoryWindows(WindowReader):
    """A reader of rows that no database holds; shadow rows count under their arm only."""

    def __init__(self, config: MonitorConfig, *rows: DescribedRows) -> None:
        self._set, self._rows = config.descriptors, DescribedRows.concat(rows)

    def whole(self, app: str, since: datetime | None, until: datetime | None) -> Summary:
        return Summary.of(rows_in(self, app, since, until), self._set)

    def by_value(self, app: str, since: datetime | None, until: datetime | None, dimension: str) -> dict[str, Summary]:
        rows = rows_in(self, app, since, until, shadow=dimension == ARM)
        values = {value for value in rows.dimensions.get(dimension, ()) if value}
        return {value: Summary.of(rows.select(rows.dimensions[dimension] == value), self._set) for value in values}

    def hours(self, app: str, since: datetime | None, until: datetime | None) -> list[tuple[datetime, Summary]]:
        rows = rows_in(self, app, since, until)
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
