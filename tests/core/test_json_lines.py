"""JSON Lines are read one line at a time, and every error names its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from llmops.text_io import json_object, numbered_lines, read_json


def test_lines_have_their_numbers_in_the_file_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"one\r\n\n  \t\ntwo\nthree")

    assert list(numbered_lines(path)) == [(1, b"one"), (4, b"two"), (5, b"three")]


@given(st.lists(st.dictionaries(st.text(), st.text())))
def test_what_was_written_as_one_object_a_line_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    texts = [json.dumps(row, ensure_ascii=False).encode(errors="replace") for row in rows]
    path.write_bytes(b"\n".join(texts))

    read = [json_object(line, path, number) for number, line in numbered_lines(path)]

    assert read == [json.loads(text) for text in texts]


def test_bytes_that_are_no_utf8_are_named_by_their_line_and_end_no_others(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": "\xff"}\n{"a": 2}')

    (first, *_), (number, bad), (_, last) = numbered_lines(path)

    with pytest.raises(BadFile, match="is no UTF-8") as caught:
        json_object(bad, path, number)
    assert (first, caught.value.line, json_object(last, path, 4)) == (1, 3, {"a": 2})


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_what_cannot_be_opened_is_a_bad_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFile, match="cannot be read"):
        list(numbered_lines(tmp_path / name))


@pytest.mark.parametrize(("line", "problem"), [("{", "not JSON"), ("[1]", "must be a JSON object"), ("3", "object")])
def test_a_line_that_is_no_object_is_named(line: str, problem: str) -> None:
    with pytest.raises(BadFile, match=problem) as caught:
        json_object(line, "x.jsonl", 7)

    assert caught.value.line == 7


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"a": NaN}', "a"),
        ('{"a": {"b": [1, -Infinity]}}', "a.b[1]"),
        ('{"a": 1e400}', "a"),
        ('{"a": {"b": 1, "b": 1}}', "a.b"),
        ('{"a": [{"b": 1, "c": NaN, "b": 2}]}', "a[0].b"),
        ("[" * 100_000, None),
        (f'{{"a": {"9" * 5000}}}', None),
    ],
)
def test_what_only_python_takes_for_json_is_refused_by_its_place(line: str, field: str | None) -> None:
    with pytest.raises(BadFile) as caught:
        json_object(line, "x.jsonl", 7)

    assert (caught.value.line, caught.value.field) == (7, field)


def test_an_error_in_a_file_of_many_lines_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{\n "a": 1,\n}\n')

    with pytest.raises(BadFile) as caught:
        read_json(tmp_path / "x.json")

    assert caught.value.line == 3
