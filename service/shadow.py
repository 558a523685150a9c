"""Shadow requests: the challenger answers too, unseen. Its answer goes into the log and nowhere else."""

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from llmops.engines.opening import EnginePool
from llmops.errors import EngineBusy, EngineTimeout
from llmops.production_log import SHADOW
from service.error_map import api_error, report_failure
from service.exchange import AnswerRequest, Arrival, Exchange
from service.guards import guards_for
from service.log_writer import LogWriter
from service.snapshot import Target

logger = logging.getLogger("llmops.service")

Ending = Literal["done", "dropped", "failed"]
ProductionWaits = Callable[[], Awaitable[bool]]
"""Whether a request of production waits for an engine now."""

MOST_WAITING = 32
AT_ONCE = 2
LOOK_SECONDS = 0.25
"""How often a shadow request under way looks whether it is in anybody's way."""


class _Job(NamedTuple):
    arrival: Arrival
    request: AnswerRequest
    target: Target


class Shadow:
    """Runs shadow requests behind the replies of production.

    They give way. One is dropped, and counted, when MOST_WAITING wait already, when a request of production waits for
    an engine as its turn comes, and when one begins to wait while it runs. So under load the sample is of the quieter
    moments. What the challenger answers is recorded with the outcome `shadow`, a request id of its own and
    `details.shadow_of`, the id of the request that was answered; so are its errors.

    seconds: until one is given up. count: told how each one ended.
    """

    def __init__(
        self,
        pool: EnginePool,
        log: LogWriter,
        *,
        seconds: float,
        production_waits: ProductionWaits | None = None,
        count: Callable[[Ending], None] = lambda _: None,
    ) -> None:
        self._pool, self._log, self._seconds = pool, log, seconds
        self._production_waits, self._count = production_waits, count
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(MOST_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to run what is submitted; call inside the event loop."""
        self._tasks = [asyncio.create_task(self._work(), name="shadow") for _ in range(AT_ONCE)]

    def submit(self, arrival: Arrival, request: AnswerRequest, target: Target) -> None:
        """Lets `target` answer a request that production has answered. Never waits and never fails."""
        try:
            self._queue.put_nowait(_Job(arrival, request, target))
        except asyncio.QueueFull:
            self._count("dropped")

    async def close(self) -> None:
        """Drops what waits and what runs: nobody is waiting for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()
            self._count("dropped")

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            try:
                self._count(await self._run(job))
            except asyncio.CancelledError:
                self._count("dropped")
                raise
            except Exception as error:  # noqa: BLE001  the next shadow request must run all the same
                report_failure(error, job.arrival.request_id)
                self._count("failed")

    async def _run(self, job: _Job) -> Ending:
        if self._production_waits is not None and await self._production_waits():
            return "dropped"
        running = asyncio.create_task(self._answer(job))
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=LOOK_SECONDS)
                if not running.done() and self._production_waits is not None and await self._production_waits():
                    return "dropped"
            return await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _answer(self, job: _Job) -> Ending:
        # An upstream server must not take it for part of the client's trace.
        own = dataclasses.replace(job.arrival, request_id=uuid.uuid4().hex, start=time.perf_counter(), headers={})
        exchange = Exchange(own, job.request, job.target, guards_for(job.target.release), SHADOW)
        try:
            async with asyncio.timeout(self._seconds):
                request = dataclasses.replace(exchange.prepare(), whole=True)
                async with self._pool.lease(exchange.target.model) as engine:
                    await exchange.collect(engine, request)
        except EngineBusy:
            return "dropped"
        except Exception as raised:  # noqa: BLE001  whatever happened is what the record says of the challenger
            late = f"no whole answer within {self._seconds:g} s"
            error = EngineTimeout(late) if isinstance(raised, TimeoutError) else raised
            report_failure(error, own.request_id)
            record = exchange.record(api_error(error).status, SHADOW, f"{type(error).__name__}: {error}")
            ending: Ending = "failed"
        else:
            record, ending = exchange.record(200, SHADOW), "done"
        details = {**record.details, "shadow_of": job.arrival.request_id}
        await self._log.write(dataclasses.replace(record, details=details))
        return ending
