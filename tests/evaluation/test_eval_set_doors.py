"""The same rows give the same values and the same errors through every door: file, folder, archive."""

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.eval_set_source import ColumnMapping, find_eval_set
from tests.evaluation.eval_set_sources import json_lines, loaded, parquet, refused

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
