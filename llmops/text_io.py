"""Text in and out: files are read strictly, and text from elsewhere is made safe to show on a terminal.

Files are UTF-8, with or without a byte order mark; errors name file, line and field. Python's `json` takes `NaN`,
`Infinity` and numbers that become infinite, and of a name that stands twice in an object it keeps the last; each of
these would be another value than its author wrote, or one that no other reader takes. They are refused here.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmops.errors import BadFile, CannotRun, UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError


def read_text(path: Path) -> str:
    """The file's text, its byte order mark left out. Raises BadFile."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(path, f"cannot be read: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file that the user asked for, making its folder. Raises CannotRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error


def replace_text(path: Path, text: str) -> None:
    """As `write_text`, in one rename: whole or not at all, also when two processes write the same. Raises CannotRun."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    write_text(part, text)
    part.replace(path)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises BadFile."""
    try:
        return tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(path, f"is not TOML: {error}") from error


Checked = TypeVar("Checked")

UNKNOWN_KEY = "unknown key"
_PROBLEMS = {
    "missing": "is missing",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "dataclass_type": "must be a table",
    "model_type": "must be a table",
    "list_type": "must be a list",
    "sequence_str": "must be a list",
    "too_short": "must not be empty",
    "extra_forbidden": UNKNOWN_KEY,
    "unexpected_keyword_argument": UNKNOWN_KEY,
}


def first_problem(error: ValidationError, *, show_value: bool = False) -> tuple[str, str]:
    """The path of the first field at fault, such as `floors.correct` or `weights[1]`, and what is wrong with it.

    show_value: whether that ends in the value given; not where it may be a secret.
    """
    fault = error.errors(include_url=False)[0]
    kind, limits = fault["type"], fault.get("ctx", {})
    steps = [step for step in fault["loc"] if step != "[key]"]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
    problem = _PROBLEMS.get(kind, re.sub("^(Input|String) should", "must", fault["msg"]).removeprefix("Value error, "))
    if limits.get("pattern") == r"\S" or kind == "string_too_short":
        problem = "must be text, and not blank"
    if limits.get("min_length", 1) > 1:
        problem = f"must hold at least {limits['min_length']}"
    told_whole = not show_value or kind in ("missing", "value_error", "extra_forbidden")
    return path, problem if told_whole else f"{problem}, not {fault['input']!r}"


def checked(kind: type[Checked], values: Mapping[str, Any]) -> Checked:
    """The dataclass of that kind that `values` give, where pydantic finds each of its type and within its limits.
    Raises UsageError: the text starts with the field at fault, such as `floors.correct: must be a number`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        field, problem = first_problem(error)
        if problem == UNKNOWN_KEY and "." not in field and is_dataclass(kind):
            problem += f"; known: {', '.join(sorted(each.name for each in fields(kind)))}"
        raise UsageError(f"{field}: {problem}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1; one in memory at a time. Raises BadFile."""
    try:
        with path.open("rb") as file:
            yield from lines_of(file)
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error}") from error


def lines_of(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """As `numbered_lines`, of a file that is open. Not decoded: one line that is no UTF-8 must not end the others.

    Only a line feed ends a line: JSON texts may hold U+2028 and its like.
    """
    for number, raw in enumerate(file, 1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if line.strip():
            yield number, line.rstrip(b"\r\n")


def json_object(line: str | bytes, path: Path | str, number: int) -> dict[str, Any]:
    """One line as a JSON object. Raises BadFile."""
    try:
        text = line if isinstance(line, str) else line.decode()
    except UnicodeDecodeError as error:
        raise BadFile(path, f"is no UTF-8 ({error.reason}); save it as UTF-8", line=number) from error
    values = strict_json(text, path, number)
    if not isinstance(values, dict):
        raise BadFile(path, "must be a JSON object", line=number)
    return values


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises BadFile."""
    return strict_json(read_text(path), path)


def strict_json(text: str, path: Path | str, line: int | None = None) -> Any:
    """The value of a JSON text.

    line: where in the file it stands; None for a text that is the whole file.

    Raises BadFile: it is no JSON, holds `NaN` or an infinite number, or one name twice in an object.
    """
    flaws: list[_Flaw] = []

    def flaw(problem: str) -> _Flaw:
        flaws.append(_Flaw(problem))
        return flaws[-1]

    def number(digits: str) -> float | _Flaw:
        value = float(digits)
        return value if math.isfinite(value) else flaw("is too large for a number")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            values[twice] = flaw("stands twice in one object")
        return values

    try:
        found = json.loads(
            text,
            parse_constant=lambda name: flaw(f"is {name}, which JSON does not have"),
            parse_float=number,
            object_pairs_hook=pairs,
        )
    except json.JSONDecodeError as error:
        raise BadFile(path, f"not JSON: {error}", line=error.lineno if line is None else line) from error
    except (ValueError, RecursionError) as error:  # a number of too many digits; nested too deep
        raise BadFile(path, f"not JSON: {error}", line=line) from error
    if flaws:
        field, problem = next(_flaws(found, ""))
        raise BadFile(path, problem, line=line, field=field or None)
    return found


class _Flaw(str):
    """The problem of a value that cannot be taken, in its place until that is known."""

    __slots__ = ()


def _flaws(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Flaw):
        yield field, str(value)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _flaws(item, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _flaws(item, f"{field}[{position}]")


# Control characters (C0, DEL, C1), line and paragraph separators, marks and overrides of the direction of writing
# (what is shown is then not what is there, CVE-2021-42574), and halves of surrogate pairs, which no stream can write.
_ACTS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_ACTS}]")
_IN_LINE = re.compile(f"[\t\n{_ACTS}]")


def printable(text: str, *, one_line: bool = False) -> str:
    r"""The text with each character that acts on a terminal written out, such as `\x1b`; line ends and tabs stay.

    one_line: these are written out too.
    """
    return (_IN_LINE if one_line else _IN_TEXT).sub(_escaped, text)


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that holds the very value and is safe to show: such characters stand in its strings as JSON escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown_time(at: datetime) -> str:
    """`2026-01-31 12:00:00Z`: whatever the machine's zone, and as `--since` and `--until` read it again."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def json_fields(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them: its moments as ISO texts, the dataclasses in it as objects."""
    values = asdict(instance)
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in values.items()}


def _escaped(found: re.Match[str]) -> str:
    return (
        found[0].encode("ascii", errors="backslashreplace").decode() if ord(found[0]) > 0x7F else repr(found[0])[1:-1]
    )
