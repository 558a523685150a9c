from __future__ import annotations

from pathlib import Path

import pytest

from labs.csv_files import converted, read_columns, require_columns
from llmops.errors import BadFile


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    return path


def test_values_stay_text_and_rows_know_their_line(tmp_path: Path) -> None:
    table = read_columns(written(tmp_path, b'\xef\xbb\xbfa,b\r\n007,"x\ny"\r\n\r\n,2\r\n'))
    assert table.to_dict("list") == {"a": ["007", ""], "b": ["x\ny", "2"]}
    assert table.index.tolist() == [3, 5]  # the last line of each


def test_columns_can_be_named_where_the_first_line_does_not(tmp_path: Path) -> None:
    table = read_columns(written(tmp_path, b"2,junk\n1,2\n"), ("x", "y"))
    assert table.to_dict("list") == {"x": ["1"], "y": ["2"]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "data.csv: holds no rows"),
        (b"a,b\n", "data.csv: holds no rows"),
        (b"a,b\n1,2\n1,2,3\n", "data.csv:3: has 3 values; there are 2 columns"),
        (b"a,b\n1\n", "data.csv:2: has 1 values; there are 2 columns"),
        (b"a,a\n1,2\n", "data.csv:1: names the column 'a' twice"),
        (b"a,b\n1,\xff\n", "data.csv: is not UTF-8 text"),
        (b'a,b\n1,"2\n', "data.csv:2: no CSV: "),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(BadFile) as caught:
        read_columns(written(tmp_path, content))
    assert problem in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read"):
        read_columns(tmp_path)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"d\.csv:1: has no column 'x', 'y'"):
        require_columns(Path("d.csv"), ["a"], ("a", "x", "y"))


def test_the_first_value_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, b'a\n1\n""\nsix\nseven\n')
    table = read_columns(path)
    with pytest.raises(BadFile, match=r"data\.csv:4: a: must be a whole number, not 'six'"):
        converted(path, table["a"], int, "a whole number")


def test_empty_values_are_missing_ones(tmp_path: Path) -> None:
    path = written(tmp_path, b"a,b\n1,\n,\n")
    table = read_columns(path)
    assert converted(path, table["a"], int, "").isna().tolist() == [False, True]
    nothing = converted(path, table["b"], int, "")
    assert nothing.isna().all()
    assert nothing.dtype == "float64"
