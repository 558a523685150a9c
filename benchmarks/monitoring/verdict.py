"""How long a verdict over a window of N rows takes, from the summaries and segments that ingest keeps.

    .venv/bin/python -m benchmarks.monitoring.verdict --rows 1000000

The rows are random values of the default descriptors, written as ingest writes them: a reference of a tenth of the
rows, then one day of N rows in which a tenth of the answers refuse, so that alarms, strata and evidence are paid for.
What is timed is `run_monitor` from start to end, with the reference pinned before.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from llmops.production_log import ProductionLog
from llmops.settings import Settings
from monitoring.config import MonitorConfig, read_config
from monitoring.run import pin_reference, run_monitor
from monitoring.store.database import open_database, writing
from monitoring.store.hourly import add_to_stored, summarise_by_hour, write_summaries
from monitoring.store.ingest import advance, position_of
from monitoring.store.rows import ROW_DIMENSIONS, DescribedRows, objects
from monitoring.store.segments import extended, write_segments

APP = "assistant"
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
_BATCH = 40_960


def make_rows(config: MonitorConfig, count: int, day: int, seed: int, changed: bool) -> DescribedRows:
    """Random rows of one day in the order of time; changed: longer questions, and many refusals."""
    chance = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    asked = chance.lognormal(4.2 if changed else 4.0, 0.6, count)
    for name, descriptor in config.descriptors.descriptors.items():
        if name == "input.length":
            columns[name] = asked.astype(np.float32)
        elif descriptor.kind == "numeric":
            columns[name] = (asked * chance.lognormal(0, 0.3, count)).astype(np.float32)
        elif descriptor.kind == "flag":
            share = 0.1 if changed and name == "output.refusal" else 0.03
            columns[name] = (chance.random(count) < share).astype(np.float32)
        else:
            columns[name] = chance.choice(np.array(["en", "de", "fr"], dtype=object), count, p=[0.8, 0.15, 0.05])
    at = (START + day * DAY).timestamp() + np.sort(chance.random(count)) * DAY.total_seconds()
    given = {"release": f"{APP}@1", "arm": "champion"}
    dimensions = {name: objects([given.get(name)] * count) for name in ROW_DIMENSIONS}
    dimensions["language"] = columns["input.language"]
    ids = [f"{seed:08x}{row:024x}" for row in range(count)]
    return DescribedRows(ids, ids, at, dimensions, columns)


def write_day(settings: Settings, config: MonitorConfig, rows: DescribedRows) -> None:
    """As ingest writes rows once they are described."""
    engine, descriptors = open_database(settings.resolved_log_url), config.descriptors.descriptors
    for part in _parts(rows):
        position = position_of(engine, config.descriptors, config.slices)
        new = summarise_by_hour(part, descriptors, position.dimensions)
        with writing(engine) as connection:
            advance(connection, position, caught_up=True)
            write_segments(connection, extended(connection, position.version, APP, part, descriptors, 0, 0))
            write_summaries(connection, add_to_stored(connection, position.version, APP, new))
    engine.dispose()


def _parts(rows: DescribedRows) -> Iterator[DescribedRows]:
    for start in range(0, len(rows), _BATCH):
        yield rows.select(np.arange(start, min(start + _BATCH, len(rows))))


def measure(rows: int, home: Path) -> dict[str, Any]:
    settings, config = Settings(home=home), read_config()
    config = dataclasses.replace(config, slices=("release",))
    ProductionLog(settings.resolved_log_url).close()
    write_day(settings, config, make_rows(config, max(rows // 10, 100), 0, 1, False))
    write_day(settings, config, make_rows(config, rows, 1, 2, True))
    start = time.perf_counter()
    pin_reference(settings, APP, START, START + DAY, "benchmark", config=config)
    pinned = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    result = run_monitor(settings, APP, START + DAY, START + 2 * DAY, config=config)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    kinds = sorted({alarm.kind for alarm in result.alarms})
    named = sum(bool(alarm.rows) for alarm in result.alarms)
    return {
        "rows": result.window.rows,
        "reference_rows": result.reference.rows,
        "alarms": len(result.alarms),
        "alarms_with_rows": named,
        "kinds": kinds,
        "pin_seconds": round(pinned, 2),
        "verdict_seconds": round(seconds, 2),
        "verdict_cpu_seconds": round(cpu, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of a verdict over a window of N rows.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments.rows, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
