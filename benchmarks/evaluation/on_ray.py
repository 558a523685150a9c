"""`llmops eval run --on ray` with two nodes against the local runner: same rows, same stub upstream, same two cores.

    python -m benchmarks.evaluation.on_ray [--rows 20000] [--rounds 3] [--minutes 4]

Rows a second are counted from the first request to the last answer, as each run's report has them. Beside them the
CPU time of all that works on a row: this process, which runs the local runner and Ray's driver, and the cluster, but
not the stub. Each run has a cache and shards of its own. Nothing is recorded, because MLflow takes far longer for that,
and the same for both. Exits 1 when the nodes make fewer than 0.9 times the local runner's rows, or when any row or
score differs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.evaluation.echo_upstream import echo_upstream
from benchmarks.evaluation.ours import KEY_VARIABLE, SUITE, Home
from benchmarks.evaluation.server import KEY
from deploy.services.ray_nodes import ray_nodes
from deploy.services.servers import free_port
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import Matrix, RowChoice, RunOptions
from llmops.eval_runs.sharding import RayMatrix
from llmops.hashing import content_hash
from llmops.progress import progress_bar
from llmops.registry import Registry
from llmops.settings import Settings

AT_LEAST = 0.9
NODES, SLOTS = 2, 16
SECONDS = 0.02
"""Of one answer of the stub."""
WARM_UP = 1000
"""Rows of a run that says how fast this machine is."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. cpu_ms: of a row. content: hash of all that does not depend on the time."""

    rows_per_second: float
    cpu_ms: float
    content: str


def home_with_rows(folder: Path, url: str, rows: int, slots: int = SLOTS) -> Evaluations:
    """The suite, whose scorers give half of the rows a point, and the stub as its registered model."""
    home = Home(folder, slots)
    home.write_prompts(["Repeat: {{ question }}"])
    made = [
        {
            "id": f"r{number}",
            "inputs": {"question": f"Is {number} a number?"},
            "expectations": {"expected_response": f"{number} a number" if number % 2 else "purple"},
        }
        for number in range(rows)
    ]
    home.write_suite(made, {"contained": "contains", "exact": "exact_match", "words": "words"})
    home.register_model(f"openai:{url}#echo")
    home.register_prompts()
    settings = Settings(
        home=folder / "home", eval_sets=folder / "eval_sets", prompts=folder / "prompts", engine_slots=slots
    )
    return Evaluations(settings, Registry(settings))


def measured(
    evaluations: Evaluations, on: str, works: Sequence[psutil.Process], rows: int, show: Callable[[str, int, int], None]
) -> Measured:
    """One run over the first rows, with an empty cache and no shards. works: processes that do, beside this one, whose
    children count, too."""

    async def run(home: Path) -> Measured:
        suite = evaluations.suite(SUITE)
        settings = replace(evaluations.settings, home=home)
        before = cpu_seconds(works)
        kind = Matrix if on == "local" else RayMatrix
        matrix = kind(settings, evaluations.registry, suite, RunOptions(on=on), show)
        async with aclosing(matrix):
            [report] = [report async for report in matrix.reports(evaluations.cells(suite), RowChoice(rows))]
            assert report.generated == rows
            cpu = cpu_seconds(works) - before
            results = [
                (result.row.to_json(), result.output.text, {name: each.value for name, each in result.scores.items()})
                for result in report.results
            ]
        metrics = {name: metric.to_json() for name, metric in report.metrics.items()}
        return Measured(rows / report.seconds, 1000 * cpu / rows, content_hash([results, metrics]))

    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder:
        return asyncio.run(run(Path(folder)))


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Of each with its children, also those that have ended."""
    times = [one.cpu_times() for each in processes for one in (each, *each.children(recursive=True))]
    spent = sum(each.user + each.system + each.children_user + each.children_system for each in times)
    return time.process_time() + float(spent)


def rounds(options: argparse.Namespace) -> Iterator[tuple[Measured, Measured]]:
    """The local runner and Ray, in turns, because the machine's load changes."""
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder, ray_nodes(NODES) as nodes:
        cluster = psutil.Process().children()
        os.environ["RAY_ADDRESS"] = nodes.address
        with echo_upstream(free_port(), SECONDS) as url:
            print("registering the stub and its suite …", file=sys.stderr)
            evaluations = home_with_rows(Path(folder), url, options.rows)
            with progress_bar() as show:
                found = measured(evaluations, "local", (), min(WARM_UP, options.rows), show)
            fitting = found.rows_per_second * 60 * options.minutes / (2 * options.rounds)
            rows = min(options.rows, max(WARM_UP, int(fitting)))
            print(
                f"{rows} rows a round",
                "" if rows == options.rows else f": {options.rows} take too long here",
                flush=True,
            )
            for number in range(options.rounds):
                by_runner = {}
                for on in ("local", "ray")[:: 1 if number % 2 == 0 else -1]:
                    print(f"round {number + 1} of {options.rounds}: {on} …", file=sys.stderr)
                    with progress_bar() as show:
                        by_runner[on] = measured(evaluations, on, cluster if on == "ray" else (), rows, show)
                yield by_runner["local"], by_runner["ray"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluation on two Ray nodes against the local runner.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=4.0, help="fewer rows where all rounds would take longer")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, {NODES} nodes")
    os.environ[KEY_VARIABLE] = KEY  # the nodes', too
    speed, cpu, same = [], [], True
    for local, ray in rounds(options):
        speed.append(ray.rows_per_second / local.rows_per_second)
        cpu.append(ray.cpu_ms / local.cpu_ms)
        same = same and local.content == ray.content
        for on, each in (("local", local), ("ray", ray)):
            print(f"{on} {each.rows_per_second:.0f} rows/s, {each.cpu_ms:.2f} ms of CPU a row", end="; ")
        print(f"ratios {speed[-1]:.2f}, {cpu[-1]:.2f}; load {os.getloadavg()[0]:.1f}", flush=True)
    ratio = statistics.median(speed)
    met = ratio >= AT_LEAST and same
    print(f"{'met   ' if met else 'MISSED'} {ratio:.2f} ({min(speed):.2f} to {max(speed):.2f}) times the local runner's"
          f" rows a second, at least {AT_LEAST} is asked, with {statistics.median(cpu):.2f} times its CPU time;"
          f" the same rows and scores: {same}")  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
