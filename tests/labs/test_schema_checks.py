from __future__ import annotations

from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pytest

from labs.schema_checks import check_table
from llmops.errors import BadFile

PATH = Path("hours.csv")
SCHEMA = pa.DataFrameSchema(
    {
        "hour": pa.Column("int64", pa.Check.in_range(0, 23, error="must be from 0 to 23")),
        "count": pa.Column("int64", pa.Check.ge(0, error="must be 0 or more")),
    },
    checks=pa.Check(lambda table: table["count"] != table["hour"], error="count must not be the hour"),
    strict=True,
)


def table(hours: list[int], counts: list[int], lines: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"hour": hours, "count": counts}, index=pd.Index(lines, name="line"))


def test_a_sound_table_passes() -> None:
    sound = table([0, 23], [5, 7], [2, 3])
    assert check_table(PATH, sound, SCHEMA).equals(sound)


def test_the_first_bad_line_is_named_whatever_the_order() -> None:
    with pytest.raises(BadFile) as caught:
        check_table(PATH, table([1, 99, 24], [-1, 3, 9], [12, 7, 5]), SCHEMA)
    assert str(caught.value) == "hours.csv:5: hour: must be from 0 to 23, not 24"
    assert (caught.value.line, caught.value.field) == (5, "hour")


def test_a_check_of_several_columns_names_the_line() -> None:
    with pytest.raises(BadFile, match=r"^hours\.csv:3: count must not be the hour$"):
        check_table(PATH, table([1, 2], [0, 2], [2, 3]), SCHEMA)


def test_a_column_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(BadFile, match="dtype"):
        check_table(PATH, table([1], [2], [2]).astype({"hour": "float64"}), SCHEMA)
