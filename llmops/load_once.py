"""Models that are loaded once and shared: off the event loop, kept while used, dropped when others need their room."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from llmops.errors import EngineUnavailable, LlmopsError
from llmops.processes import run_blocking

logger = logging.getLogger("llmops.service")
RETRY_PAUSE_SECONDS = 5.0
"""After a load that failed, no other is begun by itself sooner."""


class Named(Protocol):
    """A version of a model."""

    @property
    def ref(self) -> str: ...


Version = TypeVar("Version", bound=Named)
Model = TypeVar("Model")


@dataclass(eq=False, slots=True)
class CachedModel(Generic[Version, Model]):
    """One model of the cache: perhaps loading, perhaps loaded. users: who holds it now."""

    version: Version
    model: Model | None = None
    loading: asyncio.Task[None] | None = None
    failure: str | None = None
    failed_at: float = 0.0
    users: int = 0

    @property
    def failed_lately(self) -> bool:
        return self.failure is not None and time.monotonic() < self.failed_at + RETRY_PAUSE_SECONDS


class ModelCache(Generic[Version, Model]):
    """Loaded models by `key_of` their version: versions with one key share a model.

    open_model: loads one; blocks while it does, and raises LlmopsError.
    most_idle: how many models that nobody uses stay loaded; pinned ones always stay and do not count.
    on_load: called when a preload ends, well or not.
    """

    def __init__(
        self, open_model: Callable[[Version], Model], key_of: Callable[[Version], Hashable], *, most_idle: int = 3
    ) -> None:
        self._open, self._key_of, self._most_idle = open_model, key_of, most_idle
        self.on_load: Callable[[], object] = lambda: None
        self._entries: OrderedDict[Hashable, CachedModel[Version, Model]] = OrderedDict()  # least recently used first
        self._pinned: frozenset[Hashable] = frozenset()
        self._tasks: set[asyncio.Task[None]] = set()

    def preload(self, version: Version) -> None:
        """Begins to load the model unless it is loaded, loading, or failed a moment ago."""
        entry = self._entry(version)
        if entry.model is None and entry.loading is None and not entry.failed_lately:
            self._begin_load(entry).add_done_callback(lambda _: self.on_load())

    def pin(self, versions: Iterable[Version]) -> None:
        """Keeps these models loaded, and no longer those pinned before."""
        self._pinned = frozenset(map(self._key_of, versions))
        self._evict()

    def is_loaded(self, version: Version) -> bool:
        entry = self._entries.get(self._key_of(version))
        return entry is not None and entry.model is not None

    async def model(self, version: Version) -> Model:
        """The loaded model; loads it when it is not yet. It is nobody's: it may leave the cache while it is used.

        Raises EngineUnavailable: it cannot be loaded, or could not a moment ago; a later call tries again.
        """
        return await self._loaded(self._entry(version), retry=False)

    def failure(self, version: Version) -> str | None:
        """Why its last load failed; None when it did not, or has not ended."""
        entry = self._entries.get(self._key_of(version))
        return None if entry is None else entry.failure

    @property
    def loaded(self) -> list[str]:
        """Refs of the versions whose models are loaded."""
        return [entry.version.ref for entry in self._entries.values() if entry.model is not None]

    @property
    def failures(self) -> Mapping[str, str]:
        """Version ref → why its last load failed, for those not loaded since."""
        return {entry.version.ref: entry.failure for entry in self._entries.values() if entry.failure is not None}

    async def close(self) -> None:
        """Gives up loads under way and drops every model. Nobody may hold one."""
        loads = [entry.loading for entry in self._entries.values() if entry.loading is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        for key in list(self._entries):
            self._drop(key)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def dispose(self, model: Model, ref: str) -> None:
        """Frees a model that left the cache."""

    def _entry(self, version: Version) -> CachedModel[Version, Model]:
        key = self._key_of(version)
        entry = self._entries.setdefault(key, CachedModel(version))
        self._entries.move_to_end(key)
        return entry

    async def _loaded(self, entry: CachedModel[Version, Model], *, retry: bool = True) -> Model:
        """The entry's model, once its load has ended. retry: at once, where the last load failed a moment ago. Raises
        EngineUnavailable: it cannot be loaded."""
        if entry.model is None and (retry or not entry.failed_lately):
            # Shielded: a client that leaves must not end a load which others wait for.
            await asyncio.shield(entry.loading or self._begin_load(entry))
        if entry.model is None:
            raise EngineUnavailable(f"model {entry.version.ref}: {entry.failure}", retry_after=RETRY_PAUSE_SECONDS)
        return entry.model

    def _begin_load(self, entry: CachedModel[Version, Model]) -> asyncio.Task[None]:
        entry.loading = self._begin(self._load(entry))
        return entry.loading

    async def _load(self, entry: CachedModel[Version, Model]) -> None:
        """Ends with `model` or `failure` set; raises nothing, since nobody may be waiting any more."""
        version = entry.version
        try:
            entry.model = await run_blocking(lambda: self._open(version), name=f"load {version.ref}")
            entry.failure = None
        except LlmopsError as error:
            entry.failure = str(error)
        except Exception as error:
            logger.exception("model %s: unexpected failure to load", version.ref)
            entry.failure = f"unexpected {type(error).__name__}"
        finally:
            entry.loading, entry.failed_at = None, time.monotonic()
            self._evict()

    def _evict(self) -> None:
        idle = [
            key
            for key, entry in self._entries.items()
            if entry.loading is None and entry.users == 0 and key not in self._pinned
        ]
        for key in idle[: max(0, len(idle) - self._most_idle)]:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        if entry.model is not None:
            self._begin(self.dispose(entry.model, entry.version.ref))

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return task
