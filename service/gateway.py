"""The parts that every route shares, and their life from start-up to shutdown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.admission import Admission
from service.engine_pool import EngineOpener, EnginePool
from service.log_writer import LogWriter
from service.metrics import Metrics
from service.snapshot import ReleaseSource
from service.snapshot_keeper import SnapshotKeeper

CANCELLED_SECONDS = 5.0


class Gateway:
    """One gateway process: snapshot, engines, admission, log and metrics. `running` brings it to life."""

    def __init__(
        self, settings: Settings, source: ReleaseSource, open_engine: EngineOpener, log: ProductionLog
    ) -> None:
        self.settings = settings
        self.pool = EnginePool(open_engine)
        self.keeper = SnapshotKeeper(source, self.pool, settings.registry_poll)
        self.admission = Admission(settings.max_waiting)
        self.log = LogWriter(log.append)
        self.metrics = Metrics(in_flight=lambda: self.admission.held)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Polls the registry and writes the log while the block runs; then closes engines and empties the log queue."""
        self.log.start()
        polling = asyncio.create_task(self.keeper.run(), name="snapshot keeper")
        try:
            yield
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            # Requests cancelled by an overlong drain still close their streams and write their records.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCELLED_SECONDS):
                    await self.admission.idle()
            await self.pool.close()
            await self.log.close()

    def problems(self) -> list[str]:
        """Why the gateway should get no traffic now; empty when it is ready."""
        found = []
        if self.keeper.age is None:
            found.append(f"registry not read yet: {self.keeper.last_error or 'first look is under way'}")
        else:
            champions = self.keeper.snapshot.champions.items()
            unloaded = [(app, model) for app, model in champions if not self.pool.is_loaded(model)]
            failures = self.pool.failures
            found += [f"engine of {app}: {failures.get(model.ref, 'loading')}" for app, model in unloaded]
        if self.log.failure is not None:
            found.append(f"production log cannot be written: {self.log.failure}")
        return found
