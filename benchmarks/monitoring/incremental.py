"""What monitoring costs once much is described already: 1,000 more rows, and a window over all of them.

    python -m benchmarks.monitoring.incremental [--rows 1000000] [--added 1000]

The rows so far are synthetic: values of the packaged configuration's descriptors drawn at random, spread over 30 days,
sliced by release, model and route, and stored by the monitor's own functions. The rows added are log records, described
for real, and added to an empty log first. Both are done five times and the middle one counts. Exits 1 when a criterion
is missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from llmops.production_log import LogRecord, ProductionLog
from monitoring.config import read_config
from monitoring.descriptors.descriptor_set import DescriptorSet
from monitoring.store.database import open_database, writing
from monitoring.store.hourly import add_to_stored, summarise_by_hour, write_summaries
from monitoring.store.ingest import ingest, position_of
from monitoring.store.rows import HOUR, ROW_DIMENSIONS, DescribedRows, objects
from monitoring.store.segments import SEGMENT_ROWS, extended, write_segments
from monitoring.store.windows import WindowReader

APP, DAYS = "assistant", 30
START = datetime(2026, 1, 1, tzinfo=UTC)
SLICES = ("release", "model", "route")
TIMES = 5
WINDOW_SECONDS, DEARER, GROWN_MIB = 3.0, 1.5, 150.0
ANSWER = "The capital of {} is well known, and so are its {} museums. Write to the office for details. "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--added", type=int, default=1_000)
    given = parser.parse_args()
    descriptors = read_config().descriptors
    descriptors.describe(records(0, 50))  # loads what descriptors need, once
    with tempfile.TemporaryDirectory() as folder:
        empty = _Stores(Path(folder) / "empty.db", descriptors)
        full = _Stores(Path(folder) / "full.db", descriptors)
        seconds = full.fill(given.rows)
        size = full.file.stat().st_size / 2**20
        each = 2**20 * size / given.rows
        print(f"{given.rows:,} rows stored in {seconds:.0f} s, {size:,.0f} MiB ({each:.0f} bytes a row)")
        alone, beside = empty.add(given.added), full.add(given.added)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cpu = time.process_time()
        window, rows = full.read_window()
        cpu = (time.process_time() - cpu) / TIMES
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        idle = full.add(0)
    return _report(
        [
            (f"{given.added:,} rows added to none, s", alone, None),
            (f"{given.added:,} rows added to {given.rows:,}, s", beside, None),
            ("times as dear", beside / alone, DEARER),
            ("nothing added, s", idle, None),
            (f"window of {rows:,} rows, 4 kinds of slices, s", window, WINDOW_SECONDS),
            ("the same, processor time, s", cpu, None),
            ("memory that the window adds to the peak, MiB", grown, GROWN_MIB),
        ]
    )


class _Stores:
    def __init__(self, file: Path, descriptors: DescriptorSet) -> None:
        self.file, self._set = file, descriptors
        self._log = ProductionLog(f"sqlite:///{file}")
        self._engine = open_database(f"sqlite:///{file}")
        self._logged = 0

    def fill(self, count: int) -> float:
        """Stores synthetic rows; returns the seconds it took."""
        start = time.perf_counter()
        position = position_of(self._engine, self._set, SLICES)
        for rows in synthetic(count, self._set):
            new = summarise_by_hour(rows, self._set.descriptors, position.dimensions)
            with self._engine.connect() as connection:
                segments = extended(connection, position.version, APP, rows, self._set.descriptors, 0, 0)
                summaries = add_to_stored(connection, position.version, APP, new)
            with writing(self._engine) as connection:
                write_segments(connection, segments)
                write_summaries(connection, summaries)
        with self._engine.connect() as connection:
            connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return time.perf_counter() - start

    def add(self, count: int) -> float:
        """Logs rows and describes them, TIMES times; returns the middle time of describing."""
        taken = []
        for _ in range(TIMES):
            if count:
                self._log.append(records(self._logged, count))
            self._logged += count
            start = time.perf_counter()
            assert ingest(self._log, self._engine, self._set, slices=SLICES) == count
            taken.append(time.perf_counter() - start)
        return sorted(taken)[TIMES // 2]

    def read_window(self) -> tuple[float, int]:
        """The middle time of summarising nearly all rows, whole and by slice, and how many they are."""
        reader, taken, rows = WindowReader(self._engine, self._set), [], 0
        since, until = START + timedelta(minutes=20), START + timedelta(days=DAYS, minutes=-20)
        for _ in range(TIMES):
            start = time.perf_counter()
            rows = reader.whole(APP, since, until).rows
            for dimension in SLICES:
                parts = reader.by_value(APP, since, until, dimension)
                assert sum(part.rows for part in parts.values()) == rows
            taken.append(time.perf_counter() - start)
        return sorted(taken)[TIMES // 2], rows


def synthetic(count: int, descriptors: DescriptorSet) -> Iterator[DescribedRows]:
    """Rows evenly over the days, a segment's at a time."""
    chance = np.random.default_rng(1)
    places = START.timestamp() + np.arange(count, dtype=np.float64) * (DAYS * 24 * HOUR / count)
    for start in range(0, count, SEGMENT_ROWS):
        at = places[start : start + SEGMENT_ROWS]
        keys = [f"{number:032x}" for number in range(start, start + len(at))]
        columns = {name: _column(each.kind, len(at), chance) for name, each in descriptors.descriptors.items()}
        dimensions = {name: objects([None] * len(at)) for name in ROW_DIMENSIONS}
        for name, values in (
            ("release", [f"{APP}@{1 + start * 3 // count}", f"{APP}@{2 + start * 3 // count}"]),
            ("model", ["small@1", "small@2"]),
            ("route", ["chat", "responses", "completions"]),
            ("arm", ["champion", "challenger"]),
        ):
            dimensions[name] = objects(chance.choice(values, len(at)).tolist())
        yield DescribedRows(keys, keys, at, dimensions, columns)


def _column(kind: str, count: int, chance: np.random.Generator) -> np.ndarray[Any, np.dtype[Any]]:
    if kind == "label":
        return objects(chance.choice(["en", "de", "fr", "es"], count, p=[0.9, 0.05, 0.03, 0.02]).tolist())
    if kind == "flag":
        return (chance.random(count) < 0.03).astype(np.float32)
    return np.round(chance.lognormal(4, 1, count), 2).astype(np.float32)


def records(first: int, count: int) -> list[LogRecord]:
    """Log records of the last day."""
    chance = np.random.default_rng(first)
    lengths = chance.integers(1, 8, count).tolist()
    last_day = START + timedelta(days=DAYS - 1)
    return [
        LogRecord(
            request_id=f"n{first + number}",
            at=last_day + timedelta(seconds=3 * (first + number)),
            status=200,
            outcome="ok",
            input=f"What is the capital of the country number {number}, and how do I reach it by train?",
            output=ANSWER.format(number, length) * length,
            release=f"{APP}@3",
            model="small@2",
            route="chat",
            tokens_in=40,
            tokens_out=20 * length,
            latency_ms=100.0 * length,
            details={"arm": "champion"},
        )
        for number, length in enumerate(lengths)
    ]


def _report(lines: list[tuple[str, float, float | None]]) -> int:
    missed = 0
    for what, found, most in lines:
        fits = most is None or found <= most
        missed += not fits
        verdict = "" if most is None else f"   at most {most:g}: {'met' if fits else 'MISSED'}"
        print(f"{what:<52}{found:>10.3f}{verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
