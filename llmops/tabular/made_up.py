"""Rows that fit a schema and mean nothing."""

from __future__ import annotations

import random
from typing import Any

from llmops.tabular.schema import Column, RowSchema

_SEED = 0
_NULLS = 0.2


def made_up_rows(schema: RowSchema, count: int) -> list[dict[str, Any]]:
    """Rows with every category and, in nullable columns, nulls; the same ones for the same schema."""
    chance = random.Random(_SEED)  # noqa: S311  no secret
    return [{column.name: _value(column, chance) for column in schema.inputs} for _ in range(count)]


def _value(column: Column, chance: random.Random) -> Any:
    if column.nullable and chance.random() < _NULLS:
        return None
    if column.kind == "text":
        return chance.choice(column.categories or ("a", "b", ""))
    if column.kind == "boolean":
        return chance.random() < 0.5
    number = chance.gauss(0.5, 10 ** chance.randrange(-1, 4))
    return round(number) if column.kind == "integer" else number
