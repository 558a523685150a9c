"""Text files that a person wrote: UTF-8, with or without a byte order mark, and errors that name the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from llmops.errors import BadFile


def read_text(path: Path) -> str:
    """The file's text, its byte order mark left out. Raises BadFile."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(path, f"cannot be read: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises BadFile."""
    try:
        return tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(path, f"is not TOML: {error}") from error
