"""CSV files as columns of text with the line each row stood on, so that whatever is wrong can be pointed at."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmops.errors import BadFile


def read_columns(path: Path, names: Sequence[str] | None = None) -> Any:
    """A pandas DataFrame of texts; its index, `line`, is the line of the file. Lines without anything are passed over.

    names: of the columns, where the first line of the file does not hold them.

    Raises:
        BadFile: not UTF-8, no header, or a line with more or fewer values than there are columns.
    """
    import pandas as pd

    lines, rows = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            first_line = next(reader, [])
            header = list(names or first_line)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    problem = f"has {len(row)} values; there are {len(header)} columns"
                    raise BadFile(path, problem, line=reader.line_num)
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise BadFile(path, f"no CSV: {error}", line=reader.line_num) from error
    except UnicodeDecodeError as error:
        raise BadFile(path, "is not UTF-8 text") from error
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from error
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise BadFile(path, f"names the column {twice[0]!r} twice", line=1)
    if not rows:
        raise BadFile(path, "holds no rows")
    return pd.DataFrame(rows, columns=header, index=pd.Index(lines, name="line"), dtype=str)


def require_columns(path: Path, header: Any, wanted: tuple[str, ...]) -> None:
    """Raises BadFile naming the columns that are not there."""
    if missing := [name for name in wanted if name not in header]:
        raise BadFile(path, f"has no column {', '.join(map(repr, missing))}", line=1)


def converted(path: Path, column: Any, convert: Callable[[str], Any], meaning: str) -> Any:
    """The column with every text converted; empty ones become None. meaning: what a value must be.

    convert: raises ValueError or KeyError for a text that is none.

    Raises:
        BadFile: names the line and column of the first such text.
    """
    known: dict[str, Any] = {"": None}
    for line, text in column.items():
        if text not in known:
            try:
                known[text] = convert(text)
            except (ValueError, KeyError) as error:
                raise BadFile(path, f"must be {meaning}, not {text!r}", line=line, field=column.name) from error
    values = column.map(known)
    return values if values.notna().any() else values.astype("float64")  # of nothing pandas makes no numbers by itself
