"""Keeps the snapshot fresh: polls the release source in the background and swaps in what changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from llmops.engines.opening import EnginePool
from llmops.errors import LlmopsError, StoreUnavailable
from llmops.load_once import ModelCache, Version
from llmops.processes import run_blocking
from llmops.versions import RegisteredVersions
from service.predictions import TabularPool
from service.snapshot import ReleaseSource, Snapshot

logger = logging.getLogger("llmops.service")


class SnapshotKeeper:
    """Holds the current snapshot.

    An app, or a tabular model, moves to a newer snapshot only when its new champion is loaded, so that moving an alias
    never makes a request wait for weights. Engines of challengers that a traffic policy sends anything are loaded and
    kept too. While the source is down, or a champion cannot be loaded, the last good state keeps serving.

    What vanishes from the source while it is served is a fault of the source, not news: it is served on as it was.

    seconds: pause between two looks at the source. held_back: apps and tabular models whose old champion serves;
    vanished: those among them that the source has no more.
    """

    def __init__(
        self, source: ReleaseSource, pool: EnginePool, seconds: float, tabular: TabularPool | None = None
    ) -> None:
        self._source, self._pool, self._seconds = source, pool, seconds
        self._tabular = tabular or TabularPool(None)
        self._snapshot: Snapshot | None = None
        self._fresh = Snapshot(RegisteredVersions({}))
        self._read_at = 0.0
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self.last_error: str | None = None
        self.held_back: tuple[str, ...] = ()
        self.vanished: tuple[str, ...] = ()
        pool.on_load = self._tabular.on_load = self._wake.set

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot. Raises StoreUnavailable before the first one was read."""
        if self._snapshot is None:
            raise StoreUnavailable("the registry has not been read yet")
        return self._snapshot

    @property
    def age(self) -> float | None:
        """Seconds since the source was last read with success; None before the first time."""
        return None if self._snapshot is None else time.monotonic() - self._read_at

    async def run(self) -> None:
        """Looks at the source for ever: every `seconds`, and as soon as a preload ended."""
        while True:
            await self.look()
            self._looked.set()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    async def wait_for_first_look(self, seconds: float) -> None:
        """Waits until `run` has looked once, however that went; at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._looked.wait()

    async def look(self) -> None:
        """One look at the source: begins to load what new champions need, swaps in what is ready."""
        try:
            registered = await run_blocking(self._source.registered, name="read registry")
        except LlmopsError as error:
            self.last_error = str(error)
            return
        except Exception as error:
            logger.exception("the registry cannot be read")
            self.last_error = f"unexpected {type(error).__name__}"
            return
        self.last_error, self._read_at = None, time.monotonic()
        if registered is not self._fresh.registered:
            self._fresh = Snapshot(registered)
        self._swap_in(self._fresh)

    def _swap_in(self, fresh: Snapshot) -> None:
        old = self._snapshot or Snapshot(RegisteredVersions({}))
        self._pin(fresh, old)
        for model in fresh.served_models:
            self._pool.preload(model)
        for version in fresh.tabular_champions.values():
            self._tabular.preload(version)
        # Whose old champion can serve and whose new one cannot yet.
        waiting = [
            *_waiting(self._pool, old.champions, fresh.champions),
            *_waiting(self._tabular, old.tabular_champions, fresh.tabular_champions),
        ]
        # Those with a champion of which there is no version any more.
        gone = [name for name in old.champions if not fresh.apps.get(name)]
        gone += [name for name in old.tabular_champions if not fresh.registered.tabular.get(name)]
        for name in set(gone) - set(self.vanished):
            logger.error("%s is gone from the registry while it is served; its last champion serves on", name)
        self.vanished = tuple(gone)
        self.held_back = (*waiting, *gone)
        self._snapshot = fresh.holding_back(frozenset(self.held_back), old)
        self._pin(fresh, self._snapshot)

    def _pin(self, *snapshots: Snapshot) -> None:
        self._pool.pin([model for each in snapshots for model in each.served_models])
        self._tabular.pin([version for each in snapshots for version in each.tabular_champions.values()])


def _waiting(pool: ModelCache[Version, Any], old: Mapping[str, Version], new: Mapping[str, Version]) -> list[str]:
    served = [(name, old[name], version) for name, version in new.items() if name in old]
    return [name for name, before, version in served if pool.is_loaded(before) and not pool.is_loaded(version)]
