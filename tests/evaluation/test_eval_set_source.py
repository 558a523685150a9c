"""Eval sets from files, folders, archives and the hub: the same rows and the same errors through every door, on every
pass."""

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from llmops.evaluation.eval_set import EvalRow, EvalSet
from llmops.evaluation.eval_set_source import ColumnMapping, eval_set_of_table, find_eval_set
from llmops.evaluation.record_files import SourceAccess
from tests.http_server import Answer, answering

TEXTS: list[dict[str, Any]] = [
    {"id": "007", "question": "Born when?", "answer": "1969-07-20", "topic": "dates"},
    {"id": "1.0", "question": 'He said "hm, no",\nand left: Łódź 🙂', "answer": "2026-01-31T00:00:00", "topic": None},
    {"id": "1", "question": "NA", "answer": "null", "topic": "007"},
]
"""Rows that a CSV file can hold too; each cell is one that some reader takes for something else."""

COLUMNS = {"id": "id", "inputs.question": "question", "expectations.answers": "answer", "tags.topic": "topic"}
EXPECTED = [
    EvalRow("007", {"question": "Born when?"}, {"answers": ["1969-07-20"]}, (), {"topic": "dates"}),
    EvalRow("1.0", {"question": TEXTS[1]["question"]}, {"answers": ["2026-01-31T00:00:00"]}),
    EvalRow("1", {"question": "NA"}, {"answers": ["null"]}, (), {"topic": "007"}),
]

NESTED: list[dict[str, Any]] = [
    {
        "id": "a", "inputs": {"question": "Why?", "context": None},
        "expectations": {"answers": ["2026-01-31"], "big": 2**62, "real": 1.0, "on": True, "note": None,
                         "deep": {"gone": None, "dates": ["2026-01-31", None]}},
        "contexts": ["one"], "tags": {"level": "007", "none": None},
    },
    {
        "id": "b", "inputs": {"question": "How?", "context": "So."},
        "expectations": {"answers": ["x", "y"], "big": -1, "real": 0.1, "on": False, "note": "n",
                         "deep": {"gone": "2026-01-31", "dates": []}},
        "contexts": [], "tags": {"level": "1.0", "none": "x"},
    },
]  # fmt: skip


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


def separated(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def zipped(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("test.jsonl", json_lines(records))
    return sink.getvalue()


FILES: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "t.jsonl": json_lines,
    "t.ndjson": json_lines,
    "t.json": lambda records: json.dumps(records).encode(),
    "lines.json": json_lines,
    "mark.jsonl": lambda records: b"\xef\xbb\xbf" + json_lines(records),
    "mark.json": lambda records: b"\xef\xbb\xbf" + json.dumps(records).encode(),
    "windows.jsonl": lambda records: json_lines(records).replace(b"\n", b"\r\n\r\n"),
    "unterminated.jsonl": lambda records: json_lines(records).rstrip(b"\n"),
    "t.jsonl.gz": lambda records: gzip.compress(json_lines(records)),
    "t.parquet": parquet,
}
CELLS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    **FILES,
    "t.csv": separated,
    "t.CSV": separated,
    "mark.csv": lambda records: b"\xef\xbb\xbf" + separated(records),
    "t.tsv": lambda records: separated(records, "\t"),
    "semicolons.csv": lambda records: separated(records, ";"),
    "tabs.csv": lambda records: separated(records, "\t"),
    "commas.tsv": separated,
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_come_through_every_kind_of_file_as_written_with_ids_made_alike_and_dotted_columns_need_no_mapping(
    tmp_path, name
):
    (tmp_path / name).write_bytes(CELLS[name](TEXTS))
    rows = loaded(tmp_path, name, COLUMNS).rows
    assert list(rows) == list(rows) == EXPECTED
    unnamed = {field: column for field, column in COLUMNS.items() if field != "id"}
    mapping = ColumnMapping.from_table("sums", unnamed)
    made = [mapping.row(record, name, number).id for number, record in enumerate(TEXTS, 1)]
    assert [row.id for row in loaded(tmp_path, name, unnamed).rows] == made
    dotted = [{COLUMN: record[column] for COLUMN, column in COLUMNS.items()} for record in TEXTS]
    (tmp_path / name).write_bytes(CELLS[name](dotted))
    assert list(find_eval_set(tmp_path / name).rows) == EXPECTED


@pytest.mark.parametrize("name", FILES)
def test_objects_come_through_every_kind_of_file_and_folder_equal(tmp_path, name):
    (tmp_path / "direct.jsonl").write_bytes(json_lines(NESTED))
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / name, tmp_path / "folder" / name):
        path.write_bytes(FILES[name](NESTED))
    direct = list(find_eval_set(tmp_path / "direct.jsonl").rows)
    assert direct[0].expectations["deep"] == {"gone": None, "dates": ["2026-01-31", None]}
    assert "note" not in direct[0].expectations
    assert [repr(row) for row in loaded(tmp_path, name).rows] == [repr(row) for row in direct]
    assert [repr(row) for row in loaded(tmp_path, "folder").rows] == [repr(row) for row in direct]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "semicolons.csv", "commas.tsv", "t.jsonl", "t.parquet", "t.zip"])
def test_a_folder_gives_the_cells_of_its_files_and_of_packed_ones(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes({**CELLS, "t.zip": zipped}[name](TEXTS))
    assert list(loaded(tmp_path, "folder", COLUMNS).rows) == EXPECTED


@pytest.mark.parametrize("other", ["notes.csv", "more.jsonl"])
def test_a_file_of_a_folder_that_would_be_left_out_is_an_error(tmp_path, other):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "test.jsonl").write_bytes(json_lines(NESTED))
    (tmp_path / "folder" / other).write_bytes(CELLS["t.csv"](TEXTS) if other.endswith("csv") else json_lines(NESTED))
    error = refused(tmp_path, "folder")
    assert error.path == tmp_path / "folder" / other
    assert "part of no split" in error.problem


PARQUET: list[tuple[Any, Any]] = [
    (pa.array([date(2026, 1, 31)]), "2026-01-31"),
    (pa.array([datetime(2026, 1, 31, 12)], pa.timestamp("ns")), "2026-01-31T12:00:00"),
    (pa.array([datetime(2026, 1, 31, tzinfo=UTC)], pa.timestamp("us", tz="UTC")), "2026-01-31T00:00:00+00:00"),
    (pa.array([time(8, 30)]), "08:30:00"),
    (pa.array([time(8, 30)], pa.time64("ns")), "08:30:00"),
    (pa.array([Decimal("9.50")]), 9.5),
    (pa.array([Decimal(12345678901234567890)]), 12345678901234567890),
    (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    (pa.array(["a"]).dictionary_encode(), "a"),
    (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
    (pa.array([{"d": [date(2026, 1, 31), None]}]), {"d": ["2026-01-31", None]}),
    (pa.array([True]), True),
    (pa.array([0.1], pa.float32()), 0.1),
    (pa.array([[{"n": 0.3}, None]], pa.list_(pa.struct({"n": pa.float32()}))), [{"n": 0.3}, None]),
    (pa.array([[("k", 0.1)]], pa.map_(pa.string(), pa.float32())), {"k": 0.1}),
]


@pytest.mark.parametrize(("column", "value"), PARQUET)
def test_what_parquet_has_and_json_has_not_becomes_what_json_has(tmp_path, column, value):
    pq.write_table(pa.table({"q": ["x"], "v": column}), tmp_path / "t.parquet")
    (tmp_path / "folder").mkdir()
    pq.write_table(pa.table({"q": ["x"], "v": column}), tmp_path / "folder" / "t.parquet")
    for source in ("t.parquet", "folder"):
        (row,) = loaded(tmp_path, source, {"inputs.q": "q", "expectations.v": "v"}).rows
        assert (row.expectations["v"], type(row.expectations["v"])) == (value, type(value))


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([1.0, float("nan")]), "is nan, which JSON does not have"),
        (pa.array([1.0, float("inf")]), "is inf, which JSON does not have"),
        (pa.array([b"", b"raw"]), "is bytes, which JSON cannot hold"),
        (pa.array([timedelta(1), timedelta(1)]), "is a duration, which JSON cannot hold"),
        (pa.array([1, 1], pa.duration("ns")), "is a duration, which JSON cannot hold"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_file_record_and_field(tmp_path, column, problem):
    number = 1 if "bytes" in problem or "duration" in problem else 2
    pq.write_table(pa.table({"q": ["x", "y"], "v": column}), tmp_path / "t.parquet")
    error = refused(tmp_path, "t.parquet", {"inputs.q": "q", "expectations.v": "v"})
    assert (error.path, error.line, error.field) == (tmp_path / "t.parquet", number, "expectations.v")
    assert error.problem == problem


def test_an_error_in_a_folder_names_the_file_the_line_and_the_field_and_a_later_change_is_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").write_bytes(json_lines(NESTED))
    eval_set = loaded(tmp_path, "folder")
    bad = b'\n{"id": "c", "inputs": {"question": "x"}, "expectations": {"n": NaN}}\n'
    (tmp_path / "folder" / "b.jsonl").write_bytes(bad)
    for source, path in (("folder", tmp_path / "folder" / "b.jsonl"), ("folder/b.jsonl", tmp_path / "folder/b.jsonl")):
        error = refused(tmp_path, source)
        assert (error.path, error.line, error.field) == (path, 2, "expectations.n")
    with pytest.raises(BadFile, match="was changed"):
        list(eval_set.rows)
    (tmp_path / "folder" / "b.jsonl").unlink()
    (tmp_path / "folder" / "a.jsonl").write_bytes(json_lines(NESTED[:1]))
    with pytest.raises(BadFile, match="was changed"):
        list(eval_set.rows)


def test_a_header_that_names_two_columns_alike_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"question,answer,answer\nx,y,z\n")
    (tmp_path / "t.tsv").write_bytes(b"question\tanswer\tanswer\nx\ty\tz\n")
    table = pa.table([pa.array(["x"]), pa.array(["y"]), pa.array(["z"])], names=["question", "answer", "answer"])
    pq.write_table(table, tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        error = refused(tmp_path, name, {"inputs.question": "question", "expectations.answers": "answer"})
        line = None if name == "t.parquet" else 1
        assert (error.path, error.line, error.field) == (tmp_path / name, line, "answer")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"q,a\n" + b"x,y\n" * 40 + b"caf\xe9,y\n" + b"x,y\n" * 40),
        ("t.jsonl", b'{"q": "x"}\n' * 41 + b'{"q": "caf\xe9"}\n'),
        ("t.json", b"[\n" + b'{"q": "x"},\n' * 40 + b'{"q": "caf\xe9"}\n]'),
    ],
)
def test_bytes_that_are_no_utf8_are_named_by_the_line_they_stand_on(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path, name, {"inputs.question": "q"})
    assert (error.path, error.line) == (tmp_path / name, 42)
    assert re.search(r"is no UTF-8 .*; save it as UTF-8", error.problem)


def test_a_quoted_header_says_how_a_file_is_separated_and_a_comma_in_a_name_does_not(tmp_path):
    (tmp_path / "t.csv").write_bytes('\ufeff"id";"inputs.question";"a, b"\r\n1;"So; it is, yes";x\r\n'.encode())
    (row,) = loaded(tmp_path, "t.csv", {"id": "id", "inputs.q": "inputs.question", "tags.t": "a, b"}).rows
    assert (row.id, row.inputs, row.tags) == ("1", {"q": "So; it is, yes"}, {"t": "x"})


@pytest.mark.parametrize(
    "column",
    [pa.array([10**8], pa.date32()), pa.array([10**18], pa.timestamp("ms")), pa.array([1], pa.time64("ns"))],
)
def test_a_date_beyond_the_calendar_or_a_time_too_fine_is_an_error_of_its_file(tmp_path, column):
    pq.write_table(pa.table({"q": ["x"], "v": column}), tmp_path / "t.parquet")
    error = refused(tmp_path, "t.parquet", {"inputs.q": "q", "expectations.v": "v"})
    assert str(error).startswith(f"{tmp_path / 't.parquet'}: cannot be read: ")


def test_a_row_without_an_id_gets_the_same_one_through_every_door_and_one_that_is_given_must_be_one(tmp_path):
    record, door = {"inputs": {"question": "Why?"}, "expectations": {"answers": ["So."]}}, tmp_path / "doors"
    (door / "qa").mkdir(parents=True)
    for path in (door / "qa.jsonl", door / "qa" / "rows.jsonl"):
        path.write_bytes(json_lines([record]))
    (door / "qa.json").write_text(json.dumps([record]))
    (door / "qa.csv").write_text("inputs.question,expectations.answers\nWhy?,So.\n")
    pq.write_table(pa.Table.from_pylist([record]), door / "qa.parquet")
    found = [next(iter(find_eval_set(path).rows)) for path in sorted(door.iterdir())]
    assert found == found[:1] * 5
    assert found[0].id.startswith("qa-000001-")
    for given_id in (None, "", [1]):
        (tmp_path / "qa.jsonl").write_bytes(json_lines([{"id": given_id, "inputs": {"question": "Why?"}}]))
        with pytest.raises(BadFile, match=r"qa\.jsonl:1: id: "):
            find_eval_set(tmp_path / "qa.jsonl")


def test_what_datasets_keeps_as_json_texts_is_read_as_the_values_they_are(tmp_path):
    from datasets import Dataset

    mixed = {"id": ["a", "b"], "q": ["x", "y"], "e": [{"n": 1, "d": "2026-01-31"}, {"n": [1.0, None]}]}
    Dataset.from_dict(mixed, on_mixed_types="use_json").to_parquet(tmp_path / "t.parquet")
    rows = loaded(tmp_path, "t.parquet", {"id": "id", "inputs.q": "q", "expectations.e": "e"}).rows
    assert [row.expectations["e"] for row in rows] == mixed["e"]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


_NAMES = st.text(min_size=1, max_size=5).filter(lambda name: name != "answers" and "\0" not in name)


@given(st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_any_json_value_comes_back_as_it_was_written(tmp_path_factory, expectations):
    path = tmp_path_factory.mktemp("rows") / "t.jsonl"
    path.write_text(json.dumps({"id": "a", "inputs": {"q": "x"}, "expectations": expectations}))
    (row,) = find_eval_set(path).rows
    assert repr(row.expectations) == repr({name: value for name, value in expectations.items() if value is not None})


# Tables: what they choose of a source, and what is wrong with them

RECORDS: list[dict[str, Any]] = [
    {"key": f"k{number}", "q": f"How many is {number}?", "answers": {"text": [str(number)]}, "level": number}
    for number in range(20)
]
OF_RECORDS = {"id": "key", "inputs.question": "q", "expectations.answers": "answers.text", "tags.level": "level"}
OWN = {"id": "r1", "inputs": {"question": "Why?"}, "tags": {"source_row": 3}}


def ids(eval_set: EvalSet) -> list[str]:
    return [row.id for row in eval_set.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same records as every kind of file, and as a folder of two splits."""
    (tmp_path / "t.jsonl").write_bytes(json_lines(RECORDS))
    (tmp_path / "t.json").write_text(json.dumps(RECORDS))
    (tmp_path / "t.parquet").write_bytes(parquet(RECORDS))
    (tmp_path / "data" / "data").mkdir(parents=True)
    for split, part in (("train", RECORDS[:5]), ("validation", RECORDS[5:])):
        (tmp_path / "data" / "data" / f"{split}-00000-of-00001.parquet").write_bytes(parquet(part))
    return tmp_path


def test_a_csv_file_is_read_as_it_is_written_however_long_a_cell_and_errors_name_the_line_a_record_begins_on(tmp_path):
    long, path = "x" * 200_000, tmp_path / "t.csv"  # the csv module's limit is 128 KiB
    path.write_text(f'\ufeffid,q,a\n007,"two\nlines",\n008,NA,1.50\n009,{long},\n')
    columns = {"id": "id", "inputs.question": "q", "expectations.answers": "a"}
    rows = list(loaded(tmp_path, "t.csv", columns).rows)
    assert [(row.id, row.inputs["question"], row.expectations) for row in rows] == [
        ("007", "two\nlines", {}),
        ("008", "NA", {"answers": ["1.50"]}),
        ("009", long, {}),
    ]
    path.write_text('q,a\n"two\nlines",x\n ,x\n')
    error = refused(tmp_path, "t.csv", {"inputs.question": "q"})
    assert (error.path, error.line, error.field) == (path, 4, "inputs.question")
    path.write_text('q,a\n"two\nlines",x\none\n')
    error = refused(tmp_path, "t.csv", {"inputs.question": "q"})
    assert (error.line, error.problem) == (4, "has 1 cells, the header 2")
    path.write_text("key,q,level\nk,x,1\n")  # a header that names no fields
    error = refused(tmp_path, "t.csv")
    assert (error.path, error.line, error.field) == (path, 2, "key")
    assert "`columns`" in error.problem


def test_a_file_of_our_own_shape_needs_no_columns(tmp_path):
    (tmp_path / "own.jsonl").write_bytes(json_lines([OWN]))
    for eval_set in (loaded(tmp_path, "own.jsonl"), find_eval_set(tmp_path / "own.jsonl")):
        assert [row.tags for row in eval_set.rows] == [{"source_row": "3"}]
    (tmp_path / "own.jsonl").write_text(json.dumps(OWN) + "\n\n" + json.dumps({**OWN, "id": "r2", "inputs": {}}))
    error = refused(tmp_path, "own.jsonl")
    assert (error.path, error.line, error.field) == (tmp_path / "own.jsonl", 3, "inputs")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_a_wrong_column_names_file_row_and_field_and_an_id_that_stands_twice_the_second_line(folder, ending):
    error = refused(folder, f"t.{ending}", {**OF_RECORDS, "tags.topic": "topic"})
    assert (error.path, error.line, error.field) == (folder / f"t.{ending}", 1, "tags.topic")
    assert error.problem == "no column 'topic'; there are key, q, answers, level"
    (folder / "t.jsonl").write_bytes(json_lines([*RECORDS, RECORDS[3]]))
    error = refused(folder, "t.jsonl", OF_RECORDS)
    assert (error.line, error.field) == (21, "id")


def test_a_sample_is_the_same_every_time_in_the_order_of_the_file_and_drawn_within_a_limit(folder):
    everything = ids(loaded(folder, "t.jsonl", OF_RECORDS))
    sample = ids(loaded(folder, "t.jsonl", OF_RECORDS, sample=6, seed=1))
    assert sample == ids(loaded(folder, "t.parquet", OF_RECORDS, sample=6, seed=1))
    assert sample == [row for row in everything if row in sample]
    assert len(sample) == 6
    assert sample != ids(loaded(folder, "t.jsonl", OF_RECORDS, sample=6, seed=2))
    assert set(sample) < set(ids(loaded(folder, "t.jsonl", OF_RECORDS, sample=7, seed=1)))
    assert ids(loaded(folder, "t.jsonl", OF_RECORDS, sample=99)) == everything
    assert ids(loaded(folder, "t.jsonl", OF_RECORDS, limit=2)) == ["k0", "k1"]
    assert set(ids(loaded(folder, "t.jsonl", OF_RECORDS, limit=5, sample=3))) < {"k0", "k1", "k2", "k3", "k4"}


def test_a_sample_of_many_draws_from_all_of_them(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(json_lines([{"q": str(number)} for number in range(4000)]))
    drawn = [int(row.inputs["q"]) for row in loaded(tmp_path, "t.jsonl", {"inputs.q": "q"}, sample=400).rows]
    quarters = [sum(1000 * part <= number < 1000 * (part + 1) for number in drawn) for part in range(4)]
    assert min(quarters) > 60  # 100 expected; five standard deviations below are 57


def test_the_default_split_is_the_first_of_test_validation_and_train_and_code_and_pickles_are_not_run(folder):
    assert ids(loaded(folder, "data", OF_RECORDS)) == [record["key"] for record in RECORDS[5:]]
    assert ids(loaded(folder, "data", OF_RECORDS, split="train")) == [record["key"] for record in RECORDS[:5]]
    error = refused(folder, "data", OF_RECORDS, split="dev")
    assert (error.field, error.problem) == ("split", "no split dev; there are train, validation")
    assert (folder / "kept" / "datasets").is_dir()  # what `datasets` keeps stays in the folder given
    (folder / "data" / "data.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert "no longer supported" in refused(folder, "data", OF_RECORDS).problem
    assert not (folder / "ran").exists()
    (folder / "t.pkl").write_bytes(b"\x80\x04.")
    assert refused(folder, "t.pkl", OF_RECORDS).field == "source"


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"source": 3}, "source"),
        ({"source": "t.txt"}, "source"),
        ({"source": "hf:squad"}, "source"),
        ({"source": "absent"}, "source"),
        ({"split": "test"}, "split"),
        ({"config": "en"}, "config"),
        ({"columns": "q"}, "columns"),
        ({"columns": {"question": "q"}}, "columns.question"),
        ({"sample": 0}, "sample"),
        ({"sample": True}, "sample"),
        ({"seed": -1}, "seed"),
        ({"limit": "3"}, "limit"),
        ({"sampel": 3}, "sampel"),
    ],
)
def test_a_mistake_in_the_table_names_the_toml_and_the_key(folder, keys, field):
    with pytest.raises(BadFile) as caught:
        eval_set_of_table(
            {"name": "sums", "source": "t.jsonl", "columns": OF_RECORDS, **keys},
            folder / "task.toml",
            key="eval_sets[0]",
        )
    assert (caught.value.path, caught.value.field) == (folder / "task.toml", f"eval_sets[0].{field}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", b"{"), ("t.json", b'{"a": 1}'), ("t.json", b"[1]"), ("t.json", b"[]"), ("t.jsonl", b"{"),
        ("t.parquet", b"PAR1"), ("t.csv", b'q\n"open'), ("t.csv", b"q\n\xff\n"), ("t.csv", b""), ("t.json", b"\xff"),
        ("absent.jsonl", None), ("absent.json", None), ("absent.csv", None), ("absent.parquet", None),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert refused(tmp_path, name, OF_RECORDS).path == tmp_path / name


# ---- eval_set.toml


TABLE = 'source = "../t.jsonl"\n[columns]\nid = "key"\ninputs.question = "q"\n'


@pytest.mark.parametrize(
    ("text", "rows", "problem"),
    [
        (TABLE, None, None),
        (TABLE, OWN, "stands beside rows.jsonl"),
        ("source = ", None, "is not TOML"),
        ('source = "../t.txt"', None, "source: "),
        ("name = 3", None, "name: must be text"),
    ],
)
def test_a_folder_may_hold_a_table_in_place_of_rows(folder, text, rows, problem):
    (folder / "squad").mkdir()
    (folder / "squad" / "eval_set.toml").write_text(text)
    if rows is not None:
        (folder / "squad" / "rows.jsonl").write_text(json.dumps(rows))
    if problem is None:
        eval_set = find_eval_set(folder / "squad")
        assert (eval_set.name, eval_set.n_rows) == ("squad", 20)
    else:
        with pytest.raises(BadFile, match=problem) as caught:
            find_eval_set(folder / "squad")
        assert caught.value.path == folder / "squad" / "eval_set.toml"


# ---- hf:

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_CELLS = b"id;inputs.question;expectations.answers\n007;When, exactly?;2026-01-31\n1.0;NA;true\n"


DATA_SETS = {
    "acme/sums": {"data/test.jsonl": json_lines(RECORDS), "README.md": b"# Sums\n"},
    "acme/cells": {"data/test.csv": HUB_CELLS},
    "acme/table": {"data/test.parquet": parquet(RECORDS)},
}


def hub_answer(path: str) -> Answer:
    """Of the hub for each of DATA_SETS at `main` and `v2`."""
    name = next((name for name in DATA_SETS if f"/{name}" in path), "")
    files = DATA_SETS.get(name, {})
    api, tree = f"/api/datasets/{name}", f"/api/datasets/{name}/tree/{COMMIT}"
    if files and path in (api, *(f"{api}/revision/{revision}" for revision in ("main", "v2", COMMIT))):
        return 200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode(), {}
    if path.startswith(tree):
        folder = path.removeprefix(tree).strip("/")
        found: list[dict[str, Any]] = (
            [] if folder else [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]
        )
        inside = [file for file in files if file.rpartition("/")[0] == folder]
        found += [{"type": "file", "path": file, "size": len(files[file]), "oid": "1" * 40} for file in inside]
        return 200, json.dumps(found).encode(), {}
    if path.startswith(f"/datasets/{name}/resolve/"):
        file = path.removeprefix(f"/datasets/{name}/resolve/").partition("/")[2]
        if file in files:
            return 200, files[file], {"etag": f'"{file}"', "x-repo-commit": COMMIT}
        return 404, b"", {"x-error-code": "EntryNotFound", "x-repo-commit": COMMIT}
    return 404, b'{"error": "Repository not found"}', {"x-error-code": "RepoNotFound"}


APART = """
import json, sys
from pathlib import Path
from llmops.errors import LlmopsError
from llmops.evaluation.eval_set_source import eval_set_of_table
from llmops.evaluation.record_files import SourceAccess
tables, endpoint, folder = json.loads(sys.argv[1])
found = []
for table in tables:
    try:
        eval_set = eval_set_of_table(table, Path("task.toml"), SourceAccess(endpoint, Path(folder)))
        found.append([eval_set.n_rows, eval_set.content_hash, [row.id for row in eval_set.rows]])
    except LlmopsError as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""


def load_apart(url: str, folder: Path, *tables: dict[str, Any]) -> Any:
    """Tables of the data set `acme/sums` but for the keys given, in a process of their own: the hub client reads its
    environment once, when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    usual = {"name": "sums", "source": "hf:acme/sums@v2", "columns": OF_RECORDS}
    argument = json.dumps([[{**usual, **table} for table in tables], url, str(folder / "kept")])
    done = subprocess.run(
        [sys.executable, "-c", APART, argument], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SOUND = ({}, {"source": "hf:acme/table@v2"}, {"source": "hf:acme/cells@v2", "columns": None})
WRONG = ({"source": "hf:acme/none"}, {"columns": {"inputs.question": "question"}})


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """What a stand-in of the Hugging Face hub gave for these tables, the folder of copies, and the paths asked for."""
    folder = tmp_path_factory.mktemp("streamed")
    with answering(hub_answer) as (url, asked):
        return load_apart(url, folder, *SOUND, *WRONG), folder, asked


def test_a_data_set_of_the_hub_is_streamed_and_then_read_from_its_copy(streamed, folder):
    (*first, _, _), copies, asked = streamed
    local = loaded(folder, "t.jsonl", OF_RECORDS)
    (folder / "cells.csv").write_bytes(HUB_CELLS)
    cells = find_eval_set(folder / "cells.csv")
    assert load_apart("http://127.0.0.1:9", copies, *SOUND) == first
    assert first == [[20, local.content_hash, ids(local)]] * 2 + [[2, cells.content_hash, ["007", "1.0"]]]
    assert any("/resolve/v2/" in path or path.endswith("/revision/v2") for path in asked)


def test_what_the_hub_does_not_give_or_a_wrong_row_of_it_is_an_error_of_one_line_and_leaves_no_copy(streamed):
    (*_, (kind, message), (of_row, problem)), copies, _ = streamed
    assert (kind, of_row) == ("CannotRun", "BadFile")
    assert message.startswith("hf:acme/none cannot be read: ")
    assert "\n" not in message
    assert problem.startswith("hf:acme/sums@v2/data/test.jsonl:1: inputs.question: no column 'question'")
    assert len(list((copies / "kept").glob("*.jsonl"))) == len(SOUND)
    assert not list((copies / "kept").glob(".*"))
