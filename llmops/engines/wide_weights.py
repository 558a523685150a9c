"""Weights that llama.cpp is slow with, held in a wider type.

llama.cpp's CPU kernels for Q4_1, Q5_0 and Q5_1 read one vector at a time, so that requests decoded side by side gain
nothing. The same weights as Q8_0 are read and decoded about 1.4 times as fast (docs/adr/0008-weights-are-held-wide.md).
A wide copy is made once beside the stored weights, which stay what is registered, hashed and checked.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from llmops.hashing import file_sha256
from llmops.models.quantise import main_type, requantise

logger = logging.getLogger("llmops")

SLOW_TYPES = frozenset({"Q4_1", "Q5_0", "Q5_1"})
WIDE_TYPE = "Q8_0"
LARGEST_BYTES = 1 << 30
"""A larger file is used as it is stored: up to twice its size would not be worth the memory."""


def wide_path(stored: Path, sha256: str, folder: Path) -> Path:
    """What the engine should load for `stored`: a wide copy in `folder`, made when it is not there yet, or `stored`
    itself where that is no faster. A copy that is damaged is made again.

    Raises:
        Corrupted: `stored` is no readable GGUF file.
    """
    if stored.stat().st_size > LARGEST_BYTES:
        return stored
    # What is made depends on the parent's bytes and on the package that makes it.
    name = f"{sha256[:16]}-{WIDE_TYPE}-{version('gguf')}"
    copy, note = folder / f"{name}.gguf", folder / f"{name}.json"
    if note.exists():
        made_sha256 = json.loads(note.read_text(encoding="utf-8"))["sha256"]
        if made_sha256 is None:
            return stored
        if copy.exists() and file_sha256(copy) == made_sha256:
            return copy
    folder.mkdir(parents=True, exist_ok=True)
    if main_type(stored) not in SLOW_TYPES:
        _write(note, None)
        return stored
    logger.info("holding %s as %s, once", stored.name, WIDE_TYPE)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as making:
        made = Path(making) / copy.name
        requantise(stored, made, WIDE_TYPE)
        made_sha256 = file_sha256(made)
        made.replace(copy)
    _write(note, made_sha256)
    return copy


def _write(note: Path, sha256: str | None) -> None:
    """In one rename: two processes may make the same copy at once."""
    part = note.with_name(f"{note.name}.{os.getpid()}")
    part.write_text(json.dumps({"sha256": sha256}), encoding="utf-8")
    part.replace(note)
