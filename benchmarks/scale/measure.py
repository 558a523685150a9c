"""Measures what the capacity model needs.

The gateway has one worker, pinned to one core; the client, the upstream and PostgreSQL (which waits for the disk) have
the other cores. Costs are CPU time; latencies are what the gateway adds to the upstream's own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from benchmarks.gateway.contenders import Gateway, Home
from benchmarks.monitoring.rows import make_answers
from benchmarks.scale.queueing import Worker, simulate
from benchmarks.scale.traffic import PIECES, QUESTION, Sample, body, closed_loop, open_loop, upstream
from deploy.services.servers import free_port, postgres_server
from llmops.production_log import LogRecord, ProductionLog
from llmops.production_log.archive import Archive
from llmops.production_log.archive_layout import Partition
from llmops.production_log.record import new_key
from llmops.text_io import read_toml
from monitoring.descriptors import DescriptorSet
from monitoring.descriptors.descriptor_set import DEFAULT_FILE

SHARES = (0.3, 0.5, 0.7, 0.85)
"""Of the rate at which the worker's core would be used up: where measured and simulated latencies are compared."""

GROUPS = (1, 4, 16, 64)
"""Records in one transaction."""

ROUNDS = 3
GATEWAY, OTHERS = {0}, set(range(1, os.cpu_count() or 1)) or {0}
"""Cores."""


class Cpu(NamedTuple):
    """Milliseconds of CPU so far: of the worker's event loop, and of all that `llmops serve` runs."""

    loop: float
    total: float


def cpu_of(gateway: Gateway) -> Cpu:
    family = [gateway.server.process, *gateway.server.process.children(recursive=True)]
    (worker,) = (each for each in family if "multiprocessing-fork" in " ".join(each.cmdline()))
    loop = next(thread for thread in worker.threads() if thread.id == worker.pid)
    return Cpu(1000 * (loop.user_time + loop.system_time), 1000 * gateway.server.cpu_seconds())


@contextlib.contextmanager
def pinned_gateway(folder: Path, log_url: str, port: int) -> Iterator[Gateway]:
    """A gateway with one worker, all of it on one core, whose upstream has that port."""
    home = Home(folder, f"openai:http://127.0.0.1:{port}/v1#stub", log_url=log_url)
    key = home.create_key("--requests-per-minute", "100000000", "--tokens-per-minute", "100000000000")
    with home.serving(key) as gateway:
        for process in (gateway.server.process, *gateway.server.process.children(recursive=True)):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, GATEWAY)
        yield gateway


async def queue_figures(gateway: Gateway, direct: Gateway, log: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Costs of whole and of streamed replies, and their latencies under load beside simulated ones.

    direct: the upstream, asked without a gateway. log: as of `log_figures`.
    """
    before = cpu_of(gateway)
    await asyncio.sleep(2 * seconds)
    found: dict[str, Any] = {"background_ms": (cpu_of(gateway).total - before.total) / (2 * seconds)}
    for kind, pieces in (("whole", 0), ("streamed", PIECES)):
        content = body(stream=pieces > 0)
        await closed_loop(gateway.url, gateway.key, content, 32, seconds / 2)
        bare = await closed_loop(direct.url, None, content, 1, seconds)
        before = cpu_of(gateway)
        alone = await closed_loop(gateway.url, gateway.key, content, 1, 2 * seconds)
        between = cpu_of(gateway)
        many = await closed_loop(gateway.url, gateway.key, content, 96, seconds)
        after = cpu_of(gateway)
        loops = (between.loop - before.loop) / len(alone), (after.loop - between.loop) / len(many)
        whole = Worker(**found["whole"]["worker"]) if pieces else None
        worker = calibrated(alone, bare, loops, whole, pieces, found["background_ms"], log)
        saturated = (after.total - between.total) / len(many)
        alone_ms = (between.total - before.total - 2 * seconds * found["background_ms"]) / len(alone)
        say(f"{kind}: {alone_ms:.2f} ms of CPU, {saturated:.2f} of many; {worker}")
        loads = [await one_load(gateway, content, worker, pieces, share, 1000 / saturated, seconds) for share in SHARES]
        costs = {"alone_cpu_ms": alone_ms, "saturated_cpu_ms": saturated}
        found[kind] = {**costs, "worker": dataclasses.asdict(worker), "loads": loads}
    return found


def calibrated(
    alone: Sequence[Sample],
    bare: Sequence[Sample],
    loops: tuple[float, float],
    whole: Worker | None,
    pieces: int,
    background: float,
    log: Mapping[str, Any],
) -> Worker:
    """The worker whose costs these are; nothing of the runs with random arrivals goes into it.

    alone, bare: one request at a time, through the gateway and without it: what share of the computing comes before the
    upstream. loops: the event loop's CPU (ms) for one of `alone`, and for one of many that are open at once: that is
    less, because the loop sleeps less. whole: the worker of whole replies, which tells what of a streamed one are its
    pieces.
    """
    wake = max(0.0, loops[0] - loops[1]) / (3 + pieces)
    loop, wait = loops[1], max(0.0, log["groups"][0]["wall_ms"] - log["groups"][0]["cpu_ms"])
    if whole is None:
        until_sent = statistics.median(each.before for each in alone) - statistics.median(each.before for each in bare)
        before = loop * min(0.8, max(0.1, until_sent / loops[0]))
        after = (loop - before) / 2
        return Worker(before, after, after, log["commit_ms"], log["record_ms"], wait, background=background, wake=wake)
    piece = max(0.0, loop - whole.before - whole.after - whole.end) / pieces
    return dataclasses.replace(whole, piece=piece, wake=wake)


async def one_load(
    gateway: Gateway, content: bytes, worker: Worker, pieces: int, share: float, most: float, seconds: float
) -> dict[str, Any]:
    """Added latencies with random arrivals, and those that the model gives for these very arrivals, in each round."""
    rounds = []
    for seed in range(ROUNDS):
        await open_loop(gateway.url, gateway.key, content, share * most, 1.0, seed + 100)
        before, start = cpu_of(gateway), time.perf_counter()
        samples = await open_loop(gateway.url, gateway.key, content, share * most, seconds, seed)
        busy = (cpu_of(gateway).total - before.total) / (1000 * (time.perf_counter() - start))
        arrivals = np.array([each.sent - samples[0].sent for each in samples])
        model = simulate(worker, arrivals, np.array([each.upstream for each in samples]), pieces)
        added = [each.added for each in samples]
        found = {f"p{level}": float(np.percentile(added, level)) for level in (50, 95)}
        simulated = {f"simulated_p{level}": float(np.percentile(model.added, level)) for level in (50, 95)}
        rounds.append({"busy": busy, "simulated_busy": model.busy, **found, **simulated})
        say(
            f"  {share:.0%} {share * most:.0f}/s: "
            + ", ".join(f"{name} {value:.2f}" for name, value in rounds[-1].items())
        )
    return {"share": share, "rate": share * most, "rounds": rounds}


def log_figures(url: str, records: Sequence[LogRecord]) -> dict[str, Any]:
    """Cost of transactions of several sizes on the gateway's core: CPU is this process's, and the model takes a
    straight line through it, `commit_ms` + n · `record_ms`."""
    os.sched_setaffinity(0, GATEWAY)
    log, groups = ProductionLog(url), []
    for count in GROUPS:
        times = []
        for _ in range(40):
            batch = [dataclasses.replace(each, key=new_key()) for each in records[:count]]
            cpu, wall = time.process_time(), time.perf_counter()
            log.append(batch)
            times.append((1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)))
        cpu_ms, wall_ms = (statistics.median(each) for each in zip(*times[5:], strict=True))
        groups.append({"records": count, "cpu_ms": cpu_ms, "wall_ms": wall_ms, "per_second": 1000 * count / wall_ms})
    written = log.count()
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        query = "SELECT pg_total_relation_size('log_records')" if "postgresql" in url else (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        )  # fmt: skip
        size = connection.scalar(sa.text(query)) / written
    engine.dispose()
    log.close()
    os.sched_setaffinity(0, OTHERS)
    record_ms, commit_ms = np.polyfit(GROUPS, [each["cpu_ms"] for each in groups], 1)
    return {
        "groups": groups,
        "commit_ms": max(0.0, float(commit_ms)),
        "record_ms": float(record_ms),
        "bytes": float(size),
    }


def archive_bytes(folder: str, records: Sequence[LogRecord], rows: int = 20_000) -> float:
    """Parquet bytes of a record: of an hour with so many, which are the gateway's but for their made-up texts."""
    start, texts = (
        datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2),
        make_answers(2 * rows),
    )
    log, archive = ProductionLog(f"sqlite:///{folder}/archived.db"), Archive(f"{folder}/archive")
    for first in range(0, rows, GROUPS[-1]):
        log.append(
            [
                dataclasses.replace(
                    each,
                    key=new_key(),
                    request_id=f"req_{new_key()}",
                    at=start + timedelta(seconds=0.1 * (first + number)),
                    input=texts[first + number],
                    output=texts[rows + first + number],
                )
                for number, each in enumerate(records[: rows - first])
            ]
        )
    hours = log.hours().items()
    manifests = [archive.archive(log, Partition(*place), seen)[0] for place, seen in hours]
    log.close()
    return sum(file.bytes for manifest in manifests for file in manifest.files) / rows


def descriptor_figures(rows: int = 2000) -> dict[str, float]:
    """CPU milliseconds of describing one row with the packaged descriptors, by kind."""
    tables, now = read_toml(DEFAULT_FILE)["descriptor"], datetime.now(UTC)
    records = [LogRecord(str(n), now, 200, "ok", QUESTION, text) for n, text in enumerate(make_answers(rows))]
    found = {}
    for kind in sorted({table["kind"] for table in tables}):
        chosen = DescriptorSet.from_config([each for each in tables if each["kind"] == kind], file=DEFAULT_FILE)
        chosen.describe(records[:100])
        start = time.process_time()
        chosen.describe(records)
        found[kind] = 1000 * (time.process_time() - start) / rows
    return found


def measure(seconds: float) -> dict[str, Any]:
    """All figures. seconds: of each run under load; the whole takes some 40 times as long."""
    os.sched_setaffinity(0, OTHERS)
    load_before, port = round(os.getloadavg()[0], 1), free_port()
    with tempfile.TemporaryDirectory(prefix="llmops-scale-") as name, postgres_server(durable=True) as postgres:
        url = postgres.new_database("log")
        with pinned_gateway(Path(name), url, port) as gateway:
            direct = dataclasses.replace(gateway, base=f"http://127.0.0.1:{port}", key=None)

            async def all_runs() -> tuple[dict[str, Any], dict[str, Any], float]:
                async with upstream(port):
                    await closed_loop(gateway.url, gateway.key, body(stream=False), 32, seconds)
                    log = ProductionLog(url)
                    records = log.read(limit=GROUPS[-1])
                    log.close()
                    places = {"postgresql": postgres.new_database("groups"), "sqlite": f"sqlite:///{name}/groups.db"}
                    logs = {kind: log_figures(place, records) for kind, place in places.items()}
                    archived = archive_bytes(name, records)
                    return logs, await queue_figures(gateway, direct, logs["postgresql"], seconds), archived

            logs, queue, archived = asyncio.run(all_runs())
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    measured = {
        "on": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine,
        "load before": load_before,
        "seconds": seconds,
    }
    return {
        "measured": measured,
        "queue": queue,
        "log": logs,
        "archive_bytes": archived,
        "descriptors": descriptor_figures(),
    }


def say(text: str) -> None:
    print(f"[load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)
