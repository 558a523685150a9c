"""Rows from tables of any shape: which of their columns become ids, inputs, expectations, contexts and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import EvalRow, row_from_values
from llmops.hashing import content_hash

_TARGET = re.compile(r"(id|contexts|messages|(inputs|expectations|tags)\.[^.\s]+)\Z")
_TARGETS = "id, inputs.NAME, messages, expectations.NAME, contexts and tags.NAME"
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Columns:
    """Reads rows out of records; `mapping` is of our fields to their columns. None: the records have our shape.

    A column may be a dotted path into nested columns: `answers.text` takes `text` of an object, or of every object of
    a list; a number picks one item of a list (`answers.text.0`), nothing when there is none. Numbers, truth values and
    dates in inputs, tags and ids become text. A single answer becomes a list of one. Without a column for ids, an id
    is made of the eval set's name, the row's number and a hash of its content: it changes when rows before it come or
    go, so that no row is taken for another.
    """

    name: str
    mapping: Mapping[str, str] | None

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any] | None) -> Columns:
        """Checked construction. Raises UsageError starting with the name of the field at fault."""
        if table is None:
            return cls(name, None)
        mapping = dict(_flat(table))
        for target, column in mapping.items():
            if not _TARGET.match(target):
                raise UsageError(f"{target}: is no field of a row; there are {_TARGETS}")
            if not isinstance(column, str) or not column:
                raise UsageError(f"{target}: must name a column")
        if not any(target == "messages" or target.startswith("inputs.") for target in mapping):
            raise UsageError("inputs: at least one inputs.NAME, or messages, must have a column")
        return cls(name, mapping)

    def row(self, record: Any, path: Path | str, number: int, *, nulls_mean_absent: bool = False) -> EvalRow:
        """One record as a row.

        nulls_mean_absent: the record comes from a typed table, where every row has every column, so that a null in
        inputs, expectations or tags says that the row has no such field.

        Raises:
            BadFile: naming file, number and field.
        """
        if not isinstance(record, Mapping):
            raise BadFile(path, "must be an object", line=number)
        if self.mapping is None:
            values = _own_shape(record, nulls_mean_absent)
        else:
            values = self._mapped(record, self.mapping, path, number)
        for name, value in _mapping(values.get("expectations")).items():
            if not _is_json(value):
                kind = type(value).__name__
                raise BadFile(path, f"is a {kind}, which JSON cannot hold", line=number, field=f"expectations.{name}")
        return row_from_values(values, path, number)

    def _mapped(
        self, record: Mapping[str, Any], mapping: Mapping[str, str], path: Path | str, number: int
    ) -> dict[str, Any]:
        values: dict[str, Any] = {"inputs": {}, "expectations": {}, "contexts": [], "tags": {}}
        for target, column in mapping.items():
            try:
                found = _picked(record, column)
            except KeyError as error:
                known = ", ".join(map(str, record))
                problem = f"no column {column!r}; there are {known}"
                raise BadFile(path, problem, line=number, field=target) from error
            _put(values, target, found)
        if "id" not in mapping:
            values["id"] = f"{self.name}-{number:06d}-{_digest(values)}"
        return values


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads `inputs.question = "q"` as a table in a table; this reads it back."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _picked(value: Any, column: str) -> Any:
    """The value at a dotted path. A name that itself holds dots is found first. Raises KeyError."""
    if not column or value is None:
        return value
    if isinstance(value, list):
        head, _, rest = column.partition(".")
        if head.isdigit():
            return _picked(value[int(head)], rest) if int(head) < len(value) else None
        return [_picked(item, column) for item in value]
    if isinstance(value, Mapping):
        parts = column.split(".")
        for end in range(len(parts), 0, -1):
            if (head := ".".join(parts[:end])) in value:
                return _picked(value[head], ".".join(parts[end:]))
    raise KeyError(column)


def _put(values: dict[str, Any], target: str, found: Any) -> None:
    field, _, name = target.partition(".")
    if field == "id":
        values["id"] = _as_text(found)
    elif field == "messages":
        values["inputs"]["messages"] = _as_messages(found)
    elif field == "contexts":
        values["contexts"] = [found] if isinstance(found, str) else found
    elif field == "inputs":
        values["inputs"][name] = _as_text(found)
    elif found is not None:
        single_answer = target == "expectations.answers" and not isinstance(found, list)
        values[field][name] = _as_text(found) if field == "tags" else [found] if single_answer else found


def _own_shape(record: Mapping[str, Any], nulls_mean_absent: bool) -> dict[str, Any]:
    values = dict(record)
    if nulls_mean_absent:
        for field in ("inputs", "expectations", "tags"):
            if isinstance(given := values.get(field), Mapping):
                values[field] = {name: value for name, value in given.items() if value is not None}
    for field in ("inputs", "tags"):
        if isinstance(given := values.get(field), Mapping):
            values[field] = {
                name: _as_messages(value) if name == "messages" else _as_text(value) for name, value in given.items()
            }
    return {**values, "id": _as_text(values.get("id"))}


def _as_text(value: Any) -> Any:
    """Numbers, truth values and dates as text; anything else as it is, for the row's own checks to judge."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, (int, float)) else value


def _as_messages(value: Any) -> Any:
    """Messages without the fields that chat data sets add (`name`, `tool_calls` …)."""
    if not isinstance(value, list):
        return value
    wanted = ("role", "content")
    return [{name: item[name] for name in wanted if name in item} if isinstance(item, dict) else item for item in value]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_json(item) for name, item in value.items())
    return all(map(_is_json, value)) if isinstance(value, list) else isinstance(value, _PLAIN)


def _digest(values: Mapping[str, Any]) -> str:
    content = {field: values[field] for field in ("inputs", "contexts")}
    return content_hash(content)[:8] if _is_json(content) else ""
