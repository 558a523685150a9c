"""Loaded models, shared by all requests: each is opened once, kept while used, and closed when others need its room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from llmops.blocking import run_blocking
from llmops.engines.protocol import Engine, RelayingEngine
from llmops.errors import EngineUnavailable, LlmopsError
from llmops.versions import ModelVersion

logger = logging.getLogger("llmops.service")

EngineOpener = Callable[[ModelVersion], Engine]
"""Opens a model; blocks while weights load. Raises EngineError or another CannotRun."""

PRELOAD_PAUSE_SECONDS = 5.0

EngineKey = tuple[str, str]


@dataclass(eq=False, slots=True)
class _Seat:
    """One model's place in the pool: perhaps loading, perhaps loaded."""

    model: ModelVersion
    engine: Engine | None = None
    loading: asyncio.Task[None] | None = None
    failure: str | None = None
    failed_at: float = 0.0
    users: int = 0


class EnginePool:
    """Engines by model content, so that two names of the same weights share one engine.

    open_engine: opens one model. most_idle: how many engines that no request uses stay open; pinned ones (the
    champions') always stay and do not count. on_load: called when a preload ends, well or not.
    """

    def __init__(
        self, open_engine: EngineOpener, *, most_idle: int = 3, on_load: Callable[[], None] = lambda: None
    ) -> None:
        self._open, self._most_idle, self.on_load = open_engine, most_idle, on_load
        self._seats: OrderedDict[EngineKey, _Seat] = OrderedDict()  # least recently used first
        self._pinned: frozenset[EngineKey] = frozenset()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(self, model: ModelVersion) -> AsyncIterator[Engine]:
        """The model's engine, loaded when it is not yet; it stays open until the block ends.

        Raises:
            EngineUnavailable: it cannot be loaded; the next lease tries again.
        """
        seat = self._seat(model)
        seat.users += 1
        try:
            yield seat.engine if seat.engine is not None else await self._wait_for(seat)
        finally:
            seat.users -= 1
            if seat.users == 0:
                self._evict()

    def preload(self, model: ModelVersion) -> None:
        """Begins to load the model unless it is loaded, loading, or failed a moment ago."""
        seat = self._seat(model)
        waiting = seat.failure is not None and time.monotonic() < seat.failed_at + PRELOAD_PAUSE_SECONDS
        if seat.engine is None and seat.loading is None and not waiting:
            self._begin_load(seat).add_done_callback(lambda _: self.on_load())

    def pin(self, models: Iterable[ModelVersion]) -> None:
        """Keeps these models' engines open, and no longer those pinned before."""
        self._pinned = frozenset(engine_key(model) for model in models)
        self._evict()

    def is_loaded(self, model: ModelVersion) -> bool:
        seat = self._seats.get(engine_key(model))
        return seat is not None and seat.engine is not None

    @property
    def loaded(self) -> list[str]:
        """Refs of the models whose engines are open."""
        return [seat.model.ref for seat in self._seats.values() if seat.engine is not None]

    @property
    def modes(self) -> dict[str, dict[str, Any]]:
        """Model ref → what its open engine is, with every setting that can change a greedy answer."""
        seats = self._seats.values()
        return {seat.model.ref: seat.engine.identity.to_mapping() for seat in seats if seat.engine is not None}

    @property
    def failures(self) -> Mapping[str, str]:
        """Model ref → why its last load failed, for those not loaded since."""
        return {seat.model.ref: seat.failure for seat in self._seats.values() if seat.failure is not None}

    @property
    def problems(self) -> list[str]:
        """What loaded engines say of the servers behind them: a line for each that gets no requests now."""
        engines = (seat.engine for seat in self._seats.values())
        return [problem for engine in engines if isinstance(engine, RelayingEngine) for problem in engine.problems()]

    async def close(self) -> None:
        """Gives up loads under way and closes every engine. No lease may be open."""
        loads = [seat.loading for seat in self._seats.values() if seat.loading is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        for seat in self._seats.values():
            if seat.engine is not None:
                self._begin(_close(seat.engine, seat.model.ref))
        self._seats.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _seat(self, model: ModelVersion) -> _Seat:
        key = engine_key(model)
        seat = self._seats.setdefault(key, _Seat(model))
        self._seats.move_to_end(key)
        return seat

    async def _wait_for(self, seat: _Seat) -> Engine:
        # Shielded: a client that leaves must not end a load which others wait for.
        await asyncio.shield(seat.loading or self._begin_load(seat))
        if seat.engine is None:
            raise EngineUnavailable(f"model {seat.model.ref}: {seat.failure}", retry_after=PRELOAD_PAUSE_SECONDS)
        return seat.engine

    def _begin_load(self, seat: _Seat) -> asyncio.Task[None]:
        seat.loading = self._begin(self._load(seat))
        return seat.loading

    async def _load(self, seat: _Seat) -> None:
        """Ends with `engine` or `failure` set; raises nothing, since nobody may be waiting any more."""
        try:
            seat.engine = await run_blocking(lambda: self._open(seat.model), name=f"load {seat.model.ref}")
            seat.failure = None
        except LlmopsError as error:
            seat.failure = str(error)
        except Exception as error:
            logger.exception("model %s: unexpected failure to load", seat.model.ref)
            seat.failure = f"unexpected {type(error).__name__}"
        finally:
            seat.loading, seat.failed_at = None, time.monotonic()
            self._evict()

    def _evict(self) -> None:
        idle = [
            key
            for key, seat in self._seats.items()
            if seat.engine is not None and seat.users == 0 and key not in self._pinned
        ]
        for key in idle[: max(0, len(idle) - self._most_idle)]:
            seat = self._seats.pop(key)
            if seat.engine is not None:
                self._begin(_close(seat.engine, seat.model.ref))

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return task


def engine_key(model: ModelVersion) -> EngineKey:
    """The same for models that can share an engine."""
    # An upstream server has no weights to hash; its address is its identity.
    return (model.format, model.sha256 or model.source)


async def _close(engine: Engine, ref: str) -> None:
    try:
        await engine.close()
    except Exception:
        logger.exception("model %s: its engine did not close cleanly", ref)
