import json
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from labs.data import (
    ColumnProfile,
    DataFinding,
    LabData,
    check_table,
    converted,
    finite,
    found,
    joined,
    load_data,
    read_columns,
)
from llmops.errors import BadFile
from llmops.settings import Settings
from tests.labs.conftest import numbers

PATH = Path("hours.csv")
SCHEMA = pa.DataFrameSchema(
    {
        "hour": pa.Column("int64", pa.Check.in_range(0, 23, error="must be from 0 to 23")),
        "count": pa.Column("int64", pa.Check.ge(0, error="must be 0 or more")),
    },
    checks=pa.Check(lambda table: table["count"] != table["hour"], error="count must not be the hour"),
    strict=True,
)


def hours(hours: list[int], counts: list[int], lines: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"hour": hours, "count": counts}, index=pd.Index(lines, name="line"))


def test_a_table_is_checked_and_its_first_bad_line_is_named_whatever_the_order():
    sound = hours([0, 23], [5, 7], [2, 3])
    assert check_table(PATH, sound, SCHEMA).equals(sound)
    with pytest.raises(BadFile) as caught:
        check_table(PATH, hours([1, 99, 24], [-1, 3, 9], [12, 7, 5]), SCHEMA)
    assert str(caught.value) == "hours.csv:5: hour: must be from 0 to 23, not 24"
    assert (caught.value.line, caught.value.field) == (5, "hour")
    with pytest.raises(BadFile, match=r"^hours\.csv:3: count must not be the hour$"):
        check_table(PATH, hours([1, 2], [0, 2], [2, 3]), SCHEMA)
    with pytest.raises(BadFile, match="dtype"):
        check_table(PATH, hours([1], [2], [2]).astype({"hour": "float64"}), SCHEMA)


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    return path


def test_values_stay_text_rows_know_their_line_and_columns_can_be_named(tmp_path):
    table = read_columns(written(tmp_path, b'\xef\xbb\xbfa,b\r\n007,"x\ny"\r\n\r\n,2\r\n'))
    assert table.to_dict("list") == {"a": ["007", ""], "b": ["x\ny", "2"]}
    assert table.index.tolist() == [3, 5]  # the last line of each
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
def test_what_is_no_table_is_named_with_its_line(tmp_path, content, problem):
    with pytest.raises(BadFile) as caught:
        read_columns(written(tmp_path, content))
    assert problem in str(caught.value)
    with pytest.raises(BadFile, match="cannot be read"):
        read_columns(tmp_path)


def test_the_first_value_that_cannot_be_converted_is_named_and_empty_ones_are_missing(tmp_path):
    path = written(tmp_path, b'a\n1\n""\nsix\nseven\n')
    with pytest.raises(BadFile, match=r"data\.csv:4: a: must be a whole number, not 'six'"):
        converted(path, read_columns(path)["a"], int, "a whole number")
    path = written(tmp_path, b"a,b\n1,\n,\n")
    table = read_columns(path)
    assert converted(path, table["a"], int, "").isna().tolist() == [False, True]
    nothing = converted(path, table["b"], int, "")
    assert nothing.isna().all()
    assert nothing.dtype == "float64"


def test_numbers_are_finite():
    assert finite("1.5") == 1.5
    for text in ("inf", "nan", "mild"):
        with pytest.raises(ValueError, match=r"."):
            finite(text)


@pytest.fixture
def rentals(tmp_path: Path, settings: Settings) -> LabData:
    table = pd.DataFrame({"n": [1, 2, 2000], "x": [0.5, None, 1.5], "word": ["a", "b", "b"], "none": [None] * 3})
    findings = [DataFinding("dropped", None, 2, "rows that stand twice"), DataFinding("imputed", "x", 3, "empty")]
    return load_data("bike", lambda _path: (table, 5, findings), settings, f"file:{written(tmp_path, b'')}")


def test_data_comes_with_a_report_as_json_and_as_a_page_with_a_profile_of_each_column(rentals):
    values = json.loads(json.dumps(rentals.quality.to_json()))
    assert values["findings"][1] == {"kind": "imputed", "column": "x", "count": 3, "what": "empty"}
    assert (values["source"], values["sha256"]) == (rentals.fetched.source, rentals.fetched.sha256)
    page = rentals.quality.to_markdown()
    assert "5 rows read, 3 kept" in page
    assert "| imputed | x | 3 | empty |" in page
    assert "| n | int64 | 0 | 3 | 1 | 2,000 | 667.7 |" in page
    n, x, word, none = rentals.quality.columns
    assert n == ColumnProfile("n", "int64", 0, 3, 1.0, 2000.0, pytest.approx(667.67, abs=0.01))
    assert (x.missing, x.mean) == (1, 1.0)
    assert (word.lowest, word.mean, word.distinct) == (None, None, 2)
    assert (none.missing, none.lowest) == (3, None)


def test_nothing_found_is_no_finding():
    assert found("missing", "x", 0, "hours") == []
    assert found("missing", "x", 3, "hours") == [DataFinding("missing", "x", 3, "hours")]


def test_equal_rows_have_equal_hashes_and_any_change_another():
    rows = numbers()
    assert rows.sha256 == numbers().sha256
    assert rows.take("first", range(len(rows))).sha256 == rows.sha256  # the name is not content
    assert rows.take("less", range(1, len(rows))).sha256 != rows.sha256
    assert numbers(seed=1).sha256 != rows.sha256


def test_taking_rows_keeps_everything_that_belongs_to_each():
    rows = numbers()
    taken = rows.take("two", np.asarray([7, 0]))
    assert (taken.name, len(taken), taken.ids, taken.clusters) == ("two", 2, ("row-7", "row-0"), ("day 1", "day 0"))
    assert taken.truth.tolist() == [rows.truth[7], rows.truth[0]]
    assert taken.features["b"].tolist() == [rows.features["b"][7], rows.features["b"][0]]
    assert taken.tags["part"] == (rows.tags["part"][7], rows.tags["part"][0])


def test_a_request_holds_plain_values_and_the_monitor_gets_predictions_truth_and_blocks():
    first = numbers().rows()[0]
    assert [type(value) for value in first.values()] == [int, float]
    assert list(first) == ["a", "b"]
    rows = numbers(12)
    frame = rows.monitored(rows.truth + 1)
    assert list(frame.columns) == ["a", "b", "prediction", "truth", "block"]
    assert (frame["prediction"] - frame["truth"]).tolist() == pytest.approx([1.0] * 12)
    assert frame["block"].nunique() == 2


def test_parts_are_joined_in_order():
    first, second = numbers(6, seed=1), numbers(6, seed=2)
    both = joined("both", [first, second])
    assert (both.name, len(both), both.ids) == ("both", 12, first.ids + second.ids)
    assert both.truth.tolist() == [*first.truth, *second.truth]
    assert both.features["b"].tolist() == [*first.features["b"], *second.features["b"]]
