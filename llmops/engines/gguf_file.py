"""Whether a file is what engines for GGUF can be given."""

from __future__ import annotations

from pathlib import Path

from llmops.errors import Corrupted

_MAGIC = b"GGUF"


def check_gguf(path: Path) -> None:
    """Raises Corrupted where the file does not begin as GGUF does."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise Corrupted(f"{path}: not a GGUF file")
