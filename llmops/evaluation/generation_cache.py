"""What must never be made twice, kept by content in one SQLite file: generations, judges' scores, measured noise."""

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.engines.protocol import EngineIdentity
from llmops.errors import StoreUnavailable
from llmops.evaluation.results import Noise, Output, Score
from llmops.generation import GenerationRequest
from llmops.hashing import content_hash
from llmops.state_files import keep_private, make_private_folder, write_ahead

_TABLES = (
    "CREATE TABLE IF NOT EXISTS generations (key TEXT PRIMARY KEY, output TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS noise (key TEXT PRIMARY KEY, noise TEXT NOT NULL)",
    # Of this process alone: a failure is a record of its run, and is tried again by the next one.
    "CREATE TEMP TABLE failures (key TEXT PRIMARY KEY, output TEXT NOT NULL)",
)


def generation_key(
    request: GenerationRequest,
    model_sha256: str,
    engine: EngineIdentity,
    seed: int | None,
    choices: Sequence[str] | None = None,
) -> str:
    """Identity of a generation: everything that can change its text.

    seed: of the run. It is part of the key even at temperature 0, so that two seeds are two independent runs.
    choices: of a multiple-choice row, whose likelihoods are asked for in place of a text.
    """
    content: dict[str, Any] = {
        "messages": [dict(message) for message in request.messages],
        "parameters": request.parameters.to_mapping(),
        "model": model_sha256,
        "engine": {"name": engine.name, "build": engine.build, "settings": engine.settings},  # `asdict` would copy them
        "seed": seed,
    }
    return content_hash(content if choices is None else {**content, "choices": list(choices)})


def noise_key(model_sha256: str, engine: EngineIdentity, served: EngineIdentity, rows_hash: str) -> str:
    """Identity of a measurement: of answers by `engine` against the same asked of `served`, to a suite's rows."""
    engines = {"engine": asdict(engine), "served": asdict(served)}
    return content_hash({"model": model_sha256, "rows": rows_hash, **engines})


class GenerationCache:
    """Outputs, kept scores and noise by key. What is put is durable when `put` returns. Safe to share by threads."""

    def __init__(self, folder: Path | None) -> None:
        """Opens the cache in `folder`, making it when absent; None: in memory. Raises StoreUnavailable."""
        self.folder = folder
        self._lock = threading.Lock()
        path = ":memory:" if folder is None else folder / "generations.db"
        try:
            if folder is not None:
                make_private_folder(folder)
                keep_private(folder)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            write_ahead(self._connection)
            for statement in _TABLES:
                self._connection.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"generation cache {path}: {error}") from error

    def get(self, key: str) -> Output | None:
        """The finished output of that key, or None."""
        output = self._read("SELECT output FROM generations WHERE key = ?", key)
        return None if output is None else Output(**output)

    def holds(self, key: str) -> bool:
        """Whether there is a finished output of that key."""
        return self._read("SELECT 1 FROM generations WHERE key = ?", key) is not None

    def outcome(self, key: str) -> Output | None:
        """The output of that key, finished or failed for good in this process; None when it was not tried."""
        output = self.get(key)
        if output is None and (failed := self._read("SELECT output FROM failures WHERE key = ?", key)) is not None:
            return Output(**failed)
        return output

    def put(self, key: str, output: Output) -> None:
        """Keeps an output: a finished one for good, a failed one until it is tried again or the process ends."""
        table = "generations" if output.error is None else "failures"
        self._write(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", key, output.to_json())  # noqa: S608 - a fixed name

    def forget_failure(self, key: str) -> None:
        """The output of that key, if it failed, is to be tried again."""
        with self._lock:
            self._execute("DELETE FROM failures WHERE key = ?", (key,))

    def get_score(self, key: str) -> Score | None:
        """The kept score of that key, or None."""
        score = self._read("SELECT score FROM scores WHERE key = ?", key)
        return None if score is None else Score(**score)

    def put_score(self, key: str, score: Score) -> None:
        """Keeps a score for good; one with an error is not kept, so that it is tried again."""
        if score.error is None:
            self._write("INSERT OR REPLACE INTO scores VALUES (?, ?)", key, score.to_json())

    def get_noise(self, key: str) -> Noise | None:
        """The noise measured for that key, or None."""
        noise = self._read("SELECT noise FROM noise WHERE key = ?", key)
        return None if noise is None else Noise(**noise)

    def put_noise(self, key: str, noise: Noise) -> None:
        """Keeps a measurement of noise."""
        self._write("INSERT OR REPLACE INTO noise VALUES (?, ?)", key, asdict(noise))

    def close(self) -> None:
        self._connection.close()

    def _read(self, query: str, key: str) -> Any:
        with self._lock:
            row = self._execute(query, (key,)).fetchone()
        return None if row is None else json.loads(row[0]) if isinstance(row[0], str) else row[0]

    def _write(self, statement: str, key: str, value: Mapping[str, Any]) -> None:
        with self._lock:
            self._execute(statement, (key, json.dumps(value)))

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"generation cache: {error}") from error
