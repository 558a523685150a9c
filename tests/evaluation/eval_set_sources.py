"""Records as the bytes of data files, and the eval sets that tables make of files and folders."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.errors import BadFile
from llmops.evaluation.eval_set import EvalSet
from llmops.evaluation.eval_set_source import eval_set_of_table
from llmops.evaluation.record_files import SourceAccess


def json_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def parquet(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


def loaded(folder: Path, source: str, columns: Any = None, **keys: Any) -> EvalSet:
    table = {"name": "sums", "source": source, **({} if columns is None else {"columns": columns}), **keys}
    return eval_set_of_table(table, folder / "task.toml", SourceAccess(folder=folder / "kept"))


def refused(folder: Path, source: str, columns: Any = None, **keys: Any) -> BadFile:
    with pytest.raises(BadFile) as caught:
        loaded(folder, source, columns, **keys)
    assert "\n" not in str(caught.value)
    return caught.value
