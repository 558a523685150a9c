"""Finished generations, kept by content: the same prompt text, weights, parameters and engine are never run twice."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.engines.protocol import EngineIdentity, GenerationRequest
from llmops.errors import StoreUnavailable
from llmops.evaluation.results import Output
from llmops.hashing import content_hash


def generation_key(request: GenerationRequest, model_sha256: str, engine: EngineIdentity, seed: int | None) -> str:
    """Identity of a generation: everything that can change its text.

    seed: of the run. It is part of the key even at temperature 0, so that two seeds are two independent runs.
    """
    return content_hash(
        {
            "messages": [dict(message) for message in request.messages],
            "parameters": request.parameters.to_mapping(),
            "model": model_sha256,
            "engine": engine.to_mapping(),
            "seed": seed,
        }
    )


class GenerationCache:
    """A SQLite file of outputs by key. Each output is durable when `put` returns; failures are never kept."""

    def __init__(self, folder: Path) -> None:
        """Opens the cache in `folder`, making it when absent. Raises StoreUnavailable."""
        path = folder / "generations.db"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS generations (key TEXT PRIMARY KEY, output TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"generation cache {path}: {error}") from error

    def get(self, key: str) -> Output | None:
        """The output of that key, or None."""
        found = self._execute("SELECT output FROM generations WHERE key = ?", (key,)).fetchone()
        return Output(**json.loads(found[0])) if found else None

    def put(self, key: str, output: Output) -> None:
        """Keeps a finished output."""
        self._execute("INSERT OR REPLACE INTO generations VALUES (?, ?)", (key, json.dumps(asdict(output))))

    def close(self) -> None:
        self._connection.close()

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"generation cache: {error}") from error
