"""Rows of JSON as arrays, and what is said of rows that cannot be."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmops.errors import Corrupted, UsageError
from llmops.tabular import BadRow, Column, RowSchema, columns_of
from llmops.tabular.schema import LARGEST_INTEGER, LONGEST_TEXT

SCHEMA = RowSchema(
    (
        Column("hour", "integer"),
        Column("temp", "number"),
        Column("sky", "text", categories=("clear", "rain")),
        Column("holiday", "boolean"),
        Column("note", "text", nullable=True),
        Column("wind", "number", nullable=True),
        Column("day", "integer", nullable=True),
        Column("busy", "boolean", nullable=True),
    ),
    Column("count", "number"),
    "regression",
)
ROW = {"hour": 3, "temp": 0.5, "sky": "clear", "holiday": False, "note": "a", "wind": 1.5, "day": 2,
                       "busy": True}  # fmt: skip
NULLS = {"note": None, "wind": None, "day": None, "busy": None}


def problem(*rows):
    with pytest.raises(BadRow) as refused:
        columns_of(SCHEMA, rows)
    return refused.value


def one(kind, *values):
    schema = RowSchema((Column("x", kind),), SCHEMA.output, "regression")
    return columns_of(schema, [{"x": value} for value in values])["x"]


def test_each_kind_has_its_array_in_the_order_of_the_schema():
    arrays = columns_of(SCHEMA, [dict(reversed(ROW.items())), {**ROW, "hour": 4}])

    assert tuple(arrays) == SCHEMA.names
    kinds = {name: array.dtype.kind for name, array in arrays.items()}
    assert kinds == {"hour": "i", "temp": "f", "sky": "O", "holiday": "b", "note": "O", "wind": "f", "day": "f",
                     "busy": "f"}  # fmt: skip
    assert [array.tolist()[1] for array in arrays.values()] == [4, 0.5, "clear", False, "a", 1.5, 2.0, 1.0]


def test_null_in_a_nullable_column_is_nan_of_any_kind():
    arrays = columns_of(SCHEMA, [ROW, {**ROW, **NULLS}])
    assert all(math.isnan(arrays[name][1]) for name in NULLS)
    assert [arrays[name][0] for name in NULLS] == ["a", 1.5, 2.0, 1.0]

    assert {name: len(array) for name, array in columns_of(SCHEMA, []).items()} == dict.fromkeys(SCHEMA.names, 0)


def test_whole_floats_are_integers_integers_are_numbers_and_scalars_of_numpy_what_they_hold():
    assert one("integer", 3, 4.0).tolist() == [3, 4]
    assert one("integer", 3, 4.0).dtype == np.int64
    assert one("number", 3, 4.5).tolist() == [3.0, 4.5]
    assert one("integer", np.int64(3), np.float64(4.0)).tolist() == [3, 4]
    assert one("boolean", np.bool_(True)).tolist() == [True]
    with pytest.raises(BadRow, match="not NaN"):
        one("number", np.float64("nan"))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("hour", "3", "must be a whole number, not text"),
        ("hour", 3.5, "must be a whole number, not a fraction"),
        ("hour", True, "must be a whole number, not true or false"),
        ("hour", None, "must be a whole number, not null"),
        ("hour", math.inf, "must be a whole number, not NaN or infinite"),
        ("hour", LARGEST_INTEGER + 1, "is too large: beyond 2**53"),
        ("hour", -(10**400), "is too large: beyond 2**53"),
        ("hour", 1e300, "is too large: beyond 2**53"),
        ("day", LARGEST_INTEGER + 1, "is too large: beyond 2**53"),
        ("temp", "warm", "must be a number, not text"),
        ("temp", False, "must be a number, not true or false"),
        ("temp", [1.0], "must be a number, not a list"),
        ("temp", {"at": 1}, "must be a number, not an object"),
        ("temp", math.nan, "must be a number, not NaN or infinite"),
        ("temp", 10**400, "must be a number, not NaN or infinite"),
        ("wind", math.nan, "must be a number, not NaN or infinite"),
        ("sky", 1, "must be text, not a number"),
        ("sky", "fog", "must be one of 'clear', 'rain', not 'fog'"),
        ("sky", None, "must be text, not null"),
        ("note", "x" * 1001, "is too long: 1001 characters, at most 1000"),
        ("holiday", 1, "must be true or false, not a number"),
        ("holiday", "yes", "must be true or false, not text"),
        ("busy", 0, "must be true or false, not a number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_value_is_named_by_row_and_column(column, value, said):
    found = problem(ROW, ROW, ROW, {**ROW, column: value})
    assert (found.row, found.column, found.problem) == (3, column, said)
    assert str(found) == f"row 3, column '{column}': {said}"


def without(*names):
    return {name: value for name, value in ROW.items() if name not in names}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROW, without("temp", "sky", "wind")], "row 1, column 'temp': is missing, as are 'sky', 'wind'"),
        ([{**ROW, "wind": 1}, without("wind")], "row 1, column 'wind': is missing"),  # though null would do
        ([ROW, {**ROW, "season": 1}], "row 1, column 'season': is unknown; the model reads 'hour', 'temp', 'sky', "),
        *(([ROW, row], f"row 1: must be an object with a value for each column, not {kind}")
          for row, kind in ((None, "null"), ([1], "a list"), ("a", "text"), (3, "a number"), (True, "true or false"))),
        # The first wrong row is named, whichever column is wrong in it:
        ([ROW, {**ROW, "busy": 7}, {**ROW, "hour": "x"}], "row 1, column 'busy': "),
        ([{**ROW, "busy": 7, "temp": "x"}], "row 0, column 'temp': "),
    ],
)  # fmt: skip
def test_the_first_row_of_other_columns_is_named_with_what_is_wrong(rows, said):
    found = problem(*rows)
    assert str(found).startswith(said)
    assert not said.endswith("is missing") or str(found) == said
    assert (f"row {found.row}:" if found.column is None else f"row {found.row}, column '{found.column}':") in said


def test_what_a_stranger_sent_is_shown_short_and_on_one_line():
    found = str(problem({**ROW, "\n\ud800" + "x" * 100_000: 1}))
    assert "\n" not in found
    assert len(found) < 300
    found.encode()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([1e300, -1e308])
    | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
nearly_rows = st.fixed_dictionaries(
    {}, optional={column.name: json_values | st.just(ROW[column.name]) for column in SCHEMA.inputs}
)


@given(
    st.lists(
        json_values
        | nearly_rows
        | st.builds(lambda name, value: {**ROW, name: value}, st.sampled_from(SCHEMA.names), json_values),
        max_size=4,
    )
)
@example([{**ROW, "hour": 10**400}])
@example([{**ROW, "note": "\ud800"}])
@example([{**ROW, "hour": -0.0}])
def test_any_json_is_read_or_refused_as_a_bad_row(rows):
    try:
        arrays = columns_of(SCHEMA, rows)
    except BadRow as refused:
        wrong, text = refused.row, str(refused)
    else:
        wrong, text = 0, ""
        assert all(len(array) == len(rows) for array in arrays.values())
    assert 0 <= wrong <= max(len(rows) - 1, 0)
    text.encode()


good_rows = st.fixed_dictionaries(
    {
        "hour": st.integers(-LARGEST_INTEGER, LARGEST_INTEGER),
        "temp": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**15), 10**15),
        "sky": st.sampled_from(["clear", "rain"]),
        "holiday": st.booleans(),
        "note": st.none() | st.text(max_size=LONGEST_TEXT),
        "wind": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "day": st.none() | st.integers(-1000, 1000),
        "busy": st.none() | st.booleans(),
    }
)


@given(st.lists(good_rows, max_size=5))
def test_good_rows_survive_json_and_arrays(rows):
    arrays = columns_of(SCHEMA, json.loads(json.dumps(rows)))
    for name, array in arrays.items():
        assert [None if value != value else value for value in array.tolist()] == [row[name] for row in rows]


@given(st.lists(good_rows, min_size=1, max_size=5))
def test_values_looked_at_one_by_one_give_the_same_arrays(rows):
    slow = [{**row, "hour": np.int64(row["hour"]), "temp": np.float64(row["temp"])} for row in rows]
    for fast, other in zip(columns_of(SCHEMA, rows).values(), columns_of(SCHEMA, slow).values(), strict=True):
        assert fast.dtype == other.dtype
        assert [repr(value) for value in fast.tolist()] == [repr(value) for value in other.tolist()]


def test_a_schema_survives_json():
    assert RowSchema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA


OUTPUT = SCHEMA.to_json()["output"]


@pytest.mark.parametrize("broken", [None, 3, [], {}, {"inputs": []}, {**SCHEMA.to_json(), "task": "ranking"},
                                    {**SCHEMA.to_json(), "inputs": [{"name": "a"}]},
                                    {**SCHEMA.to_json(), "inputs": 5}, {**SCHEMA.to_json(), "task": ["regression"]},
                                    {**SCHEMA.to_json(), "output": {**OUTPUT, "kind": ["number"]}}])  # fmt: skip
def test_what_is_no_schema_is_refused(broken):
    with pytest.raises(Corrupted, match="no schema of rows"):
        RowSchema.from_json(broken)


HOUR = Column("hour", "integer")


@pytest.mark.parametrize(
    ("define", "said"),
    [
        (lambda: RowSchema((HOUR, Column("hour", "number")), SCHEMA.output, "regression"), "named twice: hour"),
        (lambda: RowSchema((HOUR,), Column("sky", "text"), "regression"), "predicts numbers, not text"),
        (lambda: Column("hour", "integer", categories=("1", "2")), "only a text column"),
        (lambda: Column("", "integer"), "needs a name"),
        (lambda: Column("hour", "date"), "integer, number, text, boolean"),  # type: ignore[arg-type]
    ],
)
def test_what_no_column_or_schema_can_be_is_named(define, said):
    with pytest.raises(UsageError, match=said):
        define()
