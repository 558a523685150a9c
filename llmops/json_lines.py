"""JSON Lines files: one object a line, and errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmops.errors import BadFile


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1; one in memory at a time. Raises BadFile.

    Only a line feed ends a line: JSON texts may hold U+2028 and its like.
    """
    try:
        with path.open("rb") as file:
            # Decoded one by one, so that bytes which are no UTF-8 can be named by their line.
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, _decoded(raw, path, number)
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error}") from error


def json_object(line: str, path: Path | str, number: int) -> dict[str, Any]:
    """One line as a JSON object. Raises BadFile."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise BadFile(path, f"not JSON: {error}", line=number) from error
    if not isinstance(values, dict):
        raise BadFile(path, "must be a JSON object", line=number)
    return values


def _decoded(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadFile(path, f"cannot be read: {error}", line=number) from error
