"""A simulated cluster of three nodes on this machine: a head, and two that evaluate, one of which may be killed."""

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evaluation.echo_upstream import echo_upstream, times_asked
from deploy.services.ray_nodes import RayNodes, ray_nodes
from deploy.services.servers import free_port
from llmops.errors import CannotRun, UsageError
from llmops.eval_runs.matrix import Matrix, RowChoice, RunOptions
from llmops.eval_runs.sharding import RayMatrix
from llmops.evaluation.results import EvalReport
from llmops.registry import model_registration as models
from tests.registered_home import Workshop, write_suite


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch, ray_nodes(2) as nodes:
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes


@pytest.fixture(scope="module")
def upstream(workshop: Workshop) -> Iterator[str]:
    """The URL of an upstream that is registered as `echo@1`."""
    with echo_upstream(free_port(), 0.01) as url:
        models.register(workshop.settings, workshop.registry, "echo", f"openai:{url}#echo", "MIT")
        yield url


async def evaluated(
    workshop: Workshop, home: Path, suite_name: str, done: Any = lambda _: None, **options: Any
) -> EvalReport:
    """The suite's report, with cache and shards in a home of its own, and nothing recorded. done: is told of rows."""
    suite = workshop.evaluations.suite(suite_name)
    cells = workshop.evaluations.cells(suite, ["qa@1"], ["echo@1"])
    settings = replace(workshop.settings, home=home, engine=None, engine_slots=16)
    kind = RayMatrix if "on" in options else Matrix
    matrix = kind(settings, workshop.registry, suite, RunOptions(**options), lambda _what, rows, _all: done(rows))
    async with aclosing(matrix):
        [report] = [report async for report in matrix.reports(cells, RowChoice())]
    return report


def rows_of(report: EvalReport) -> list[Any]:
    """All of the rows that does not depend on the time."""
    return [(r.row, r.output.text, r.output.finish_reason, r.output.tokens_out, r.scores) for r in report.results]


@pytest.mark.slow  # the cluster takes longer to start than the rest of this file
def test_rows_and_scores_are_the_local_runners_and_neither_repeats_the_other(workshop, cluster, upstream, tmp_path):
    workshop.add_suite("sixty", 60)
    local = asyncio.run(evaluated(workshop, tmp_path / "local", "sixty"))
    ray = asyncio.run(evaluated(workshop, tmp_path / "ray", "sixty", on="ray", shard_rows=7))
    assert rows_of(ray) == rows_of(local)
    assert ray.metrics == local.metrics
    assert (ray.generated, ray.from_cache, ray.tokens_in) == (60, 0, local.tokens_in)
    asked = times_asked(upstream)
    assert set(asked.values()) == {2}  # by each run once
    again = asyncio.run(evaluated(workshop, tmp_path / "ray", "sixty"))  # locally, on what the nodes made
    other = asyncio.run(evaluated(workshop, tmp_path / "local", "sixty", on="ray", shard_rows=50))
    assert (again.generated, other.generated) == (0, 0)
    assert rows_of(again) == rows_of(other) == rows_of(local)
    assert times_asked(upstream) == asked


def test_stopping_early_goes_with_the_local_runner(workshop):
    suite = workshop.evaluations.suite("sums")
    cells = workshop.evaluations.cells(suite, ["qa@1", "qa@2"])
    with pytest.raises(UsageError, match="--on local"):
        workshop.evaluations.run_until_decided(suite, cells, RunOptions(on="ray"), lambda *_: None)


def test_without_the_package_the_error_says_what_to_install(workshop, upstream, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CannotRun, match=re.escape("pip install 'llmops[ray]'")):
        asyncio.run(evaluated(workshop, tmp_path, "sums", on="ray"))


def test_a_cluster_that_cannot_be_reached_is_an_error_that_names_it(workshop, upstream, tmp_path):
    nobody = f"ray://127.0.0.1:{free_port()}"
    with pytest.raises(CannotRun, match=f"the Ray cluster at {nobody} cannot be reached: "):
        asyncio.run(evaluated(workshop, tmp_path, "sums", on=nobody))


@pytest.mark.slow
def test_a_node_that_is_killed_loses_no_row_and_repeats_only_what_was_in_flight(
    workshop, cluster, upstream, tmp_path, capsys
):
    n, shard_rows = 20_000, 200
    write_suite(workshop.folder, "many", n)
    local = asyncio.run(evaluated(workshop, tmp_path / "local", "many"))
    before = sum(times_asked(upstream).values())
    killed: list[int] = []

    def done(rows: int) -> None:
        if rows >= n // 4 and not killed:
            killed.append(rows)
            cluster.kill(0)

    ray = asyncio.run(evaluated(workshop, tmp_path / "ray", "many", done, on="ray", shard_rows=shard_rows))
    assert killed
    assert killed[0] < n
    assert rows_of(ray) == rows_of(local)
    assert ray.metrics == local.metrics
    assert n <= sum(times_asked(upstream).values()) - before <= n + shard_rows
    assert capsys.readouterr().out == ""  # which is the command's own, for JSON
    cluster.add()  # a node that comes instead serves the next run
