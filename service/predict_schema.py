"""The rows that a tabular model reads, as JSON Schema for clients: generated from the schema it was registered with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmops.errors import Corrupted
from llmops.tabular import Column, Kind, RowSchema
from llmops.tabular.schema import LARGEST_INTEGER, LONGEST_TEXT
from llmops.versions import TabularVersion

MOST_ROWS = 10_000
"""Rows of one request."""

_PATH = "/v1/predict/{model}"
_TYPES: dict[Kind, dict[str, Any]] = {
    "integer": {"type": "integer", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER},
    "number": {"type": "number"},
    "text": {"type": "string", "maxLength": LONGEST_TEXT},
    "boolean": {"type": "boolean"},
}
_EXAMPLES: dict[Kind, Any] = {"integer": 1, "number": 0.5, "text": "text", "boolean": True}


def row_schema(schema: RowSchema) -> dict[str, Any]:
    """JSON Schema of one row: every column is there, and no other."""
    return {
        "type": "object",
        "properties": {column.name: column_schema(column) for column in schema.inputs},
        "required": list(schema.names),
        "additionalProperties": False,
    }


def column_schema(column: Column) -> dict[str, Any]:
    """JSON Schema of one value."""
    if column.categories:
        return {"enum": [*column.categories, *([None] if column.nullable else [])]}
    kind = _TYPES[column.kind]
    return {**kind, "type": [kind["type"], "null"]} if column.nullable else kind


def example_row(schema: RowSchema) -> dict[str, Any]:
    """A row that the model accepts; its values mean nothing."""
    return {
        column.name: column.categories[0] if column.categories else _EXAMPLES[column.kind] for column in schema.inputs
    }


def typed_paths(document: dict[str, Any], versions: Iterable[TabularVersion]) -> dict[str, Any]:
    """For the OpenAPI document: the route of each model as a path of its own, with its rows and values typed.

    A version whose schema cannot be read is left out; what is wrong with it, readiness says.
    """
    general = document["paths"][_PATH]["post"]
    found = {}
    for version in versions:
        try:
            schema = RowSchema.from_json(version.schema)
        except Corrupted:
            continue
        found[_PATH.replace("{model}", version.name)] = {"post": _operation(general, version, schema)}
    return found


def _operation(general: dict[str, Any], version: TabularVersion, schema: RowSchema) -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "maxItems": MOST_ROWS, "items": row_schema(schema)}
    body = {
        "schema": {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False},
        "example": {"rows": [example_row(schema)]},
    }
    return {
        **{name: value for name, value in general.items() if name != "parameters"},
        "summary": f"Predict {schema.output.name} with {version.name}",
        "description": f"As `{_PATH}`; the champion is {version.ref}.",
        "operationId": f"predict_{version.name}",
        "requestBody": {"required": True, "content": {"application/json": body}},
    }
