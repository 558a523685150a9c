"""Eval sets from elsewhere: a table in a suite or in `eval_set.toml` names a file, a folder or a data set of the hub.

    name = "squad"
    source = "hf:rajpurkar/squad@7b6d24c440a36b6815f21b70d25016731768db1f"   # or a path beside this file
    split = "validation"
    columns = { inputs.question = "question", inputs.context = "context", expectations.answers = "answers.text" }
    sample = 500

Data files are read by `record_files`, one at a time or as the split of a folder or of the hub that they belong to.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import (
    FIELDS,
    ROWS_FILE,
    EvalRow,
    EvalSet,
    checked_eval_set,
    read_rows,
    row_from_values,
    without_repeats,
)
from llmops.evaluation.record_files import (
    RecordLocation,
    Records,
    SourceAccess,
    dataset_records,
    kind_of,
    kinds,
    read_records,
)
from llmops.hashing import content_hash
from llmops.text_io import read_toml

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


SOURCE_FILE = "eval_set.toml"
_KEYS = {"name", "source", "config", "split", "columns", "sample", "seed", "limit"}
_NAME = re.compile(r"[\w.-]+\Z")
_HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?\Z")

OpenRecords = Callable[[], Records]


@dataclass(frozen=True, slots=True)
class EvalSetSource:
    """What a table says.

    source: a path, or `hf:OWNER/NAME[@REVISION]`. config: of the data set. split: by default the first of test,
    validation and train that there is. limit: only the first rows of the source. sample: so many of these, drawn by
    the hash of `seed` and position, in the order of the source; the same rows every time, and a larger sample holds
    the smaller one.
    """

    name: str
    source: str
    columns: Columns
    config: str | None = None
    split: str | None = None
    sample: int | None = None
    seed: int = 0
    limit: int | None = None

    @classmethod
    def from_table(cls, values: Mapping[str, Any], name: str | None = None) -> EvalSetSource:
        """Checked construction. name: where the table has none. Raises UsageError starting with the field's name."""
        if unknown := sorted(values.keys() - _KEYS):
            raise UsageError(f"{unknown[0]}: unknown key; known: {', '.join(sorted(_KEYS))}")
        name = _optional_text(values, "name") or name
        if name is None or not _NAME.match(name):
            raise UsageError("name: must be letters, digits, dots, dashes and underscores")
        source = _optional_text(values, "source")
        if source is None:
            raise UsageError("source: must be a path or hf:OWNER/NAME[@REVISION]")
        columns = values.get("columns")
        if columns is not None and not isinstance(columns, Mapping):
            raise UsageError("columns: must be a table of our fields and their columns")
        try:
            mapped = Columns.from_table(name, columns)
        except UsageError as error:
            raise UsageError(f"columns.{error}") from error
        return cls(
            name, source, mapped, _optional_text(values, "config"), _optional_text(values, "split"),
            _optional_number(values, "sample", 1), _optional_number(values, "seed", 0) or 0,
            _optional_number(values, "limit", 1),
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Names a copy of these rows: whatever changes them changes it."""
        mapping = None if self.columns.mapping is None else dict(self.columns.mapping)
        chosen = [self.config, self.split, self.sample, self.seed, self.limit]
        return f"{self.name}-{content_hash([self.source, mapping, *chosen])[:16]}"


def find_eval_set(path: Path, access: SourceAccess | None = None) -> EvalSet:
    """The eval set of a data file, or of a folder: its `rows.jsonl`, what its `eval_set.toml` names, or else its data
    files. Raises BadFile, CannotRun."""
    if path.is_file() or (kind_of(path) is not None and not path.is_dir()):
        return eval_set_of_table({"name": _set_name(path), "source": str(path.absolute())}, path, access)
    table = path / SOURCE_FILE
    if not table.is_file():
        if (path / ROWS_FILE).exists() or not _holds_data(path):
            columns = Columns(path.name, None)
            return checked_eval_set(path.name, path / ROWS_FILE, lambda: _of_our_shape(path / ROWS_FILE, columns))
        return eval_set_of_table({"name": _set_name(path), "source": str(path.absolute())}, path, access)
    if (path / ROWS_FILE).exists():
        raise BadFile(table, f"stands beside {ROWS_FILE}; an eval set has one of them")
    return eval_set_of_table(read_toml(table), table, access, name=path.name)


def holds_eval_set(path: Path) -> bool:
    """Whether `find_eval_set` finds something there to read."""
    if path.is_dir():
        return (path / ROWS_FILE).is_file() or (path / SOURCE_FILE).is_file() or _holds_data(path)
    return path.is_file() and kind_of(path) is not None


def eval_set_of_table(
    values: Mapping[str, Any], path: Path, access: SourceAccess | None = None, *, name: str | None = None, key: str = ""
) -> EvalSet:
    """The eval set that a table names, every row of it checked.

    path, key: the file that holds the table and the table's key in it, for errors; relative sources are beside it.
    name: where the table has none.

    Raises:
        BadFile: the table is wrong, or the source: a row of it by file, line or row number, and field.
        CannotRun: the hub does not give it.
    """
    try:
        source = EvalSetSource.from_table(values, name)
        found = _HUB.match(source.source)
        if source.source.startswith("hf:"):
            if found is None:
                raise UsageError(f"source: {source.source!r} is not of the form hf:OWNER/NAME[@REVISION]")
            return _hub_eval_set(source, found["repo"], found["revision"], access or SourceAccess())
        local = path.parent / Path(source.source).expanduser()
        records = _local_records(source, local, access or SourceAccess())
    except UsageError as error:
        field, _, problem = str(error).partition(": ")
        raise BadFile(path, problem, field=f"{key}.{field}" if key else field) from error
    chosen = _chosen(source, records)
    return checked_eval_set(source.name, local, lambda: _rows(source, records, chosen))


def _of_our_shape(path: Path, columns: Columns) -> Iterator[tuple[RecordLocation, EvalRow]]:
    for position, (place, record) in enumerate(read_records(path), 1):
        yield place, columns.row(record, *place, position)


def _rows(
    source: EvalSetSource, records: OpenRecords, chosen: frozenset[int] | None
) -> Iterator[tuple[RecordLocation, EvalRow]]:
    for position, (place, record) in enumerate(islice(records(), source.limit)):
        if chosen is None or position in chosen:
            yield place, source.columns.row(record, *place, position + 1)


def _chosen(source: EvalSetSource, records: OpenRecords) -> frozenset[int] | None:
    """Positions of the sample; None when all rows are taken. Holds no more than the sample."""
    if source.sample is None:
        return None

    def drawn(position: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"{source.seed}:{position}".encode(), digest_size=8).digest(), position

    positions = (position for position, _ in enumerate(islice(records(), source.limit)))
    return frozenset(position for _, position in heapq.nsmallest(source.sample, map(drawn, positions)))


def _local_records(source: EvalSetSource, path: Path, access: SourceAccess) -> OpenRecords:
    """How to read a file or folder. Raises UsageError when the table asks for what it has not."""
    if path.is_dir():
        return lambda: dataset_records({"path": str(path)}, source.config, source.split, access, path)
    if kind_of(path) is None:
        raise UsageError(f"source: {path} is neither a folder nor {kinds()}")
    if source.split or source.config:
        raise UsageError(f"{'split' if source.split else 'config'}: a single file has none")
    return lambda: read_records(path)


def _hub_eval_set(source: EvalSetSource, repo: str, revision: str | None, access: SourceAccess) -> EvalSet:
    """Rows of the hub, copied once and then read from the copy: the same rows on every pass, and without a network.

    Name a commit as revision: the copy of a moving one stays as it was when first read.
    """
    copy = access.kept / f"{source.key}.jsonl"
    if not copy.exists():
        arguments = {"path": repo, "revision": revision}

        def records() -> Records:
            return dataset_records(arguments, source.config, source.split, access, source.source)

        _write_rows(copy, without_repeats(_rows(source, records, _chosen(source, records))))
    return checked_eval_set(source.name, copy, lambda: read_rows(copy))


def _write_rows(path: Path, rows: Iterator[EvalRow]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with incoming.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row.to_json()) + "\n" for row in rows)
        incoming.replace(path)
    finally:
        incoming.unlink(missing_ok=True)


def _set_name(path: Path) -> str:
    """A name for the rows of a file or folder that gives them none."""
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    return re.sub(r"[^\w.-]+", "-", stem) or "rows"


def _holds_data(folder: Path) -> bool:
    return folder.is_dir() and any(kind_of(file) is not None for file in folder.rglob("*") if file.is_file())


def _optional_text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(f"{name}: must be text")
    return value


def _optional_number(values: Mapping[str, Any], name: str, least: int) -> int | None:
    value = values.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise UsageError(f"{name}: must be a whole number of {least} or more")
    return value
