"""The kind `similarity`: how close an answer is to its question, by sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmops.production_log import LogRecord
from llmops.settings import Settings
from monitoring.descriptors.computation import Computation, Compute
from monitoring.tables import Table


def make_similarity(table: Table, settings: Settings) -> Computation:  # noqa: ARG001 - it has no parameters
    """Cosine of question and answer, from -1 to 1, by the catalogue's embedding model (MiniLM: their first 256 tokens).

    None where one of them is blank. Some 50 ms a row on one core: declare it with `sampled`.
    """
    from llmops.engines.embedding import embedder

    embed = embedder(settings)
    return Computation(cosines_by(embed), embed.identity)


def cosines_by(embed: Callable[[Sequence[str]], Any]) -> Compute:
    """The cosine of each record's question and answer, by an embedding into vectors of length 1."""

    def cosines(records: Sequence[LogRecord]) -> list[float | None]:
        both = [bool(record.input.strip() and record.output.strip()) for record in records]
        chosen = [record for record, whole in zip(records, both, strict=True) if whole]
        if not chosen:
            return [None] * len(records)
        texts = [_readable(text) for record in chosen for text in (record.input, record.output)]
        vectors = embed(texts)
        found = iter((vectors[0::2] * vectors[1::2]).sum(axis=1).tolist())
        return [next(found) if whole else None for whole in both]

    return cosines


def _readable(text: str) -> str:
    """As far as the model reads, and without halves of surrogate pairs, which its tokenizer refuses."""
    return text[:4_000].encode("utf-8", "replace").decode()
