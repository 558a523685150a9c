"""Plain JSON of values, and content hashes: the identity of prompts, models, eval sets, generations and runs."""

import hashlib
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any


class JsonData:
    """Base of dataclasses whose JSON is their fields."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; tuples become lists."""
        from pydantic_core import to_jsonable_python

        values: dict[str, Any] = to_jsonable_python(self)
        return values


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare white space, so that equal content gives equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """sha256 in hex of the canonical JSON of `value`."""
    # surrogatepass: JSON may hold half a surrogate pair, which plain UTF-8 refuses.
    return hashlib.sha256(canonical_json(value).encode(errors="surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 in hex of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """sha256 over the sorted relative names and sha256s of all files below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return content_hash([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])


def source_of(function: Any) -> str:
    """The source text of a function or an object's class, else its bytecode; not of what it calls."""
    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        return textwrap.dedent(inspect.getsource(target))
    except (OSError, TypeError):
        code = getattr(target, "__code__", None)
        if code is None:
            return f"{target.__module__}.{target.__qualname__}"
        return (
            f"{code.co_code.hex()} {code.co_names} {[each for each in code.co_consts if not hasattr(each, 'co_code')]}"
        )
