"""Loaded tabular models, shared by all requests: each is loaded once, off the event loop, and kept while it is used."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from llmops.blocking import run_blocking
from llmops.errors import CannotRun, EngineUnavailable, LlmopsError
from llmops.versions import TabularVersion

logger = logging.getLogger("llmops.service")

PRELOAD_PAUSE_SECONDS = 5.0
"""After a load that failed, the next one is not begun sooner."""


class Predicted(Protocol):
    """What a model says of rows. values: one for each. probabilities: of each row, by class; None of a regression."""

    @property
    def values(self) -> Sequence[Any]: ...

    @property
    def probabilities(self) -> Sequence[Mapping[str, float]] | None: ...


class Predictor(Protocol):
    """A loaded model: `llmops.tabular.model.TabularModel`, or a stand-in. example: a row it reads, with values that
    mean something; None where it was stored without one."""

    @property
    def example(self) -> Mapping[str, Any] | None: ...

    def predict(self, rows: Sequence[Mapping[str, Any]], /) -> Predicted:
        """Scores all rows at once. Raises BadRow for the first one that does not fit the model's schema."""
        ...


_Key = tuple[str, bytes]

TabularOpener = Callable[[TabularVersion], Predictor]
"""Loads a model; blocks while it does. Raises CannotRun."""


@dataclass(eq=False, slots=True)
class _Seat:
    """One model's place in the pool: perhaps loading, perhaps loaded."""

    version: TabularVersion
    model: Predictor | None = None
    loading: asyncio.Task[None] | None = None
    failure: str | None = None
    failed_at: float = 0.0

    @property
    def rests(self) -> bool:
        """Whether its last load failed a moment ago."""
        return self.failure is not None and time.monotonic() < self.failed_at + PRELOAD_PAUSE_SECONDS


class TabularPool:
    """Models by the sha256 of what is stored and by their rows' schema, so that two versions of the same share one.

    open_model: loads one. most_idle: how many models that are not pinned stay loaded; the champions are pinned.
    on_load: called when a preload ends, well or not.
    """

    def __init__(
        self, open_model: TabularOpener | None, *, most_idle: int = 3, on_load: Callable[[], None] = lambda: None
    ) -> None:
        self._open, self._most_idle, self.on_load = open_model or _refuse, most_idle, on_load
        self._seats: OrderedDict[_Key, _Seat] = OrderedDict()  # least recently used first
        self._pinned: frozenset[_Key] = frozenset()

    async def model(self, version: TabularVersion) -> Predictor:
        """The loaded model; loads it when it is not yet.

        Raises:
            EngineUnavailable: it cannot be loaded, or could not a moment ago; a later call tries again.
        """
        seat = self._seat(version)
        if seat.model is None and not seat.rests:
            # Shielded: a client that leaves must not end a load which others wait for.
            await asyncio.shield(seat.loading or self._begin_load(seat))
        if seat.model is None:
            raise EngineUnavailable(f"model {version.ref}: {seat.failure}", retry_after=PRELOAD_PAUSE_SECONDS)
        return seat.model

    def preload(self, version: TabularVersion) -> None:
        """Begins to load the model unless it is loaded, loading, or failed a moment ago."""
        seat = self._seat(version)
        if seat.model is None and seat.loading is None and not seat.rests:
            self._begin_load(seat).add_done_callback(lambda _: self.on_load())

    def pin(self, versions: Iterable[TabularVersion]) -> None:
        """Keeps these models loaded, and no longer those pinned before."""
        self._pinned = frozenset(map(_key, versions))
        self._evict()

    def is_loaded(self, version: TabularVersion) -> bool:
        seat = self._seats.get(_key(version))
        return seat is not None and seat.model is not None

    def failure(self, version: TabularVersion) -> str | None:
        """Why its last load failed; None when it did not, or has not ended."""
        seat = self._seats.get(_key(version))
        return None if seat is None else seat.failure

    @property
    def loaded(self) -> list[str]:
        """Refs of the versions whose models are loaded."""
        return [seat.version.ref for seat in self._seats.values() if seat.model is not None]

    @property
    def failures(self) -> Mapping[str, str]:
        """Version ref → why its last load failed, for those not loaded since."""
        return {seat.version.ref: seat.failure for seat in self._seats.values() if seat.failure is not None}

    async def close(self) -> None:
        """Gives up loads under way and forgets every model."""
        loads = [seat.loading for seat in self._seats.values() if seat.loading is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        self._seats.clear()

    def _seat(self, version: TabularVersion) -> _Seat:
        key = _key(version)
        seat = self._seats.setdefault(key, _Seat(version))
        self._seats.move_to_end(key)
        return seat

    def _begin_load(self, seat: _Seat) -> asyncio.Task[None]:
        seat.loading = asyncio.get_running_loop().create_task(self._load(seat))
        return seat.loading

    async def _load(self, seat: _Seat) -> None:
        """Ends with `model` or `failure` set; raises nothing, since nobody may be waiting any more."""
        version = seat.version
        try:
            seat.model = await run_blocking(lambda: self._open(version), name=f"load {version.ref}")
            seat.failure = None
        except LlmopsError as error:
            seat.failure = str(error)
        except Exception as error:
            logger.exception("model %s: unexpected failure to load", version.ref)
            seat.failure = f"unexpected {type(error).__name__}"
        finally:
            seat.loading, seat.failed_at = None, time.monotonic()
            self._evict()

    def _evict(self) -> None:
        idle = [key for key, seat in self._seats.items() if seat.loading is None and key not in self._pinned]
        for key in idle[: max(0, len(idle) - self._most_idle)]:
            del self._seats[key]


def _key(version: TabularVersion) -> _Key:
    schema = orjson.dumps(dict(version.schema), default=dict, option=orjson.OPT_SORT_KEYS)
    return version.sha256, schema


def _refuse(version: TabularVersion) -> Predictor:
    raise CannotRun(f"{version.ref}: this gateway was made without a way to load tabular models")
