"""Rows from tables of any shape: which of their columns become ids, inputs, expectations, contexts and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import FIELDS, EvalRow, row_from_values
from llmops.hashing import content_hash

_TARGET = re.compile(r"(id|contexts|messages|(inputs|expectations|tags)\.[^.\s]+)\Z")
_TARGETS = "id, inputs.NAME, messages, expectations.NAME, contexts and tags.NAME"


@dataclass(frozen=True, slots=True)
class Columns:
    """Reads rows out of records; `mapping` is of our fields to their columns. None: the records have our shape, or
    their columns have the names of our fields (`inputs.question`).

    A column may be a dotted path into nested columns: `answers.text` takes `text` of an object, or of every object of
    a list; a number picks one item of a list (`answers.text.0`), nothing when there is none. A single answer becomes a
    list of one. Without an id, one is made of the eval set's name, the row's number and a hash of its content: it
    changes when rows before it come or go, so that no row is taken for another.
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

    def row(self, record: Any, path: Path | str, number: int, position: int | None = None) -> EvalRow:
        """One record as a row.

        number: the line or position that errors name. position: among the records, from 1, for a made id; `number`
        when None.

        Raises:
            BadFile: naming file, number and field.
        """
        if not isinstance(record, Mapping):
            raise BadFile(path, "must be an object", line=number)
        mapping = self.mapping if self.mapping is not None else _own_names(record, path, number)
        values = record if mapping is None else _mapped(record, mapping, path, number)
        if "id" in values:
            return row_from_values(values, path, number)
        row = row_from_values({**values, "id": self.name}, path, number)
        content = {"inputs": dict(row.inputs), "contexts": list(row.contexts)}
        made = f"{self.name}-{number if position is None else position:06d}-{content_hash(content)[:8]}"
        return replace(row, id=made)


def _own_names(record: Mapping[str, Any], path: Path | str, number: int) -> dict[str, str] | None:
    """The mapping of a record whose columns have the names of our fields (`inputs.question`), as a table's have; None
    for one of our own shape. Raises BadFile at a name that is no field."""
    for name in record:
        if name not in FIELDS and not _TARGET.match(str(name)):
            problem = f"unknown field; there are {_TARGETS}, and `columns` says which column is which of them"
            raise BadFile(path, problem, line=number, field=str(name))
    return None if "inputs" in record or record.keys() <= FIELDS else {name: name for name in record}


def _mapped(record: Mapping[str, Any], mapping: Mapping[str, str], path: Path | str, number: int) -> dict[str, Any]:
    values: dict[str, Any] = {"inputs": {}, "expectations": {}, "contexts": [], "tags": {}}
    for target, column in mapping.items():
        try:
            found = _picked(record, column)
        except KeyError as error:
            problem = f"no column {column!r}; there are {', '.join(map(str, record))}"
            raise BadFile(path, problem, line=number, field=target) from error
        _put(values, target, found)
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
        values["id"] = found
    elif field == "messages":
        values["inputs"]["messages"] = found
    elif field == "contexts":
        values["contexts"] = [found] if isinstance(found, str) else found
    else:
        single_answer = target == "expectations.answers" and found is not None and not isinstance(found, list)
        values[field][name] = [found] if single_answer else found
