"""What a tabular model reads and gives back: named columns, each of one kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmops.errors import Corrupted, UsageError
from llmops.text_io import listed

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["integer", "number", "text", "boolean"]
Task = Literal["regression", "classification"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. nullable: a row may hold null there. categories: the only texts allowed; empty: any."""

    name: str
    kind: Kind
    nullable: bool = False
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not isinstance(self.name, str) or not self.name:
            raise UsageError("a column needs a name")
        if self.kind not in get_args(Kind):
            raise UsageError(f"column {self.name!r}: kind must be one of {', '.join(get_args(Kind))}, not {self.kind}")
        if self.categories and self.kind != "text":
            raise UsageError(f"column {self.name!r}: only a text column has categories")
        if not all(isinstance(category, str) for category in self.categories):
            raise UsageError(f"column {self.name!r}: categories must be texts")


@dataclass(frozen=True, slots=True)
class RowSchema:
    """The input columns in the order of training, and what is predicted: a number or a class."""

    inputs: tuple[Column, ...]
    output: Column
    task: Task

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not self.inputs:
            raise UsageError("a row needs a column")
        names = self.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"columns named twice: {', '.join(twice)}")
        if self.task not in get_args(Task):
            raise UsageError(f"task must be one of {', '.join(get_args(Task))}, not {self.task}")
        if self.task == "regression" and self.output.kind not in ("integer", "number"):
            raise UsageError(f"a regression predicts numbers, not {self.output.kind}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(column.name for column in self.inputs)

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON values; equal schemas give equal JSON."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return value

    @classmethod
    def from_json(cls, value: Any) -> RowSchema:
        """The inverse of `to_json`. Raises Corrupted where `value` is no schema."""
        try:
            *inputs, output = (
                Column(each["name"], each["kind"], bool(each["nullable"]), tuple(each["categories"]))
                for each in (*value["inputs"], value["output"])
            )
            return cls(tuple(inputs), output, value["task"])
        except (KeyError, TypeError, UsageError) as error:
            raise Corrupted(f"no schema of rows: {error!s}") from error


# Rows of JSON as arrays, one for each column, or the first thing that is wrong with them.
#
# A column whose values all have the very type that its kind means is checked and converted in C; only other columns are
# looked at value by value. The arrays are what estimators are trained on: integers are int64, numbers float64, booleans
# bool, and texts objects of str. A nullable column has NaN for null, and so float64 where it is no text.

LONGEST_TEXT = 1000
"""Characters that a text in a row may have."""
LARGEST_INTEGER = 2**53
"""Integers beyond it, either way, are refused: estimators compute in float64, which cannot tell them apart."""

_EXPECTED: Mapping[Kind, str] = {
    "integer": "a whole number",
    "number": "a number",
    "text": "text",
    "boolean": "true or false",
}
_TYPES: Mapping[Kind, set[type]] = {"integer": {int}, "number": {int, float}, "text": {str}, "boolean": {bool}}
_MOST_NAMED = 10
_LONGEST_NAMED = 60


class BadRow(UsageError):
    """A row that the model cannot read. row: its position from 0. column: None where the whole row is wrong."""

    def __init__(self, row: int, column: str | None, problem: str) -> None:
        self.row, self.column, self.problem = row, column, problem
        where = f"row {row}" if column is None else f"row {row}, column {_shown(column)}"
        super().__init__(f"{where}: {problem}")


def columns_of(schema: RowSchema, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The rows' columns by name, in the schema's order, each with a value for each row.

    Every column must be there, nullable ones too, and no other. A whole float (3.0) is an integer, an integer a number;
    true and false are neither. NaN and infinities are refused, null where the column is not nullable too.

    Raises BadRow: of the first row that is wrong; within it, of the schema's first column.
    """
    names = schema.names
    if not rows:
        return {column.name: _array(column, []) for column in schema.inputs}
    _check_names(names, rows)
    pick = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)  # always a tuple
    values = zip(*map(pick, rows), strict=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    problems: list[BadRow] = []
    for column, of_column in zip(schema.inputs, values, strict=True):
        array = _at_once(column, of_column)
        if array is None:
            try:
                array = _array(column, [_cell(column, row, value) for row, value in enumerate(of_column)])
            except BadRow as problem:
                problems.append(problem)
                continue
        arrays[column.name] = array
    if problems:
        raise min(problems, key=lambda problem: problem.row)
    return arrays


def _check_names(names: tuple[str, ...], rows: Sequence[Any]) -> None:
    expected = frozenset(names)
    for number, row in enumerate(rows):
        if type(row) is not dict and not isinstance(row, Mapping):
            raise BadRow(number, None, f"must be an object with a value for each column, not {_type_name(row)}")
        if row.keys() != expected:
            missing = [name for name in names if name not in row]
            if missing:
                others = f", as {'is' if len(missing) == 2 else 'are'} {_named(missing[1:])}" if missing[1:] else ""
                raise BadRow(number, missing[0], f"is missing{others}")
            unknown = next(str(name) for name in row if name not in expected)
            raise BadRow(number, unknown, f"is unknown; the model reads {_named(names)}")


def _at_once(column: Column, values: tuple[Any, ...]) -> np.ndarray[Any, Any] | None:
    """The column's array where all values have the type meant and are fine; None where they must be looked at."""
    types = set(map(type, values))
    given: Sequence[Any] = values
    if column.nullable and NoneType in types:
        types.remove(NoneType)
        given = [value for value in values if value is not None]
        values = tuple(math.nan if value is None else value for value in values)
    if not types <= _TYPES[column.kind]:
        return None
    is_fine = True
    if column.categories:
        is_fine = set(given) <= set(column.categories)
    elif column.kind == "text":
        is_fine = max(map(len, given), default=0) <= LONGEST_TEXT
    elif column.kind == "integer":
        is_fine = min(given, default=0) >= -LARGEST_INTEGER and max(given, default=0) <= LARGEST_INTEGER
    elif column.kind == "number":
        try:
            is_fine = all(map(math.isfinite, given))
        except OverflowError:  # an integer beyond any float
            return None
    return _array(column, values) if is_fine else None


def _array(column: Column, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if column.kind == "text":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    if column.kind == "number" or column.nullable:
        return np.array(values, dtype=np.float64)
    return np.array(values, dtype=np.int64 if column.kind == "integer" else np.bool_)


def _cell(column: Column, row: int, value: Any) -> Any:
    """A value as its column's array holds it. Raises BadRow."""
    import numpy as np

    if isinstance(value, np.generic):  # a caller in the process may have read it from an array
        value = value.item()
    if value is None and column.nullable:
        return math.nan
    wanted = _EXPECTED[column.kind]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_right = {"text": isinstance(value, str), "boolean": isinstance(value, bool)}.get(column.kind, is_number)
    problem = None if is_right else f"must be {wanted}, not {_type_name(value)}"
    if is_right and column.kind == "text":
        if len(value) > LONGEST_TEXT:
            problem = f"is too long: {len(value)} characters, at most {LONGEST_TEXT}"
        elif column.categories and value not in column.categories:
            problem = f"must be one of {_named(column.categories)}, not {_shown(value)}"
    elif is_right and is_number:
        problem = _number_problem(column.kind, value)
    if problem is not None:
        raise BadRow(row, column.name, problem)
    return int(value) if column.kind == "integer" else float(value) if column.kind == "number" else value


def _number_problem(kind: Kind, value: float) -> str | None:
    """Why a column cannot hold a number."""
    if kind == "integer" and abs(value) > LARGEST_INTEGER and value not in (math.inf, -math.inf):
        return "is too large: beyond 2**53"
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        is_finite = False
    if not is_finite:
        return f"must be {_EXPECTED[kind]}, not NaN or infinite"
    return f"must be {_EXPECTED[kind]}, not a fraction" if kind == "integer" and value != int(value) else None


def _type_name(value: Any) -> str:
    """JSON's name of the value's type; of a fraction it says so, since a whole number is a number too."""
    names = {bool: "true or false", str: "text", int: "a number", float: "a number", dict: "an object", list: "a list"}
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        return "a fraction"
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _named(names: Sequence[str]) -> str:
    return listed([_shown(name) for name in names], _MOST_NAMED)


def _shown(text: str) -> str:
    """Quoted, on one line, and short: it may be whatever a stranger sent."""
    return repr(text if len(text) <= _LONGEST_NAMED else f"{text[:_LONGEST_NAMED]}…")
