"""Eval sets from elsewhere: a table in a suite or in `eval_set.toml` names a file, a folder or a data set of the hub.

    name = "squad"
    source = "hf:rajpurkar/squad@7b6d24c440a36b6815f21b70d25016731768db1f"   # or a path beside this file
    split = "validation"
    columns = { id = "id", inputs.question = "question", inputs.context = "context", expectations.answers = "answers.text" }
    sample = 500

JSON Lines, JSON and CSV are read here, as their author wrote them and with line numbers; Parquet files, folders of data
files and the hub through Hugging Face `datasets`, which never runs code of a data set.
"""  # noqa: E501 - a line of TOML

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import heapq
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, CannotRun, UsageError
from llmops.evaluation.eval_set import (
    ROWS_FILE,
    EvalRow,
    EvalSet,
    checked_eval_set,
    load_eval_set,
    read_rows,
    without_repeats,
)
from llmops.evaluation.eval_set_columns import Columns
from llmops.hashing import content_hash
from llmops.json_lines import json_object, numbered_lines

SOURCE_FILE = "eval_set.toml"
DEFAULT_SPLITS = ("test", "validation", "train")
_KEYS = {"name", "source", "config", "split", "columns", "sample", "seed", "limit"}
_NAME = re.compile(r"[\w.-]+\Z")
_HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?\Z")

NumberedRecords = Callable[[], Iterator[tuple[int, Any]]]


@dataclass(frozen=True, slots=True)
class SourceAccess:
    """How data sets of the hub are reached and kept.

    hub_endpoint: the Hugging Face hub's own when None. folder: for copies and for what `datasets` caches; one that is
    removed at the end of the process when None.
    """

    hub_endpoint: str | None = None
    folder: Path | None = None

    @property
    def kept(self) -> Path:
        return self.folder or _temporary_folder()


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


def find_eval_set(folder: Path, access: SourceAccess | None = None) -> EvalSet:
    """The eval set of a folder, which holds `rows.jsonl` or `eval_set.toml`. Raises BadFile, CannotRun."""
    path = folder / SOURCE_FILE
    if not path.is_file():
        return load_eval_set(folder)
    if (folder / ROWS_FILE).exists():
        raise BadFile(path, f"stands beside {ROWS_FILE}; an eval set has one of them")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadFile(path, f"not TOML: {error}") from error
    return eval_set_of_table(values, path, access, name=folder.name)


def holds_eval_set(folder: Path) -> bool:
    """Whether `find_eval_set` finds something there to read."""
    return (folder / ROWS_FILE).is_file() or (folder / SOURCE_FILE).is_file()


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
    typed, chosen = local.is_dir() or local.suffix == ".parquet", _chosen(source, records)
    return checked_eval_set(source.name, local, lambda: _rows(source, local, records, typed, chosen))


def eval_set_of_file(path: Path) -> EvalSet:
    """The eval set of a file in our own shape. Raises BadFile."""
    return eval_set_of_table({"name": path.stem, "source": str(path.absolute())}, path)


def _rows(
    source: EvalSetSource, path: Path | str, records: NumberedRecords, typed: bool, chosen: frozenset[int] | None
) -> Iterator[tuple[int, EvalRow]]:
    for position, (number, record) in enumerate(islice(records(), source.limit)):
        if chosen is None or position in chosen:
            yield number, source.columns.row(record, path, number, nulls_mean_absent=typed)


def _chosen(source: EvalSetSource, records: NumberedRecords) -> frozenset[int] | None:
    """Positions of the sample; None when all rows are taken. Holds no more than the sample."""
    if source.sample is None:
        return None

    def drawn(position: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"{source.seed}:{position}".encode(), digest_size=8).digest(), position

    positions = (position for position, _ in enumerate(islice(records(), source.limit)))
    return frozenset(position for _, position in heapq.nsmallest(source.sample, map(drawn, positions)))


def _local_records(source: EvalSetSource, path: Path, access: SourceAccess) -> NumberedRecords:
    """How to read a file or folder. Raises UsageError when the table asks for what it has not."""
    if path.is_dir():
        return lambda: _dataset_records(source, {"path": str(path)}, path, access)
    readers: dict[str, NumberedRecords] = {
        ".jsonl": lambda: ((number, json_object(line, path, number)) for number, line in numbered_lines(path)),
        ".json": lambda: _json_records(path),
        ".csv": lambda: _csv_records(path),
        ".parquet": lambda: _dataset_records(source, {"path": "parquet", "data_files": str(path)}, path, access),
    }
    if path.suffix not in readers:
        raise UsageError(f"source: {path} is neither a folder nor {', '.join(sorted(readers))}")
    if source.split or source.config:
        raise UsageError(f"{'split' if source.split else 'config'}: a single file has none")
    if path.suffix == ".csv" and source.columns.mapping is None:
        raise UsageError("columns: a CSV file needs them, its columns cannot hold objects")
    return readers[path.suffix]


def _json_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Objects of a JSON list; the file is read whole, which a large one should not be: `.jsonl` is not."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(path, f"not a JSON file: {error}") from error
    if not isinstance(found, list):
        raise BadFile(path, "must be a list of objects")
    yield from enumerate(found, 1)


def _csv_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Records with the line they begin on. An empty cell is a null; every other is text, just as it is written."""
    csv.field_size_limit(2**31 - 1)  # contexts may be longer than the 128 KiB of the default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            start = reader.line_num + 1
            for cells in reader:
                if cells:
                    if len(cells) != len(header):
                        raise BadFile(path, f"has {len(cells)} cells, the header {len(header)}", line=start)
                    yield start, {name: cell or None for name, cell in zip(header, cells, strict=True)}
                start = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadFile(path, f"cannot be read: {error}") from error


def _hub_eval_set(source: EvalSetSource, repo: str, revision: str | None, access: SourceAccess) -> EvalSet:
    """Rows of the hub, copied once and then read from the copy: the same rows on every pass, and without a network.

    Name a commit as revision: the copy of a moving one stays as it was when first read.
    """
    copy = access.kept / f"{source.key}.jsonl"
    if not copy.exists():
        arguments = {"path": repo, "revision": revision}

        def records() -> Iterator[tuple[int, Any]]:
            return _dataset_records(source, arguments, None, access)

        rows = _rows(source, source.source, records, True, _chosen(source, records))
        _write_rows(copy, without_repeats(rows, source.source))
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


def _dataset_records(
    source: EvalSetSource, arguments: Mapping[str, Any], path: Path | None, access: SourceAccess
) -> Iterator[tuple[int, Any]]:
    """Records of one split with their row numbers from 1, streamed. path: of a local source."""
    import datasets
    from huggingface_hub.errors import HTTPError  # of whichever HTTP client the hub's package is built on

    try:
        splits = _open_dataset(arguments, source.config, access)
        wanted = [source.split] if source.split else DEFAULT_SPLITS
        split = next((name for name in wanted if name in splits), None)
        if split is None:
            problem = f"no split {' or '.join(wanted)}; there are {', '.join(splits)}"
            raise BadFile(path or source.source, problem, field="split")
        yield from enumerate(splits[split].decode(False), 1)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        if path is not None:
            raise BadFile(path, f"cannot be read: {problem}") from error
        raise CannotRun(f"{source.source} cannot be read: {problem}") from error


def _open_dataset(arguments: Mapping[str, Any], config: str | None, access: SourceAccess) -> Mapping[str, Any]:
    """All splits by name. `datasets` takes the endpoint, and whether it counts downloads, from its module alone."""
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if access.hub_endpoint is not None:
        datasets.config.HF_ENDPOINT = access.hub_endpoint
    cache = access.kept / "datasets"
    found: Mapping[str, Any] = datasets.load_dataset(**arguments, name=config, streaming=True, cache_dir=str(cache))
    return found


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="llmops-eval-sets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


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
