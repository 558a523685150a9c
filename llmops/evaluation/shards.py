"""Shards: the results of some consecutive rows of one cell, each one a Parquet file, in a folder or an S3 bucket that
every machine reaches.

A shard's name holds the hashes of its rows and of its bytes, so it is never written over, and a recorded run keeps what
it was recorded with. It is there whole, or not at all. Values are exact because a row, its output and its scores are
one column of JSON text.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from llmops.errors import Corrupted
from llmops.evaluation.results import RowResult

COLUMNS = ("id", "key", "result")
"""id: of the row, escaped as in JSON. key: of its output in the generation cache. result: the row, its output and its
scores, as JSON."""
_NAME_LENGTH = 32  # of a sha256 in hex

_REMEDY = "run the suite again, which makes only what is missing"


@dataclass(frozen=True, slots=True)
class Shard:
    """A written shard. path: below its folder. sha256: of the file's bytes, in hex."""

    path: str
    sha256: str
    rows: int


class ShardFolder:
    """The folder of all shards: on a disk, or below `s3://BUCKET/…`. Every method raises StoreUnavailable."""

    def __init__(self, url: str) -> None:
        """Raises UsageError, CannotRun: as `FileStorage`."""
        from llmops.file_storage import FileStorage

        self._files = FileStorage(url, "shards")
        self.url = self._files.url

    def read(self, path: str) -> bytes | None:
        """A shard's bytes; None when there is none."""
        return self._files.read(path)

    def write(self, rows: str, results: Iterable[tuple[str, RowResult]]) -> Shard:
        """Writes results, each with its key in the generation cache. rows: the path that its rows have."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # ASCII, because a row may hold half a surrogate pair, which no UTF-8 has.
        lines = [(json.dumps(result.row.id)[1:-1], key, json.dumps(result.to_json())) for key, result in results]
        columns = zip(COLUMNS, zip(*lines, strict=True), strict=True)
        table = pa.table({name: pa.array(column, pa.string()) for name, column in columns})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        sha256 = hashlib.sha256(content).hexdigest()
        shard = Shard(f"{rows}.{sha256[:_NAME_LENGTH]}.parquet", sha256, len(lines))
        self._files.write(shard.path, content)
        return shard

    def results(self, path: str) -> tuple[Shard, list[tuple[str, RowResult]]] | None:
        """A shard and its results, each with its key in the generation cache; None when there is none that can be
        read."""
        if (content := self.read(path)) is None:
            return None
        try:
            results = _decoded(content)
        except Corrupted:
            return None
        return Shard(path, hashlib.sha256(content).hexdigest(), len(results)), results

    def paths(self, below: str) -> set[str]:
        """Of the shards in the folder of a cell."""
        return {path for path in self._files.files(below) if path.endswith(".parquet")}


def _decoded(content: bytes) -> list[tuple[str, RowResult]]:
    """Results with their keys in the generation cache. Raises Corrupted: it is no shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content), columns=list(COLUMNS[1:]))
        keys, texts = (table.column(name).to_pylist() for name in COLUMNS[1:])
        return [(key, RowResult.from_json(json.loads(text))) for key, text in zip(keys, texts, strict=True)]
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise Corrupted(f"is no shard: {error}") from error


class ShardedResults:
    """The results of a run in its shards, in the order of the rows; read any number of times, a shard at a time."""

    def __init__(self, url: str, shards: Sequence[Shard]) -> None:
        """url: of their folder. Raises CannotRun."""
        self.folder, self.shards = ShardFolder(url), tuple(shards)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], home: Path) -> Self:
        """Reads what `to_json` gave. Raises CannotRun."""
        url = str(values["folder"])
        return cls(url if "://" in url else str(home / url), [Shard(**shard) for shard in values["shards"]])

    def to_json(self, home: Path) -> dict[str, Any]:
        """Where the rows are. home: a folder inside it is named relative to it, so that the home can be moved."""
        url, path = self.folder.url, Path(self.folder.url)
        if "://" not in url and path.is_relative_to(home.resolve()):
            url = str(path.relative_to(home.resolve()))
        return {"folder": url, "rows": len(self), "shards": [asdict(shard) for shard in self.shards]}

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def __iter__(self) -> Iterator[RowResult]:
        return (result for _, result in self.with_keys())

    def with_keys(self) -> Iterator[tuple[str, RowResult]]:
        """Each result with its key in the generation cache. Raises Corrupted: a shard is missing, or is not what was
        written; names it. StoreUnavailable."""
        for shard in self.shards:
            file = f"{self.folder.url}/{shard.path}"
            if (content := self.folder.read(shard.path)) is None:
                raise Corrupted(f"{file}: this shard of a run is missing; {_REMEDY}")
            if hashlib.sha256(content).hexdigest() != shard.sha256:
                raise Corrupted(f"{file}: this shard of a run was changed (its sha256 is another); {_REMEDY}")
            yield from _decoded(content)

    def all_there(self) -> bool:
        """Whether every shard has a file; what is in them, reading finds out. Raises StoreUnavailable."""
        folders = {shard.path.rpartition("/")[0] for shard in self.shards}
        there = set[str]().union(*map(self.folder.paths, folders))
        return all(shard.path in there for shard in self.shards)
