"""skops files whose bytes depend on their content alone.

skops names an object by its place in memory, an array's file by chance, and stamps each with the time, so that no two
files of one estimator are equal. Here they are numbered in the order they are met, and have no time.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

_SCHEMA = "schema.json"
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def make_canonical(path: Path) -> None:
    """Writes a skops file anew, in place. Raises OSError."""
    scratch = path.with_name(f".{path.name}.canonical")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as new:
        numbers: dict[int, int] = {}
        files: dict[str, str] = {}
        schema = _renamed(json.loads(old.read(_SCHEMA)), numbers, files)
        for name, renamed in files.items():
            new.writestr(zipfile.ZipInfo(renamed, _NO_TIME), old.read(name))
        text = json.dumps(schema, separators=(",", ":"))
        new.writestr(zipfile.ZipInfo(_SCHEMA, _NO_TIME), text)
    scratch.replace(path)


def _renamed(value: Any, numbers: dict[int, int], files: dict[str, str]) -> Any:
    """skops' schema with objects and files numbered in the order they are met."""
    if isinstance(value, list):
        return [_renamed(item, numbers, files) for item in value]
    if not isinstance(value, dict):
        return value
    renamed: dict[str, Any] = {}
    for key, item in value.items():
        # Among a node's own fields only: what a dictionary holds under such a key is a node, not a number or a text.
        if key == "__id__" and isinstance(item, int):
            renamed[key] = numbers.setdefault(item, len(numbers))
        elif key == "file" and isinstance(item, str):
            suffix = PurePosixPath(item).suffix
            renamed[key] = files.setdefault(item, f"{len(files)}{suffix}")
        else:
            renamed[key] = _renamed(item, numbers, files)
    return renamed
