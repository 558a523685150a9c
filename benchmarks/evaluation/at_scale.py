"""A suite of 100,000 rows from one process over an upstream that answers at most 500 requests a second.

    python -m benchmarks.evaluation.at_scale [--rows 100000]

The stub has 50 places of 0.1 s each, and 64 requests are under way at a time. How busy it is kept is the share of its
answers a second that were asked for, from the first request to the last answer. Memory is this process's, whenever
another hundredth of the rows is done; it may grow by a tenth from the tenth hundredth on. Nothing is recorded in
MLflow, which takes a sample of such a run. Exits 1 when the upstream is kept busy to less than 90 %, or memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path

import psutil

from benchmarks.evaluation.echo_upstream import echo_upstream
from benchmarks.evaluation.on_ray import home_with_rows
from benchmarks.evaluation.ours import KEY_VARIABLE, SUITE
from benchmarks.evaluation.server import KEY
from deploy.services.servers import free_port
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import Matrix, RowChoice, RunOptions
from llmops.progress import progress_bar

PLACES, SECONDS, SLOTS = 50, 0.1, 64
AT_LEAST, MAY_GROW = 0.9, 1.1


async def evaluated(evaluations: Evaluations, rows: int) -> tuple[float, list[float]]:
    """Rows a second, and megabytes at each hundredth of the rows."""
    process, memory, suite = psutil.Process(), list[float](), evaluations.suite(SUITE)
    with progress_bar() as show:

        def told(what: str, done: int, total: int) -> None:
            show(what, done, total)
            if total == rows and 100 * done // total > len(memory):
                memory.append(process.memory_info().rss / 1e6)

        matrix = Matrix(evaluations.settings, evaluations.registry, suite, RunOptions(), told)
        async with aclosing(matrix):
            [report] = [report async for report in matrix.reports(evaluations.cells(suite), RowChoice())]
    assert report.generated == rows
    return rows / report.seconds, memory


def measured(rows: int) -> tuple[float, list[float]]:
    """As `evaluated`, of a home and an upstream of its own."""
    os.environ[KEY_VARIABLE] = KEY
    with (
        tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder,
        echo_upstream(free_port(), SECONDS, PLACES) as url,
    ):
        return asyncio.run(evaluated(home_with_rows(Path(folder), url, rows, SLOTS), rows))


def main() -> int:
    parser = argparse.ArgumentParser(description="100,000 rows over an upstream of 500 requests a second.")
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run")
    rate, memory = measured(options.rows)
    busy, early, most = rate * SECONDS / PLACES, memory[len(memory) // 10], max(memory)
    met = busy >= AT_LEAST, most <= MAY_GROW * early
    for held, text in zip(
        met,
        (
            f"{rate:.0f} rows/s keep the upstream busy to {busy:.0%}, at least {AT_LEAST:.0%} asked",
            f"memory {early:.0f} MB after a tenth of the rows, then at most {most:.0f}, {MAY_GROW * early:.0f} allowed",
        ),
        strict=True,
    ):
        print(f"{'met   ' if held else 'MISSED'} {text}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
