"""What 1,000 requests a second and 100 million logged rows a month need, from what is measured here.

    python -m benchmarks.scale [--seconds 20] [--out docs/scale.json]

Measured: CPU of a whole and of a streamed reply in `llmops serve`, its latencies under random arrivals, bytes of a log
record, CPU of describing a row. The latencies are also simulated from the CPU alone (`queueing.py`), and must agree:
exits 1 when a simulated median or 95th percentile is off by more than a third, or 1 ms. The rest is arithmetic, and
docs/scale.md explains it; what is assumed and not measured is in `ASSUMED`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.gateway.contenders import Gateway, Home, upstream
from benchmarks.gateway.overhead import Series, body_for, measure, middle
from benchmarks.monitoring.rows import make_answers
from benchmarks.scale.queueing import Worker, highest_rate, simulate
from llmops.production_log import LogRecord
from monitoring.descriptors.descriptor_set import default_descriptors

SHARES = (0.2, 0.5, 0.7)
"""Of the rate at which the worker's CPU would be used up: where simulation and measurement are compared."""

ASSUMED: Mapping[str, float] = {
    "peak requests a second": 1000,
    "logged rows a month": 100e6,
    "share of streamed replies": 0.5,
    "seconds of an answer": 3,
    "tokens of an answer": 150,
    "tokens a second of a GPU": 3000,
    "milliseconds that queueing may add to the 99th percentile": 50,
    "share of rows that a judge scores": 0.01,
    "seconds of a judge's answer": 2,
    "months that rows are kept": 3,
    "dollars for a vCPU hour": 0.04,
    "dollars for a GPU hour": 2.5,
    "dollars for a gigabyte of database storage and month": 0.12,
    "dollars for a gigabyte of object storage and month": 0.023,
}


def measured(folder: Path, seconds: float) -> dict[str, Any]:
    """Everything that is measured, by name; latencies by load."""
    with ExitStack() as stack:
        stub = stack.enter_context(upstream(folder))
        home = Home(folder, f"openai:{stub.base}/v1#stub")
        key = home.create_key("--requests-per-minute", "100000000")
        gateway = stack.enter_context(home.serving(key))
        whole, streamed = Series(), Series()
        for _ in range(3):
            measure(gateway, 1, False, seconds / 4, whole)
            measure(gateway, 1, True, seconds / 4, streamed)
        saturated = Series()
        measure(gateway, 32, False, seconds / 2, saturated)
        loads = {}
        for share in SHARES:
            rate = share * 1000 / middle(saturated.cpu)
            loads[f"{share:g}"] = {"rate": rate, "latencies": asyncio.run(open_loop(gateway, rate, seconds))}
    log = home.environment["LLMOPS_HOME"] + "/log.db"
    records = int(json.loads(_llmops(home, "log", "tail", "-n", "1", "--json"))["total"])
    parquet = folder / "log.parquet"
    _llmops(home, "log", "export", "--out", str(parquet))
    return {
        "CPU ms of a whole reply": middle(whole.cpu),
        "CPU ms of a whole reply, many at once": middle(saturated.cpu),
        "CPU ms of a streamed reply": middle(streamed.cpu),
        "ms of a reply, one at a time": middle(whole.p50),
        "bytes of a record in the log": Path(log).stat().st_size / records,
        "bytes of a record as Parquet": parquet.stat().st_size / records,
        "CPU ms of describing a row": describing(),
        "loads": loads,
    }


async def open_loop(gateway: Gateway, rate: float, seconds: float) -> list[float]:
    """Latencies in milliseconds of requests that arrive at random, whether or not earlier ones were answered."""
    chance, latencies, failed = np.random.default_rng(7), [], []
    headers = {"authorization": f"Bearer {gateway.key}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def ask() -> None:
            start = time.perf_counter()
            async with session.post(gateway.url, json=body_for(gateway.model, stream=False)) as reply:
                await reply.read()
                (latencies if reply.status == 200 else failed).append(1000 * (time.perf_counter() - start))

        asked, due = [], time.perf_counter()
        end = due + seconds
        while due < end:
            due += chance.exponential(1 / rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(ask()))
        await asyncio.gather(*asked)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(asked)} requests failed")
    return latencies


def describing(count: int = 2000) -> float:
    """CPU milliseconds of one row's packaged descriptors."""
    descriptors = default_descriptors()
    answers = make_answers(count)
    records = [
        LogRecord(f"r{number}", datetime.now(UTC), 200, "ok", input="What do you know?", output=answer)
        for number, answer in enumerate(answers)
    ]
    descriptors.describe(records[:100])
    start = time.process_time()
    descriptors.describe(records)
    return 1000 * (time.process_time() - start) / count


def compared(found: Mapping[str, Any]) -> list[tuple[str, float, float, bool]]:
    """For each load and percentile: name, measured ms, simulated ms, whether they agree."""
    cpu = found["CPU ms of a whole reply, many at once"]
    idle = found["ms of a reply, one at a time"]
    worker = gateway_worker(cpu, max(0.0, idle - cpu))
    lines = []
    for share, load in found["loads"].items():
        simulated = simulate(worker, load["rate"], 60, seed=1)
        for percentile in (50, 95):
            real, modelled = (float(np.percentile(each, percentile)) for each in (load["latencies"], simulated))
            agree = abs(modelled - real) <= max(1.0, real / 3)
            lines.append((f"{share} of capacity, {load['rate']:.0f} requests/s, p{percentile}", real, modelled, agree))
    return lines


def gateway_worker(cpu: float, wait: float) -> Worker:
    """A worker whose CPU is halved between its two visits, with a constant wait in between (ms)."""
    return Worker(cpu / 2, cpu / 2, lambda _chance: wait)


def needed(found: Mapping[str, Any]) -> dict[str, float]:
    """What the assumed load needs."""
    a, hours = ASSUMED, 730
    streamed = a["share of streamed replies"]
    cpu = (1 - streamed) * found["CPU ms of a whole reply, many at once"] + streamed * found[
        "CPU ms of a streamed reply"
    ]
    answer_ms = 1000 * a["seconds of an answer"]
    slow = Worker(cpu / 2, cpu / 2, lambda chance: float(chance.exponential(answer_ms)))
    each = min(highest_rate(slow, a["milliseconds that queueing may add to the 99th percentile"]), 0.65 * 1000 / cpu)
    workers = math.ceil(a["peak requests a second"] / each) + 1
    rows = a["logged rows a month"]
    database_gb = rows * a["months that rows are kept"] * found["bytes of a record in the log"] / 1e9
    objects_gb = rows * a["months that rows are kept"] * found["bytes of a record as Parquet"] / 1e9
    gpus = math.ceil(a["peak requests a second"] * a["tokens of an answer"] / a["tokens a second of a GPU"])
    described = rows * found["CPU ms of describing a row"] / 3.6e6
    judged = rows * a["share of rows that a judge scores"] * a["seconds of a judge's answer"] / 3600
    vcpu, gpu = a["dollars for a vCPU hour"], a["dollars for a GPU hour"]
    return {
        "requests a second of one worker": each,
        "gateway workers, one vCPU each, one to spare": workers,
        "open streams at the peak": a["peak requests a second"] * a["seconds of an answer"] * streamed,
        "GPUs at the peak": gpus,
        "log records a second on average": rows / (hours * 3600),
        "gigabytes of log, all in the database": database_gb,
        "gigabytes of log, as Parquet": objects_gb,
        "vCPU hours of descriptors a month": described,
        "hours of one judge's answers a month": judged,
        "dollars a month: gateway": workers * hours * vcpu,
        "dollars a month: GPUs, if the peak lasted": gpus * hours * gpu,
        "dollars a month: log in the database": database_gb * a["dollars for a gigabyte of database storage and month"],
        "dollars a month: log as Parquet": objects_gb * a["dollars for a gigabyte of object storage and month"],
        "dollars a month: descriptors": described * vcpu,
    }


def _llmops(home: Home, *arguments: str) -> str:
    command = [sys.executable, "-m", "llmops.cli", *arguments]
    return subprocess.run(command, env=dict(home.environment), check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Capacity for a large load, from costs measured here.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--out", type=Path, help="a JSON file of everything, for docs/scale.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder:
        found = measured(Path(folder), options.seconds)
    lines, needs = compared(found), needed(found)
    costs = {name: value for name, value in found.items() if name != "loads"}
    for title, table in (("measured", costs), ("assumed", ASSUMED), ("needed", needs)):
        print(f"\n{title}")
        for name, value in table.items():
            print(f"  {name:60} {value:12,.2f}")
    print("\nlatency in ms                                        measured  simulated")
    for name, real, modelled, agree in lines:
        print(f"{'met   ' if agree else 'MISSED'} {name:45} {real:8.2f} {modelled:10.2f}")
    if options.out:
        table = [{"load": name, "measured_ms": real, "simulated_ms": modelled} for name, real, modelled, _ in lines]
        everything = {"measured": costs, "assumed": ASSUMED, "needed": needs, "latency": table}
        options.out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 0 if all(agree for *_, agree in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
