"""JSON Lines files: one object a line, and errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmops.errors import BadFile


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1. Raises BadFile."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, f"cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def json_object(line: str, path: Path | str, number: int) -> dict[str, Any]:
    """One line as a JSON object. Raises BadFile."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise BadFile(path, f"not JSON: {error}", line=number) from error
    if not isinstance(values, dict):
        raise BadFile(path, "must be a JSON object", line=number)
    return values
