"""JSON Lines are read one line at a time, and every error names its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from llmops.json_lines import json_object, numbered_lines


def test_lines_have_their_numbers_in_the_file_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"one\r\n\n  \t\ntwo\nthree")

    assert list(numbered_lines(path)) == [(1, "one"), (4, "two"), (5, "three")]


@given(st.lists(st.dictionaries(st.text(), st.text())))
def test_what_was_written_as_one_object_a_line_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    texts = [json.dumps(row, ensure_ascii=False).encode(errors="replace") for row in rows]
    path.write_bytes(b"\n".join(texts))

    read = [json_object(line, path, number) for number, line in numbered_lines(path)]

    assert read == [json.loads(text) for text in texts]


def test_bytes_that_are_no_utf8_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"fine\n\nbad \xff\nfine")

    with pytest.raises(BadFile, match="cannot be read") as caught:
        list(numbered_lines(path))

    assert caught.value.line == 3


def test_lines_before_a_bad_one_are_given_first(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"fine\n\xff")

    assert next(numbered_lines(path)) == (1, "fine")


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_what_cannot_be_opened_is_a_bad_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFile, match="cannot be read"):
        list(numbered_lines(tmp_path / name))


@pytest.mark.parametrize(("line", "problem"), [("{", "not JSON"), ("[1]", "must be a JSON object"), ("3", "object")])
def test_a_line_that_is_no_object_is_named(line: str, problem: str) -> None:
    with pytest.raises(BadFile, match=problem) as caught:
        json_object(line, "x.jsonl", 7)

    assert caught.value.line == 7
