"""Tables of the monitor's configuration file, read strictly: a wrong or unknown key is an error that names it.

with ConfigTable({"words": 3}, file, "descriptor a") as table:
    words = table.whole("words", default=1, least=1)
# leaving the block refuses keys that nobody asked for, and names the nearest known one
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from llmops.errors import BadFile, UsageError
from llmops.text_io import UNKNOWN_KEY, first_problem

if TYPE_CHECKING:
    from pydantic import ValidationError

_MISSING = object()
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_Made = TypeVar("_Made")


class ConfigTable:
    """The keys of one table. taken: what was read so far, defaults included, as plain values.

    file: named in errors; relative paths start at its folder. place: which table of the file, such as `rules`.
    """

    def __init__(self, values: Mapping[str, Any], file: Path | str, place: str) -> None:
        self.values, self.file, self.place = values, Path(file), place
        self.taken: dict[str, Any] = {}

    def __enter__(self) -> ConfigTable:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Raises BadFile when a key is left that was never asked for."""
        for name in self.values if error is None else ():
            if name not in self.taken:
                raise self.wrong(name, f"unknown key{nearest(name, self.taken)}")

    def wrong(self, name: str, problem: str) -> BadFile:
        """The error of one key, to be raised."""
        return BadFile(self.file, problem, field=f"{self.place}: {name}")

    def any(self, name: str, default: Any = _MISSING) -> Any:
        """The value as it is. Raises BadFile when it is missing and has no default."""
        value = self.values.get(name, default)
        if value is _MISSING:
            raise self.wrong(name, "is missing")
        self.taken[name] = value
        return value

    def text(self, name: str, default: Any = _MISSING, *, empty: bool = False) -> str:
        """Text, not empty unless `empty`. Raises BadFile, as all readers do."""
        value = self.any(name, default)
        if value is default:
            return str(value)
        if not isinstance(value, str) or not (value or empty):
            raise self.wrong(name, f"must be text, not {value!r}")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if self.values.get(name) is not None else self.any(name, None)

    def texts(self, name: str, default: Any = _MISSING) -> tuple[str, ...]:
        """A list of texts; a single text counts as a list of one. Empty only where the default is."""
        value = self.any(name, default)
        if value is default:
            return tuple(value)
        given = [value] if isinstance(value, str) else value
        may_be_empty = default is not _MISSING and not default
        if (
            not isinstance(given, Sequence)
            or not (given or may_be_empty)
            or not all(isinstance(item, str) and item for item in given)
        ):
            raise self.wrong(name, f"must be a list of texts, not {value!r}")
        self.taken[name] = list(given)
        return tuple(given)

    def choice(self, name: str, choices: Iterable[str], default: Any = _MISSING) -> str:
        value, known = self.any(name, default), list(choices)
        if value not in known:
            near = nearest(value, known) if isinstance(value, str) else ""
            raise self.wrong(name, f"must be {' or '.join(known)}, not {value!r}{near}")
        return str(value)

    def switch(self, name: str, default: Any = _MISSING) -> bool:
        value = self.any(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, f"must be true or false, not {value!r}")
        return value

    def number(self, name: str, default: Any = _MISSING, *, least: float = -math.inf, most: float = math.inf) -> float:
        return float(self._number(name, default, (int, float), "number", least, most))

    def whole(self, name: str, default: Any = _MISSING, *, least: float = -math.inf, most: float = math.inf) -> int:
        return int(self._number(name, default, (int,), "whole number", least, most))

    def _number(self, name: str, default: Any, kinds: Any, told: str, least: float, most: float) -> Any:
        value = self.any(name, default)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise self.wrong(name, f"must be a {told}{_range(least, most)}, not {value!r}")
        return value

    def mapping(self, name: str, default: Any = _MISSING) -> dict[str, Any]:
        value = self.any(name, default)
        if not isinstance(value, Mapping):
            raise self.wrong(name, f"must be a table, not {value!r}")
        return dict(value)

    def path(self, name: str) -> Path:
        """An existing file; a relative path starts at the folder of the configuration file."""
        path = self.file.parent / Path(self.text(name)).expanduser()
        if not path.is_file():
            raise self.wrong(name, f"there is no file {path}")
        return path


def read_dataclass(kind: type[_Made], values: Any, file: Path | str, place: str) -> _Made:
    """A dataclass from a table whose keys are its fields. Its own checks (UsageError) become errors of the file.

    `Annotated` types name a function that converts the value first; a field's metadata may name another `key`.

    Raises:
        BadFile: not a table, an unknown or missing key, or what the dataclass itself refuses.
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    unset = dataclasses.MISSING
    needed = [field.name for field in fields if field.default is unset and field.default_factory is unset]
    if values == {} and not needed:
        return kind()  # without pydantic, whose import a file that sets nothing does not need
    from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, create_model

    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    wanted: dict[str, Any] = {}
    for field in fields:
        hint, key = hints[field.name], field.metadata.get("key")
        if conversions := getattr(hint, "__metadata__", ()):
            hint = Annotated[hint.__origin__, BeforeValidator(conversions[0])]
        wanted[field.name] = (hint, Field(... if field.name in needed else None, alias=key))
    model = create_model(kind.__name__, __config__=ConfigDict(extra="forbid", strict=True), **wanted)
    try:
        read = model.model_validate(values)
        return kind(**{name: getattr(read, name) for name in read.model_fields_set})
    except ValidationError as error:
        keys = [field.alias or name for name, field in model.model_fields.items()]
        raise _refused(error, keys, file, place) from error
    except UsageError as error:
        raise BadFile(file, str(error), field=place) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the known name most like this one; empty when nothing is known."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""


def _range(least: float, most: float) -> str:
    if math.isinf(least):
        return "" if math.isinf(most) else f" of {most:g} or less"
    return f" of {least:g} or more" if math.isinf(most) else f" from {least:g} to {most:g}"


def _refused(error: ValidationError, known: Iterable[str], file: Path | str, place: str) -> BadFile:
    """The first thing that pydantic refuses, and where it stands. known: keys of the table."""
    name, problem = first_problem(error, show_value=True)
    if problem == UNKNOWN_KEY:
        problem += nearest(name, known)
    return BadFile(file, problem, field=f"{place}: {name}" if name else place)


def seconds(value: object) -> float:
    """`90`, `"90s"`, `"30m"`, `"6h"` or `"2d"` in seconds. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip(), re.ASCII)
    if not match or isinstance(value, bool):
        raise ValueError(f"{value!r} is no duration such as 90s, 30m, 6h or 2d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def texts(value: object) -> object:
    """A list of texts as a tuple; a single text counts as a list of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Duration = Annotated[float, seconds]
"""Seconds, which a file may give with a unit."""
Texts = Annotated[tuple[str, ...], texts]
"""A list of texts, or a single one."""
