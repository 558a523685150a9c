"""Tables of data: read from CSV, checked, with a report of what was done; and rows with their truth, to train on.

A row of a table knows the line of its file, so that whatever is wrong can be pointed at.
"""

import csv
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from labs.sources import FetchedData, fetch_data
from llmops.errors import BadFile
from llmops.settings import Settings

Kind = Literal["dropped", "imputed", "repaired", "missing", "suspect", "checked"]
"""dropped: rows left out. imputed: values put where there was none. repaired: values that were wrong, or in the wrong
place. missing: what should be there and is not. suspect: values kept that are hard to believe. checked: values compared
with what they must be, that agree."""


@dataclass(frozen=True, slots=True)
class DataFinding:
    """One thing found. column: None where whole rows are meant. count: of rows or values. what: a sentence."""

    kind: Kind
    column: str | None
    count: int
    what: str


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """A column of the finished table. lowest, highest, mean: None for texts and dates."""

    name: str
    kind: str
    missing: int
    distinct: int
    lowest: float | None
    highest: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What was wrong with a file of data and what was done about it, every row and value counted.

    rows_read: of the file.
    rows_kept: of the finished table.
    sha256: of the file's bytes.
    """

    source: str
    sha256: str
    rows_read: int
    rows_kept: int
    findings: tuple[DataFinding, ...]
    columns: tuple[ColumnProfile, ...]

    def count(self, kind: Kind, column: str | None = None) -> int:
        """Rows or values found of that kind, in that column where one is named."""
        return sum(f.count for f in self.findings if f.kind == kind and column in (None, f.column))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> str:
        """The report as a page: what was found, then the finished table's columns."""

        def shown(value: float | None) -> str:
            return "" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"

        lines = [
            "# Data quality",
            "",
            f"`{self.source}`, sha256 `{self.sha256}`: {self.rows_read:,} rows read, {self.rows_kept:,} kept.",
            "",
            "| found | column | count | what |",
            "| --- | --- | --: | --- |",
            *(f"| {f.kind} | {f.column or ''} | {f.count:,} | {f.what} |" for f in self.findings),
            "",
            "| column | kind | missing | distinct | lowest | highest | mean |",
            "| --- | --- | --: | --: | --: | --: | --: |",
            *(
                f"| {c.name} | {c.kind} | {c.missing:,} | {c.distinct:,} | {shown(c.lowest)} | {shown(c.highest)} |"
                f" {shown(c.mean)} |"
                for c in self.columns
            ),
            "",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, slots=True)
class LabData:
    """table: a pandas DataFrame, checked and cleaned. fetched: the file it is from."""

    table: Any
    quality: QualityReport
    fetched: FetchedData


def load_data(
    name: str, clean: Callable[[Path], tuple[Any, int, Sequence[DataFinding]]], settings: Settings, source: str | None
) -> LabData:
    """Fetches, checks and cleans the data of a lab.

    name: of the catalogue's entry.
    clean: makes of the file the finished table, the number of rows read, and what was done on the way.
    source: `file:PATH`; the catalogue's own when None.

    Raises:
        CannotRun: cannot be fetched. Corrupted: other bytes than the catalogue's. BadFile: names line and field.
    """
    return checked_data(fetch_data(name, settings, source), clean)


def checked_data(fetched: FetchedData, clean: Callable[[Path], tuple[Any, int, Sequence[DataFinding]]]) -> LabData:
    """Checks and cleans data that was fetched, as `load_data` does. Raises BadFile."""
    table, rows_read, findings = clean(fetched.path)
    columns = tuple(_profile(str(name), table[name]) for name in table.columns)
    report = QualityReport(fetched.source, fetched.sha256, rows_read, len(table), tuple(findings), columns)
    return LabData(table, report, fetched)


def _profile(name: str, column: Any) -> ColumnProfile:
    missing, distinct = int(column.isna().sum()), int(column.nunique())
    is_number = column.dtype.kind in "iuf" and missing < len(column)
    low, high, mean = (float(getattr(column, of)()) if is_number else None for of in ("min", "max", "mean"))
    return ColumnProfile(name, str(column.dtype), missing, distinct, low, high, mean)


def found(kind: Kind, column: str | None, count: int, what: str) -> Sequence[DataFinding]:
    """The finding, in a list; an empty one where nothing was found."""
    return [DataFinding(kind, column, int(count), what)] if count else []


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
            for row in filter(None, reader):
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


def converted(path: Path, column: Any, convert: Callable[[str], Any], meaning: str) -> Any:
    """The column with every text converted; empty ones become None.

    convert: raises ValueError or KeyError for a text that is none.
    meaning: what a value must be, for the error.

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


def finite(text: str) -> float:
    """A number as text. Raises ValueError: none, or an infinite one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def check_table(path: Path, table: Any, schema: Any) -> Any:
    """The table, as the schema returns it.

    table: a pandas DataFrame whose index is the line of the file.
    schema: a pandera DataFrameSchema, whose checks have texts of the form "must be …".

    Raises:
        BadFile: names the first line that does not fit, and the field.
    """
    from pandera.errors import SchemaErrors

    try:
        return schema.validate(table, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases
        by_line = failures.dropna(subset=["index"])
        if by_line.empty:  # a whole column is at fault
            first = failures.iloc[0]
            raise BadFile(path, f"{first['check']}, found {first['failure_case']}", field=first["column"]) from error
        first = by_line.sort_values("index", kind="stable").iloc[0]
        line, column = int(first["index"]), first["column"]
        if first["schema_context"] != "Column":  # a check of several columns
            raise BadFile(path, str(first["check"]), line=line) from error
        raise BadFile(path, f"{first['check']}, not {table.loc[line, column]}", line=line, field=column) from error


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows with their truth: what models are trained and judged on.

    features: a pandas DataFrame with the columns that a model reads, in their order.
    truth: a numpy array, one value for each row, of what a model should say.
    target: the truth's name.
    ids: of each row, unique.
    clusters: for each row what it shares with others, so that they are not independent (hours of one day).
    source: of the file they come from.
    tags: for each slice name a value for each row.
    """

    name: str
    features: Any
    truth: Any
    target: str
    ids: Sequence[str]
    clusters: Sequence[str]
    source: str
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def frame(self) -> Any:
        """Features and truth in one DataFrame."""
        return self.features.assign(**{self.target: self.truth})

    @cached_property
    def sha256(self) -> str:
        """In hex, of the rows as CSV: equal for equal rows in the same order, whatever the file they were read from."""
        text = self.frame.to_csv(index_label="id", lineterminator="\n")
        return hashlib.sha256(text.encode()).hexdigest()

    def take(self, name: str, positions: Sequence[int]) -> Self:
        """The rows at these positions, under another name."""
        chosen = [int(position) for position in positions]
        return replace(
            self,
            name=name,
            features=self.features.iloc[chosen],
            truth=self.truth[chosen],
            ids=tuple(self.ids[i] for i in chosen),
            clusters=tuple(self.clusters[i] for i in chosen),
            tags={tag: tuple(values[i] for i in chosen) for tag, values in self.tags.items()},
        )

    def monitored(self, predictions: Sequence[Any]) -> Any:
        """Features with what the monitor reads besides: `prediction`, `truth`, and `block`, the cluster."""
        return self.features.assign(prediction=predictions, truth=self.truth, block=list(self.clusters))

    def rows(self) -> list[dict[str, Any]]:
        """The features as a request holds them: plain numbers and texts by column name."""
        columns = {name: self.features[name].tolist() for name in self.features.columns}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """training: what a model may be fitted on. holdout: what judges it."""

    training: LabelledRows
    holdout: LabelledRows


def joined(name: str, parts: Sequence[LabelledRows]) -> LabelledRows:
    """The rows of all parts, one after another; at least one part. Parts have the same columns and no tags."""
    import numpy as np
    import pandas as pd

    first = parts[0]
    return LabelledRows(
        name=name,
        features=pd.concat([part.features for part in parts], ignore_index=True),
        truth=np.concatenate([part.truth for part in parts]),
        target=first.target,
        ids=tuple(row for part in parts for row in part.ids),
        clusters=tuple(cluster for part in parts for cluster in part.clusters),
        source=first.source,
    )
