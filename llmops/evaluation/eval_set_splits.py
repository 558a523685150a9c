"""Splits of folders and of data sets of the hub: which files are whose, as Hugging Face `datasets` sees it.

`datasets` says what files a split has (by names, folders and the card's `data_files`), and runs no code of a data set.
The files themselves are read by `record_files`, so that a folder gives what its files give one by one: `datasets` takes
ISO dates for timestamps, and cells of a CSV file for numbers. It reads only what none but it can open.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, CannotRun
from llmops.evaluation.record_files import RecordLocation, Records, kind_of, read_records

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

    @property
    def kept(self) -> Path:
        return self.folder or _temporary_folder()


def dataset_records(
    arguments: Mapping[str, Any], config: str | None, split: str | None, access: SourceAccess, source: Path | str
) -> Records:
    """The records of one split with their places, streamed.

    arguments: of `datasets.load_dataset`. split: the first of test, validation and train that there is when None.
    source: the folder, or the name of the data set, in errors.

    Raises:
        BadFile: of a folder: naming file, line and field. CannotRun: the hub does not give it.
    """
    import datasets
    from huggingface_hub.errors import HTTPError  # of whichever HTTP client the hub's package is built on

    try:
        builder = _builder(arguments, config, access)
        files = {str(name): list(map(str, of_split)) for name, of_split in (builder.config.data_files or {}).items()}
        splits = list(files or map(str, builder.info.splits or ()))
        wanted = [split] if split else DEFAULT_SPLITS
        found = next((name for name in wanted if name in splits), None)
        if found is None:
            problem = f"no split {' or '.join(wanted)}; there are {', '.join(splits)}"
            raise BadFile(source, problem, field="split")
        if isinstance(source, Path):
            _check_all_are_read(source, {file for of_split in files.values() for file in of_split})
        yield from _records(builder, found, files.get(found, []), source)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(source, Path):
            raise BadFile(source, f"cannot be read: {problem}") from error
        raise CannotRun(f"{source} cannot be read: {problem}") from error


def _records(builder: Any, split: str, files: list[str], source: Path | str) -> Records:
    from datasets.utils.file_utils import xopen

    members = [member for file in files for member in _members(file)]
    kinds = {kind_of(_inner(member)) for member in members}
    options = _options(builder.config)
    if ".csv" in kinds and options:  # pandas, which alone knows them, would make numbers of the cells
        raise BadFile(source, f"its card reads CSV files with {', '.join(options)}, which is not supported")
    if not members or None in kinds or options:
        records = builder.as_streaming_dataset(split=split).decode(False)
        yield from ((RecordLocation(source, number), record) for number, record in enumerate(records, 1))
        return
    delimiter = getattr(builder.config, "sep", None)
    for member in members:
        on_disk = "://" not in member
        opened = None if on_disk else functools.partial(xopen, member, "rb")
        yield from read_records(Path(member) if on_disk else _label(member, source), opened, delimiter)


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


def _inner(url: str) -> str:
    return url.partition("::")[0]


def _label(url: str, source: Path | str) -> str:
    """What an error calls a file of the hub, or in an archive."""
    inner, _, outer = url.partition("::")
    shown = _ON_HUB.sub(f"{source}/", outer or inner)
    return f"{shown}/{inner.partition('://')[2]}" if outer else shown


def _options(config: Any) -> list[str]:
    """Names of what the card of a data set asks of the reader of its files."""
    usual = type(config)()
    names = {field.name for field in fields(config)} - _NO_OPTIONS
    return sorted(name for name in names if getattr(config, name) != getattr(usual, name))


def _builder(arguments: Mapping[str, Any], config: str | None, access: SourceAccess) -> Any:
    """`datasets` takes the endpoint, and whether it counts downloads, from its module alone."""
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if access.hub_endpoint is not None:
        datasets.config.HF_ENDPOINT = access.hub_endpoint
    return datasets.load_dataset_builder(**arguments, name=config, cache_dir=str(access.kept / "datasets"))


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="llmops-eval-sets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
