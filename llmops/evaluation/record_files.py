"""Records out of data files: JSON Lines, JSON, CSV, TSV and Parquet, each kind by one reader, as they were written.

Whichever way a file is reached, by its name, in a folder or on the hub, it is read here. Nothing is guessed: a cell of
a CSV file is text, `2026-01-31` and `007` included; only Parquet has dates, decimals and bytes.
"""

import atexit
import bz2
import csv
import functools
import gzip
import io
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from llmops.errors import BadFile, CannotRun, first_line
from llmops.settings import Settings
from llmops.text_io import json_object, lines_of, strict_json

_UNPACKED: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_RECORDS_AT_ONCE = 1000
_JSON_FILE = "a .json file must be a list of objects, or one object a line"
_DELIMITERS = ",;\t"
_QUOTED = re.compile(r'"[^"]*"')


class RecordLocation(NamedTuple):
    """Where a record stands. line: that it begins on, in a text file; else the record's number, from 1."""

    path: Path | str
    line: int


Records = Iterator[tuple[RecordLocation, Any]]


def kind_of(path: Path | str) -> str | None:
    """The ending by which a data file is read: `.csv` of `a.csv` and of `a.csv.gz`. None for any other file."""
    name = Path(path)
    ending = Path(name.stem).suffix if name.suffix.lower() in _UNPACKED else name.suffix
    return ending.lower() if ending.lower() in _READERS else None


def kinds() -> str:
    """The endings there are, for errors."""
    return ", ".join(sorted(_READERS))


def read_records(
    path: Path | str, open_file: Callable[[], IO[bytes]] | None = None, delimiter: str | None = None
) -> Records:
    """The records of a data file with their places, streamed; only a `.json` file is held whole.

    path: its name, in errors too. open_file: for one that is not on a disk of this machine, whose errors pass through.
    delimiter: of a CSV file, where it is another than its name says.

    Raises BadFile: naming file, and line and field where they are known.
    """
    kind = kind_of(path)
    if kind is None:
        raise BadFile(path, f"is neither a folder nor {kinds()}")
    unpack = _UNPACKED.get(Path(path).suffix.lower())
    try:
        with closing(open_file() if open_file else Path(path).open("rb")) as packed:
            read = partial(_separated, delimiter=delimiter) if delimiter else _READERS[kind]
            yield from read(path, unpack(packed) if unpack else packed)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadFile(path, f"cannot be unpacked: {error}") from error
    except OSError as error:
        if open_file is not None:
            raise
        raise BadFile(path, f"cannot be read: {error}") from error


def _json_lines(path: Path | str, file: IO[bytes]) -> Records:
    for number, line in lines_of(file):
        yield RecordLocation(path, number), json_object(line, path, number)


def _json(path: Path | str, file: IO[bytes]) -> Records:
    """The objects of a JSON list; or, as many tools name such a file `.json` too, JSON Lines."""
    number, first = next(lines_of(file), (0, b""))
    file.seek(0)
    if first.lstrip().startswith(b"{"):
        try:
            json_object(first, path, number)
        except BadFile as error:
            raise BadFile(path, f"{error.problem}; {_JSON_FILE}", line=error.line, field=error.field) from error
        yield from _json_lines(path, file)
        return
    try:
        records = strict_json(file.read().decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise _no_utf8(error, path, file) from error
    if not isinstance(records, list):
        raise BadFile(path, _JSON_FILE)
    yield from ((RecordLocation(path, number), record) for number, record in enumerate(records, 1))


def _separated(path: Path | str, file: IO[bytes], delimiter: str) -> Records:
    """Records by the columns' names. An empty cell is a null; every other is text, just as it is written. A header
    without the delimiter, but with another, says that the file is separated by that one."""
    csv.field_size_limit(2**31 - 1)  # contexts may be longer than the 128 KiB of the default
    start = 1
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        try:
            head = text.readline()
            bare = _QUOTED.sub("", head)
            if delimiter not in bare:
                delimiter = max((delimiter, *_DELIMITERS), key=bare.count)
            reader = csv.reader(chain([head], text), delimiter=delimiter, strict=True)
            header = next(reader, [])
            # Columns without a name can be mapped to nothing, and are passed over.
            if repeated := [name for name in header if name and header.count(name) > 1]:
                raise BadFile(path, "names two columns", line=1, field=repeated[0])
            start = reader.line_num + 1
            for cells in reader:
                if len(cells) not in (0, len(header)):
                    raise BadFile(path, f"has {len(cells)} cells, the header {len(header)}", line=start)
                if cells:
                    pairs = zip(header, cells, strict=True)
                    yield RecordLocation(path, start), {name: cell or None for name, cell in pairs if name}
                start = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise _no_utf8(error, path, file) from error
        except csv.Error as error:
            raise BadFile(path, f"cannot be read: {error}", line=start) from error


def _parquet(path: Path | str, file: IO[bytes]) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if repeated := [name for name in names if names.count(name) > 1]:
            raise BadFile(path, "names two columns", field=repeated[0])
        batches = table.iter_batches(batch_size=_RECORDS_AT_ONCE)
        records = chain.from_iterable(_values(batch) for batch in batches)
        yield from ((RecordLocation(path, number), record) for number, record in enumerate(records, 1))
    except (pa.ArrowException, KeyError, ValueError, OverflowError) as error:  # the last two: a date beyond Python's
        raise BadFile(path, f"cannot be read: {first_line(error)}") from error


def _values(batch: Any) -> list[dict[str, Any]]:
    """Python's values of a batch. A column of JSON texts that says so in its type holds what they say: `datasets` keeps
    values of mixed kinds that way. A number of single precision is the shortest that names it: 0.1, as it was given,
    and not 0.10000000149011612."""
    for column in batch.columns:
        if str(column.type) == "time64[ns]":
            column.cast("time64[us]")  # raises where nanoseconds would be lost: with pandas at hand they are cut off
    records: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
    for field in batch.schema:
        if re.search(r"arrow\.json|\b(?:half)?float\b", str(field.type)):
            for record in records:
                record[field.name] = _as_given(record[field.name], field.type)
    return records


def _as_given(value: Any, kind: Any) -> Any:
    import pyarrow as pa

    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return strict_json(value, "a JSON column")
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return float(str(kind.to_pandas_dtype()(value)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_as_given(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _as_given(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return {name: _as_given(item, kind.item_type) for name, item in value.items()}
    return value


def _no_utf8(error: UnicodeDecodeError, path: Path | str, file: IO[bytes]) -> BadFile:
    """Names the first line that is no UTF-8. Files are decoded in blocks, so that the error itself does not tell."""
    file.seek(0)
    line = None
    for number, text in enumerate(file, 1):
        try:
            text.decode()
        except UnicodeDecodeError:
            line = number
            break
    return BadFile(path, f"is no UTF-8 ({error.reason}); save it as UTF-8", line=line)


_READERS: dict[str, Callable[[Path | str, IO[bytes]], Records]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
}


# Of folders and data sets of the hub, Hugging Face `datasets` says what files a split has (by names, folders and the
# card's `data_files`), and runs no code. The files are read here, so that a folder gives what its files give one by
# one: `datasets` takes ISO dates for timestamps and cells of a CSV file for numbers. It reads only what none but it
# can open.
DEFAULT_SPLITS = ("test", "validation", "train")
_ON_HUB = re.compile(r"hf://datasets/[^/]+/[^/@]+@[^/]+/")
_NO_OPTIONS = {"name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter"}


@dataclass(frozen=True, slots=True)
class SourceAccess:
    """How data sets of the hub are reached and kept.

    hub_endpoint: the Hugging Face hub's own when None. folder: for copies and for what `datasets` caches; one that is
    removed at the end of the process when None.
    """

    hub_endpoint: str | None = None
    folder: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say."""
        return cls(settings.hub_endpoint, settings.home / "eval_sets")

    @property
    def kept(self) -> Path:
        return self.folder or _temporary_folder()


def dataset_records(
    arguments: Mapping[str, Any], config: str | None, split: str | None, access: SourceAccess, source: Path | str
) -> Records:
    """The records of one split with their places, streamed.

    arguments: of `datasets.load_dataset`. split: the first of test, validation and train that there is when None.
    source: the folder, or the name of the data set, in errors.

    Raises BadFile: of a folder: naming file, line and field. CannotRun: the hub does not give it.
    """
    import datasets
    from huggingface_hub.errors import HTTPError  # of whichever HTTP client the hub's package is built on

    try:
        # `datasets` takes the endpoint, and whether it counts downloads, from its module alone.
        datasets.disable_progress_bars()
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
        if access.hub_endpoint is not None:
            datasets.config.HF_ENDPOINT = access.hub_endpoint
        kept = str(access.kept / "datasets")
        builder = datasets.load_dataset_builder(**arguments, name=config, cache_dir=kept)
        files = {str(name): list(map(str, of_split)) for name, of_split in (builder.config.data_files or {}).items()}
        splits = list(files or map(str, builder.info.splits or ()))
        wanted = [split] if split else DEFAULT_SPLITS
        chosen = next((name for name in wanted if name in splits), None)
        if chosen is None:
            problem = f"no split {' or '.join(wanted)}; there are {', '.join(splits)}"
            raise BadFile(source, problem, field="split")
        if isinstance(source, Path):
            _check_all_are_read(source, {file for of_split in files.values() for file in of_split})
        yield from _records(builder, chosen, files.get(chosen, []), source)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        if isinstance(source, Path):
            raise BadFile(source, f"cannot be read: {first_line(error)}") from error
        raise CannotRun(f"{source} cannot be read: {first_line(error)}") from error


def _records(builder: Any, split: str, files: list[str], source: Path | str) -> Records:
    from datasets.utils.file_utils import xopen

    members = [member for file in files for member in _members(file)]
    kinds = {kind_of(member.partition("::")[0]) for member in members}
    # What the card of a data set asks of the reader of its files.
    usual, named = type(builder.config)(), {field.name for field in fields(builder.config)} - _NO_OPTIONS
    options = sorted(name for name in named if getattr(builder.config, name) != getattr(usual, name))
    if ".csv" in kinds and options:  # pandas, which alone knows them, would make numbers of the cells
        raise BadFile(source, f"its card reads CSV files with {', '.join(options)}, which is not supported")
    if not members or None in kinds or options:
        records = builder.as_streaming_dataset(split=split).decode(False)
        yield from ((RecordLocation(source, number), record) for number, record in enumerate(records, 1))
        return
    delimiter = getattr(builder.config, "sep", None)
    for member in members:
        if "://" not in member:
            yield from read_records(Path(member), None, delimiter)
            continue
        inner, _, outer = member.partition("::")  # a file of the hub, or in an archive
        shown = _ON_HUB.sub(f"{source}/", outer or inner)
        label = f"{shown}/{inner.partition('://')[2]}" if outer else shown
        yield from read_records(label, partial(xopen, member, "rb"), delimiter)


def _check_all_are_read(folder: Path, read: set[str]) -> None:
    """Raises BadFile at a data file that is in no split: `datasets` leaves files of another kind, and of another
    naming, out without a word. A card may do so on purpose."""
    if (folder / "README.md").exists():
        return
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
        if kind_of(file) is not None and file.is_file() and not hidden and str(file) not in read:
            raise BadFile(file, "is part of no split beside the others; take it out of the folder, or name it alone")


def _members(file: str) -> Iterator[str]:
    """The file itself, or the files in a ZIP archive."""
    from datasets import StreamingDownloadManager

    if not file.lower().endswith(".zip"):
        yield file
        return
    manager = StreamingDownloadManager()
    yield from manager.iter_files([manager.extract(file)])


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="llmops-eval-sets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
