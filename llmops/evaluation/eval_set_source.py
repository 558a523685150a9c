"""Eval sets from elsewhere: a table in a suite or in `eval_set.toml` names a file, a folder or a data set of the hub.

    name = "squad"
    source = "hf:rajpurkar/squad@7b6d24c440a36b6815f21b70d25016731768db1f"   # or a path beside this file
    split = "validation"
    columns = { inputs.question = "question", inputs.context = "context", expectations.answers = "answers.text" }
    sample = 500

Data files are read by `record_files`, one at a time or as the split of a folder or of the hub that they belong to.
"""

import hashlib
import heapq
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, Strict

from llmops.errors import BadFile, UnknownVersion, UsageError
from llmops.evaluation.eval_set import (
    FIELDS,
    ROWS_FILE,
    EvalRow,
    EvalSet,
    PlacedRows,
    Rows,
    checked_eval_set,
    measure,
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
from llmops.settings import Settings, data_folder
from llmops.text_io import checked, read_toml

SOURCE_FILE = "eval_set.toml"
_HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?\Z")
_TARGET = re.compile(r"(id|contexts|messages|(inputs|expectations|tags)\.[^.\s]+)\Z")
_TARGETS = "id, inputs.NAME, messages, expectations.NAME, contexts and tags.NAME"

OpenRecords = Callable[[], Records]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Strict(), Field(ge=1)]


@dataclass(frozen=True, slots=True)
class ColumnMapping:
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
    def from_table(cls, name: str, table: Mapping[str, Any] | None) -> Self:
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

        number: the line or position that errors name.
        position: among the records, from 1, for a made id; `number` when None.

        Raises BadFile: naming file, number and field.
        """
        if not isinstance(record, Mapping):
            raise BadFile(path, "must be an object", line=number)
        mapping = self.mapping
        if mapping is None:
            for name in record:
                if name not in FIELDS and not _TARGET.match(str(name)):
                    problem = f"unknown field; there are {_TARGETS}, and `columns` says which column is which of them"
                    raise BadFile(path, problem, line=number, field=str(name))
            if "inputs" not in record and not record.keys() <= FIELDS:  # a table's columns, named as our fields are
                mapping = {name: name for name in record}
        values = record if mapping is None else _mapped(record, mapping, path, number)
        if "id" in values:
            return row_from_values(values, path, number)
        row = row_from_values({**values, "id": self.name}, path, number)
        content = {"inputs": dict(row.inputs), "contexts": list(row.contexts)}
        made = f"{self.name}-{number if position is None else position:06d}-{content_hash(content)[:8]}"
        return replace(row, id=made)


def _mapped(record: Mapping[str, Any], mapping: Mapping[str, str], path: Path | str, number: int) -> dict[str, Any]:
    values: dict[str, Any] = {"inputs": {}, "expectations": {}, "contexts": [], "tags": {}}
    for target, column in mapping.items():
        try:
            value = _picked(record, column)
        except KeyError as error:
            problem = f"no column {column!r}; there are {', '.join(map(str, record))}"
            raise BadFile(path, problem, line=number, field=target) from error
        field, _, name = target.partition(".")
        if field == "messages":
            values["inputs"]["messages"] = value
        elif not name:
            values[field] = [value] if field == "contexts" and isinstance(value, str) else value
        else:
            single_answer = target == "expectations.answers" and value is not None and not isinstance(value, list)
            values[field][name] = [value] if single_answer else value
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


@dataclass(frozen=True, slots=True)
class EvalSetSource:
    """What a table says.

    source: a path, or `hf:OWNER/NAME[@REVISION]`.
    columns: our fields and their columns, as `ColumnMapping.from_table` takes them.
    config: of the data set.
    split: by default the first of test, validation and train that there is.
    limit: only the first rows of the source.
    sample: so many of these, drawn by the hash of `seed` and position, in the order of the source; the same rows every
        time, and a larger sample holds the smaller one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    source: Text
    columns: Mapping[str, Any] | None = None
    config: Text | None = None
    split: Text | None = None
    sample: Count | None = None
    seed: Annotated[int, Strict(), Field(ge=0)] = 0
    limit: Count | None = None

    def rows(self, columns: ColumnMapping, records: OpenRecords) -> PlacedRows:
        """Begins a pass over the rows that are chosen of the records. A sample is drawn at once; only the positions of
        its rows are held."""
        chosen: frozenset[int] | None = None
        if self.sample is not None:

            def drawn(position: int) -> tuple[bytes, int]:
                return hashlib.blake2b(f"{self.seed}:{position}".encode(), digest_size=8).digest(), position

            positions = (position for position, _ in enumerate(islice(records(), self.limit)))
            chosen = frozenset(position for _, position in heapq.nsmallest(self.sample, map(drawn, positions)))

        def read() -> Iterator[tuple[RecordLocation, EvalRow]]:
            for position, (location, record) in enumerate(islice(records(), self.limit)):
                if chosen is None or position in chosen:
                    yield location, columns.row(record, *location, position + 1)

        return read


def eval_set_of_rows(name: str, rows: Any, columns: Mapping[str, Any] | None = None) -> EvalSet:
    """An eval set of rows that are at hand: mappings, a DataFrame of pandas, or a data set of `datasets`. They are held
    in memory, and known by their content as a file's are.

    columns: our fields and their columns, as `ColumnMapping.from_table` takes them.

    Raises UsageError: `columns` is wrong. BadFile: naming number, from 1, and field of the first wrong row.
    """
    named, source = ColumnMapping.from_table(name, columns), f"rows of {name}"
    if hasattr(rows, "notna"):  # pandas has NaN where a row has no value
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    placed = ((RecordLocation(source, number), record) for number, record in enumerate(rows, 1))
    held = list(without_repeats((at, named.row(record, *at)) for at, record in placed))
    if not held:
        raise BadFile(source, "there are none")
    return EvalSet(name, Rows(lambda: iter(held)), *measure(held))


def find_eval_set(path: Path, access: SourceAccess | None = None) -> EvalSet:
    """The eval set of a data file, or of a folder: its `rows.jsonl`, what its `eval_set.toml` names, or else its data
    files. Raises BadFile, CannotRun."""
    table, rows = path / SOURCE_FILE, path / ROWS_FILE
    if table.is_file():
        if rows.exists():
            raise BadFile(table, f"stands beside {ROWS_FILE}; an eval set has one of them")
        return eval_set_of_table(read_toml(table), table, access, name=path.name)
    if rows.exists() or not (path.is_file() or kind_of(path) is not None or holds_eval_set(path)):
        read = EvalSetSource(path.name, str(rows)).rows(ColumnMapping(path.name, None), partial(read_records, rows))
        return checked_eval_set(path.name, rows, read)
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    name = re.sub(r"[^\w.-]+", "-", stem) or "rows"
    return eval_set_of_table({"name": name, "source": str(path.absolute())}, path, access)


def named_eval_set(name: str | Path, settings: Settings) -> EvalSet:
    """The eval set of that name in the folder of eval sets, or at that path. Raises UnknownVersion, BadFile."""
    folder = data_folder(settings, "eval_sets")
    for path in (folder / name, Path(name)):
        if holds_eval_set(path):
            return find_eval_set(path, SourceAccess.of(settings))
    sets = sorted(item.name for item in folder.iterdir() if item.is_dir() and holds_eval_set(item))
    raise UnknownVersion(f"no eval set or file {str(name)!r}; in {folder} there are {', '.join(sets) or 'none'}")


def holds_eval_set(path: Path) -> bool:
    """Whether `find_eval_set` finds something there to read."""
    files = path.rglob("*") if path.is_dir() else [path]
    named = path / ROWS_FILE, path / SOURCE_FILE
    return any(file.is_file() for file in named) or any(file.is_file() and kind_of(file) is not None for file in files)


def eval_set_of_table(
    values: Mapping[str, Any], path: Path, access: SourceAccess | None = None, *, name: str | None = None, key: str = ""
) -> EvalSet:
    """The eval set that a table names, every row of it checked.

    path, key: the file that holds the table and the table's key in it, for errors; relative sources are beside it.
    name: where the table has none.

    Raises BadFile: the table is wrong, or the source: a row of it by file, line or row number, and field. CannotRun:
    the hub does not give it.
    """
    access = access or SourceAccess()
    try:
        source = checked(EvalSetSource, values if name is None else {"name": name, **values})
        try:
            columns = ColumnMapping.from_table(source.name, source.columns)
        except UsageError as error:
            raise UsageError(f"columns.{error}") from error
        if source.source.startswith("hf:"):
            return _hub_eval_set(source, columns, access)
        local = path.parent / Path(source.source).expanduser()
        if local.is_dir():
            records = partial(dataset_records, {"path": str(local)}, source.config, source.split, access, local)
        elif kind_of(local) is None:
            raise UsageError(f"source: {local} is neither a folder nor {kinds()}")
        elif source.split or source.config:
            raise UsageError(f"{'split' if source.split else 'config'}: a single file has none")
        else:
            records = partial(read_records, local)
    except UsageError as error:
        raise BadFile.of(error, path, key=key) from error
    return checked_eval_set(source.name, local, source.rows(columns, records))


def _hub_eval_set(source: EvalSetSource, columns: ColumnMapping, access: SourceAccess) -> EvalSet:
    """Rows of the hub, copied once and then read from the copy: the same rows on every pass, and without a network.

    Name a commit as revision: the copy of a moving one stays as it was when first read. Raises UsageError.
    """
    parts = _HUB.match(source.source)
    if parts is None:
        raise UsageError(f"source: {source.source!r} is not of the form hf:OWNER/NAME[@REVISION]")
    chosen = [source.config, source.split, source.sample, source.seed, source.limit]
    identity = content_hash([source.source, None if columns.mapping is None else dict(columns.mapping), *chosen])
    copy = access.kept / f"{source.name}-{identity[:16]}.jsonl"
    if not copy.exists():
        arguments = {"path": parts["repo"], "revision": parts["revision"]}
        records = partial(dataset_records, arguments, source.config, source.split, access, source.source)
        read = source.rows(columns, records)
        copy.parent.mkdir(parents=True, exist_ok=True)
        incoming = copy.with_name(f".{copy.name}.{os.getpid()}")
        try:  # whole or not at all
            with incoming.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row.to_json()) + "\n" for row in without_repeats(read()))
            incoming.replace(copy)
        finally:
            incoming.unlink(missing_ok=True)
    return checked_eval_set(source.name, copy, lambda: read_rows(copy))
