"""Predictions over HTTP, beside the same model in process and beside `mlflow models serve`.

    python -m benchmarks.labs.predict [--seconds 4] [--rounds 3]

One model like the bike lab's is trained on made-up rows, registered in a home of its own, and served by both, one
worker each, from the same files. Both stand at once and take turns, in another order each round; the median counts.

- A request of 1,000 rows against the same rows given to the loaded model in this process, in turns.
- Single rows, 1, 8 and 32 requests at a time, over kept connections, against MLflow's server.

What is equal: the machine, the model, the rows, the client. What is not: ours checks each row against the schema and
has rows and predictions on disk before the reply ends; MLflow's enforces its signature and logs nothing.
Exits 1 when a criterion is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.gateway import load
from benchmarks.gateway.processes import Server, free_port, python
from benchmarks.labs.bike_like import Registered, json_rows, register
from llmops.settings import Settings
from llmops.tabular.storage import load as load_model

CONCURRENCIES = (1, 8, 32)
MANY_ROWS = 1000
AT_MOST_TIMES, AT_LEAST_TIMES = 3.0, 5.0

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that predicts. url: of its route. body: a request with these rows, in its own words."""

    server: Server
    url: str
    body: Callable[[Rows], Mapping[str, object]]


@dataclass(slots=True)
class Series:
    """One contender under one load: requests by second, latencies and CPU per request (ms), by round."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failed: int = 0


@contextmanager
def ours(folder: Path, home: Path, environment: Mapping[str, str] | None = None) -> Iterator[Contender]:
    """`llmops serve` with one worker. environment: what else the process finds there."""
    base, environment = _address(), _environment({"LLMOPS_HOME": str(home), **(environment or {})})
    command = python("llmops.cli", "serve", "--port", base.rpartition(":")[2], "--workers", "1")
    with Server(command, f"{base}/readyz", folder / "ours.log", environment) as server:
        yield Contender(server, f"{base}/v1/predict/bike", lambda rows: {"rows": rows})


@contextmanager
def mlflows(folder: Path, model: Registered, tracking_uri: str) -> Iterator[Contender]:
    """`mlflow models serve` with one worker, on the same files."""
    # MLflow starts `uvicorn` by its name, which is on nobody's path who has not activated the environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    base, environment = _address(), _environment({"MLFLOW_TRACKING_URI": tracking_uri, "PATH": path})
    arguments = ("--env-manager", "local", "--host", "127.0.0.1", "--port", base.rpartition(":")[2], "--workers", "1")
    command = python("mlflow", "models", "serve", "--model-uri", str(model.folder), *arguments)
    with Server(command, f"{base}/ping", folder / "mlflow.log", environment) as server:
        yield Contender(server, f"{base}/invocations", lambda rows: {"dataframe_records": rows})


def _address() -> str:
    return f"http://127.0.0.1:{free_port()}"


def _environment(own: Mapping[str, str]) -> Mapping[str, str]:
    """As of a shell that knows nothing else of llmops; `Server` adds the rest."""
    for name in [name for name in os.environ if name.startswith("LLMOPS_")]:
        del os.environ[name]
    return {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", **own}


def same_values(contenders: Mapping[str, Contender], expected: Sequence[float], rows: Rows) -> None:
    """Raises ValueError unless both servers predict what the model in this process does."""
    for name, contender in contenders.items():
        reply = httpx.post(contender.url, json=contender.body(rows), timeout=60, trust_env=False)
        if reply.status_code != 200 or reply.json()["predictions"] != expected:
            raise ValueError(f"{name} does not predict what the model does: {reply.text[:300]}")


def many_rows(contenders: Mapping[str, Contender], model: Registered, rounds: int) -> dict[str, float]:
    """Median milliseconds of 1,000 rows: in process, and in one request to each server."""
    rows, loaded = json_rows(MANY_ROWS), load_model(model.folder)
    same_values(contenders, loaded.predict(rows).values, rows)
    found: dict[str, list[float]] = {"in process": [], **{name: [] for name in contenders}}
    for _ in range(rounds):
        for _ in range(20):
            start = time.perf_counter()
            loaded.predict(rows)
            found["in process"].append(1000 * (time.perf_counter() - start))
        for name, contender in contenders.items():
            done = _load(contender, [contender.body(rows)], 1, requests=20)
            found[name] += [reply.total_ms for reply in done.good]
    return {name: statistics.median(times) for name, times in found.items()}


def single_rows(contenders: Mapping[str, Contender], seconds: float, rounds: int) -> dict[tuple[str, int], Series]:
    """Each contender under each load, `rounds` times."""
    rows = json_rows(256)
    found: dict[tuple[str, int], Series] = {}
    for number in range(rounds):
        order = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for concurrency in CONCURRENCIES:
            for name in order:
                print(f"round {number + 1} of {rounds}: {name}, {concurrency} at a time", file=sys.stderr)
                bodies = [contenders[name].body([row]) for row in rows]
                turn(contenders[name], bodies, concurrency, seconds, found.setdefault((name, concurrency), Series()))
    return found


def turn(
    contender: Contender, bodies: Sequence[Mapping[str, object]], concurrency: int, seconds: float, series: Series
) -> None:
    """Half a second to warm up, then the load."""
    _load(contender, bodies, concurrency, seconds=0.5)
    before = contender.server.cpu_seconds()
    done = _load(contender, bodies, concurrency, seconds=seconds)
    used = contender.server.cpu_seconds() - before
    good = len(done.good)
    series.failed += len(done.failures) + len(done.replies) - good
    series.rate.append(good / done.seconds)
    series.p50.append(done.percentile(0.5))
    series.p99.append(done.percentile(0.99))
    series.cpu.append(1000 * used / max(good, 1))


def _load(contender: Contender, bodies: Sequence[Mapping[str, object]], concurrency: int, **until: Any) -> load.Load:
    """Sends the bodies in turn. until: as `load.run` takes it."""
    return asyncio.run(load.run(contender.url, lambda number: bodies[number % len(bodies)], concurrency, **until))


def show(many: Mapping[str, float], single: Mapping[tuple[str, int], Series]) -> None:
    """Prints the tables."""
    print(f"\n{MANY_ROWS:,} rows at once        ms   times in process")
    for name, milliseconds in many.items():
        print(f"{name:22} {milliseconds:7.1f} {milliseconds / many['in process']:8.1f}")
    print(f"\n{'single rows':16} {'server':22} {'req/s':>7} {'p50 ms':>7} {'p99 ms':>7} {'CPU ms':>7} {'failed':>6}")
    middle = statistics.median
    for (name, concurrency), series in sorted(single.items(), key=lambda item: item[0][1]):
        print(
            f"{f'{concurrency} at a time':16} {name:22} {middle(series.rate):7.0f} {middle(series.p50):7.2f}"
            f" {middle(series.p99):7.2f} {middle(series.cpu):7.2f} {series.failed:6}"
        )


def criteria(many: Mapping[str, float], single: Mapping[tuple[str, int], Series]) -> list[tuple[str, bool]]:
    """What must hold, and whether it does."""
    times = many["llmops"] / many["in process"]
    text = f"{MANY_ROWS:,} rows in one request: {times:.2f} times the call in process, at most {AT_MOST_TIMES:g} asked"
    made = [(text, times <= AT_MOST_TIMES)]
    for concurrency in CONCURRENCIES:
        mine, peer = (statistics.median(single[name, concurrency].rate) for name in ("llmops", "mlflow models serve"))
        text = f"single rows, {concurrency} at a time: {mine / peer:.1f} times MLflow's server"
        made.append((f"{text}, at least {AT_LEAST_TIMES:g} asked", mine >= AT_LEAST_TIMES * peer))
    failed = sum(series.failed for (name, _), series in single.items() if name == "llmops")
    made.append((f"requests that llmops did not answer: {failed}, none allowed", failed == 0))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender under each load")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmops-bench-")))
        settings = Settings(home=folder / "home")
        model = register(settings)
        contenders = {
            "llmops": stack.enter_context(ours(folder, settings.home)),
            "mlflow models serve": stack.enter_context(mlflows(folder, model, settings.resolved_tracking_uri)),
        }
        many = many_rows(contenders, model, options.rounds)
        single = single_rows(contenders, options.seconds, options.rounds)
    show(many, single)
    print()
    made = criteria(many, single)
    for text, holds in made:
        print(f"{'met   ' if holds else 'MISSED'}  {text}")
    return 0 if all(holds for _, holds in made) else 1


if __name__ == "__main__":
    sys.exit(main())
