"""A table against its pandera schema; what does not fit is an error that names file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops.errors import BadFile


def check_table(path: Path, table: Any, schema: Any) -> Any:
    """The table, as the schema returns it.

    table: a pandas DataFrame whose index is the line of the file. schema: a pandera DataFrameSchema, whose checks have
    texts of the form "must be …".

    Raises:
        BadFile: the first line that does not fit.
    """
    from pandera.errors import SchemaErrors

    try:
        return schema.validate(table, lazy=True)
    except SchemaErrors as error:
        raise _bad_file(path, table, error.failure_cases) from error


def _bad_file(path: Path, table: Any, failures: Any) -> BadFile:
    """failures: pandera's; without a line where a whole column is at fault."""
    by_line = failures.dropna(subset=["index"])
    if by_line.empty:
        first = failures.iloc[0]
        return BadFile(path, f"{first['check']}, found {first['failure_case']}", field=first["column"])
    first = by_line.sort_values("index", kind="stable").iloc[0]
    line, field = int(first["index"]), first["column"]
    if first["schema_context"] != "Column":  # a check of several columns
        return BadFile(path, str(first["check"]), line=line)
    return BadFile(path, f"{first['check']}, not {table.loc[line, field]}", line=line, field=field)
