"""Loaded tabular models, shared by all requests: each is loaded once, off the event loop, and kept while it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from llmops.errors import CannotRun
from llmops.load_once import ModelCache
from llmops.versions import TabularVersion


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


class TabularPool(ModelCache[TabularVersion, Predictor]):
    """Models by the sha256 of what is stored and by their rows' schema, so that two versions of the same share one.

    open_model: loads one. most_idle: how many models that are not pinned stay loaded; the champions are pinned.
    on_load: called when a preload ends, well or not.
    """

    def __init__(
        self, open_model: TabularOpener | None, *, most_idle: int = 3, on_load: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(open_model or _refuse, _key, most_idle=most_idle, on_load=on_load)

    async def model(self, version: TabularVersion) -> Predictor:
        """The loaded model; loads it when it is not yet.

        Raises:
            EngineUnavailable: it cannot be loaded, or could not a moment ago; a later call tries again.
        """
        entry = self._entry(version)
        return self._model_of(entry) if entry.failed_lately else await self._loaded(entry)

    def failure(self, version: TabularVersion) -> str | None:
        """Why its last load failed; None when it did not, or has not ended."""
        entry = self._entries.get(_key(version))
        return None if entry is None else entry.failure


def _key(version: TabularVersion) -> _Key:
    schema = orjson.dumps(dict(version.schema), default=dict, option=orjson.OPT_SORT_KEYS)
    return version.sha256, schema


def _refuse(version: TabularVersion) -> Predictor:
    raise CannotRun(f"{version.ref}: this gateway was made without a way to load tabular models")
