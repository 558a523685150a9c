"""The kind `json_schema`: whether a text is JSON that follows a schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmops.errors import BadFile, UsageError
from llmops.evaluation.scorers.json_scorers import read_json as read_json_text
from llmops.json_lines import read_json
from llmops.json_schema import schema_validator
from llmops.settings import Settings
from monitoring.descriptors.computation import Computation, each
from monitoring.tables import Table


def make_json_schema(table: Table, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`schema` (inline) or `schema_file`. References to other addresses are refused: nothing is fetched.

    Raises:
        BadFile: no schema, or not a valid one.
    """
    schema = _schema(table)
    return Computation(each(_follows(schema, table)), {"schema": schema})


def _schema(table: Table) -> dict[str, Any]:
    if "schema_file" not in table.values:
        return table.mapping("schema")
    path = table.path("schema_file")
    try:
        schema = read_json(path)
    except BadFile as error:
        raise table.wrong("schema_file", str(error)) from error
    if not isinstance(schema, dict):
        raise table.wrong("schema_file", f"{path} holds no schema object")
    return schema


def _follows(schema: dict[str, Any], table: Table) -> Callable[[str], bool]:
    try:
        validator = schema_validator(schema, linear_patterns=True)
    except UsageError as error:
        place, _, problem = str(error).partition(": ")
        raise table.wrong(place, problem) from error

    def follows(text: str) -> bool:
        value, problem = read_json_text(text)
        return problem is None and bool(validator.is_valid(value))

    return follows
