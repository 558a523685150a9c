"""Evaluates shards on the nodes of a Ray cluster: one that is running, or one that is started for the run.

They are plain tasks: when a node dies, Ray runs its tasks again on another one (docs/adr/0025).
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, redirect_stdout
from itertools import takewhile
from typing import Any

from llmops.errors import CannotRun, LlmopsError
from llmops.eval_runs.sharding import CellWork, ShardDone, ShardWork, ShardWorker, collect, shards_of
from llmops.evaluation.generating import Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.settings import named_variables

_ATTEMPTS = 5  # after the first, of a shard whose process or node died
_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 200 * 1024 * 1024  # shards are small; Ray's own default is a third of the memory


def keep_on_loopback() -> None:
    """Has Ray, which must not be imported yet, listen on loopback only, and take 127.0.0.1 for what it is: on Linux it
    would be the machine's address that others reach. No statistics of its use are sent."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on those systems it is the default
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # its next version's behaviour, which it warns of


@contextmanager
def cluster(on: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `ray://HOST:PORT`; for `ray`, to the one that RAY_ADDRESS names, else to one
    that is started on this machine and ends with the block.

    Raises:
        CannotRun: Ray is not installed, or the cluster cannot be reached, or has another version of Ray or Python.
    """
    address = named_variables(["RAY_ADDRESS"]).get("RAY_ADDRESS") if on == "ray" else on
    if not address or address.startswith(("127.0.0.1:", "localhost:")):
        keep_on_loopback()
    if address:
        _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise CannotRun("--on ray needs the package ray: pip install 'llmops[ray]'") from error
    own: dict[str, Any] = {
        "_node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else own))
    except (OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at {address} cannot be used" if address else "Ray cannot be started"
        raise CannotRun(f"{where}: {_first_line(error)}") from error
    with redirect_stdout(sys.stderr):  # Ray prints that a node died, from a thread; stdout is the command's own
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises CannotRun at once; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # else one of Ray's other forms
        try:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            raise CannotRun(f"the Ray cluster at {address} cannot be reached: {error}") from error


class RayRunner:
    """Evaluates cells on a cluster, which is connected when it is first needed. Close it.

    on: as `cluster` takes it.
    workers: shards at a time; None: as many as the cluster has nodes with a CPU at that moment.
    shard_rows: rows of a shard, which is what a node that dies may have to make again.
    """

    def __init__(self, on: str, workers: int | None, shard_rows: int) -> None:
        self._on, self._workers, self._shard_rows = on, workers, shard_rows
        self._connected = ExitStack()
        self._ray: Any = None

    def close(self) -> None:
        self._connected.close()

    async def evaluate(
        self,
        cells: Sequence[CellWork],
        tasks: Sequence[Task],
        cache: GenerationCache,
        progress: Callable[[int], None],
    ) -> list[list[ShardDone]]:
        """What became of the shards of each cell, in order.

        tasks: the cells', with their rows.
        cache: what it holds is not made again; it gets what was finished where the run fails.
        progress: is told how many rows are done.

        Raises:
            CannotRun: the cluster cannot be used, or a shard's process died again and again.
            EngineError: the engine is gone.
        """
        if self._ray is None:
            self._ray = self._connected.enter_context(cluster(self._on))
        shards = (
            (position, work)
            for position, (cell, task) in enumerate(zip(cells, tasks, strict=True))
            for work in shards_of(cell, task, cache, self._shard_rows)
        )
        found: list[dict[int, ShardDone]] = [{} for _ in cells]
        failures: list[LlmopsError] = []
        rows = 0
        async with aclosing(self._run(cells, takewhile(lambda _: not failures, shards))) as results:
            async for number, position, done in results:
                found[position][number] = done
                if done.error is not None:
                    failures.append(done.error)
                rows += done.rows
                progress(rows)
        in_order = [[by_number[number] for number in sorted(by_number)] for by_number in found]
        if failures:
            for cell, all_done in zip(cells, in_order, strict=True):
                for _ in collect(cell, all_done, cache):
                    pass
            raise failures[0]
        return in_order

    async def _run(
        self, cells: Sequence[CellWork], shards: Iterator[tuple[int, ShardWork]]
    ) -> AsyncGenerator[tuple[int, int, ShardDone], None]:
        """Number, cell's position and result of each shard, as they are done. A shard is taken when there is room."""
        ray = self._ray
        if not (sizes := _cpus(ray)):
            raise CannotRun("no node of the Ray cluster has a CPU")
        # A local engine uses all cores of its node; asking an upstream is work for one.
        cpus = 1 if cells[0].model.format == "openai" else min(sizes)
        evaluate = ray.remote(_evaluate).options(
            num_cpus=cpus, max_retries=_ATTEMPTS, scheduling_strategy="SPREAD", name="evaluate shard"
        )
        sent = [ray.put(cell) for cell in cells]
        running: dict[asyncio.Future[ShardDone], tuple[int, int]] = {}

        async def finished() -> list[tuple[int, int, ShardDone]]:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            try:
                return [(*running.pop(each), each.result()) for each in done]
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise CannotRun(f"a shard was given up: {_first_line(error)}") from error

        for number, (position, work) in enumerate(shards):
            while len(running) >= (self._workers or max(1, len(_cpus(ray)))):
                for each in await finished():
                    yield each
            result = evaluate.remote(sent[position], work).future()
            running[asyncio.wrap_future(result)] = number, position
        while running:
            for each in await finished():
                yield each


def _cpus(ray: Any) -> list[int]:
    """CPUs of each live node that has any."""
    found = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return [cpus for cpus in found if cpus]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@functools.cache
def _worker() -> ShardWorker:
    """This process's own."""
    return ShardWorker()


def _evaluate(cell: CellWork, work: ShardWork) -> ShardDone:
    """The task that Ray runs on a node."""
    return _worker().evaluate(cell, work)
