"""Loaded engines, shared by all requests: each is opened once, kept while used, closed when others need its room."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from llmops.engines.protocol import Engine, RelayingEngine
from llmops.load_once import ModelCache
from llmops.versions import ModelVersion

logger = logging.getLogger("llmops.service")

EngineOpener = Callable[[ModelVersion], Engine]
"""Opens a model; blocks while weights load. Raises EngineError or another CannotRun."""

EngineKey = tuple[str, str]


def engine_key(model: ModelVersion) -> EngineKey:
    """The same for models that can share an engine."""
    # An upstream server has no weights to hash; its address is its identity.
    return (model.format, model.sha256 or model.source)


class EnginePool(ModelCache[ModelVersion, Engine]):
    """Engines by model content, so that two names of the same weights share one engine.

    open_engine: opens one model. most_idle: how many engines that no request uses stay open; pinned ones (the
    champions') always stay and do not count. on_load: called when a preload ends, well or not.
    """

    def __init__(
        self, open_engine: EngineOpener, *, most_idle: int = 3, on_load: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(open_engine, engine_key, most_idle=most_idle, on_load=on_load)

    @asynccontextmanager
    async def lease(self, model: ModelVersion) -> AsyncIterator[Engine]:
        """The model's engine, loaded when it is not yet; it stays open until the block ends.

        Raises:
            EngineUnavailable: it cannot be loaded; the next lease tries again.
        """
        entry = self._entry(model)
        entry.users += 1
        try:
            yield await self._loaded(entry)
        finally:
            entry.users -= 1
            if entry.users == 0:
                self._evict()

    @property
    def modes(self) -> dict[str, dict[str, Any]]:
        """Model ref → what its open engine is, with every setting that can change a greedy answer."""
        entries = self._entries.values()
        return {entry.version.ref: entry.model.identity.to_mapping() for entry in entries if entry.model is not None}

    @property
    def problems(self) -> list[str]:
        """What loaded engines say of the servers behind them: a line for each that gets no requests now."""
        engines = (entry.model for entry in self._entries.values())
        return [problem for engine in engines if isinstance(engine, RelayingEngine) for problem in engine.problems()]

    async def dispose(self, model: Engine, ref: str) -> None:
        """Closes an engine that left the pool."""
        try:
            await model.close()
        except Exception:
            logger.exception("model %s: its engine did not close cleanly", ref)
