"""What a row of a tabular model holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmops.errors import Corrupted, UsageError
from llmops.tabular import Column, RowSchema

COUNT = Column("count", "number")
SCHEMA = RowSchema(
    (
        Column("hour", "integer"),
        Column("sky", "text", categories=("clear", "rain")),
        Column("wind", "number", nullable=True),
    ),
    COUNT,
    "regression",
)


def test_a_schema_survives_json() -> None:
    assert RowSchema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA


@pytest.mark.parametrize("broken", [None, 3, [], {}, {"inputs": []}, {**SCHEMA.to_json(), "task": "ranking"},
                                    {**SCHEMA.to_json(), "inputs": [{"name": "a"}]}, {**SCHEMA.to_json(), "inputs": 5},
                                    {**SCHEMA.to_json(), "output": {**COUNT.to_json(), "kind": ["number"]}},
                                    {**SCHEMA.to_json(), "task": ["regression"]}])  # fmt: skip
def test_what_is_no_schema_is_refused(broken: Any) -> None:
    with pytest.raises(Corrupted, match="no schema of rows"):
        RowSchema.from_json(broken)


def test_a_name_may_stand_once() -> None:
    with pytest.raises(UsageError, match="named twice: hour"):
        RowSchema((Column("hour", "integer"), Column("hour", "number")), COUNT, "regression")


def test_a_regression_predicts_numbers() -> None:
    with pytest.raises(UsageError, match="predicts numbers, not text"):
        RowSchema((Column("hour", "integer"),), Column("sky", "text"), "regression")


def test_only_texts_have_categories() -> None:
    with pytest.raises(UsageError, match="only a text column"):
        Column("hour", "integer", categories=("1", "2"))


def test_a_column_has_a_name_and_a_known_kind() -> None:
    with pytest.raises(UsageError, match="needs a name"):
        Column("", "integer")
    with pytest.raises(UsageError, match="integer, number, text, boolean"):
        Column("hour", "date")  # type: ignore[arg-type]
