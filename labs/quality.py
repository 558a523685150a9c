"""What was wrong with a file of data and what was done about it, every row and value counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["dropped", "imputed", "repaired", "missing", "suspect", "checked"]
"""dropped: rows left out. imputed: values put where there was none. repaired: values that were wrong, or in the wrong
place. missing: what should be there and is not. suspect: values kept that are hard to believe. checked: values compared
with what they must be, that agree."""


@dataclass(frozen=True, slots=True)
class Finding:
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
    """rows_read: of the file. rows_kept: of the finished table. sha256: of the file's bytes."""

    source: str
    sha256: str
    rows_read: int
    rows_kept: int
    findings: tuple[Finding, ...]
    columns: tuple[ColumnProfile, ...]

    def count(self, kind: Kind, column: str | None = None) -> int:
        """Rows or values found of that kind, in that column where one is named."""
        return sum(f.count for f in self.findings if f.kind == kind and column in (None, f.column))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> str:
        """The report as a page: what was found, then the finished table's columns."""
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
                f"| {c.name} | {c.kind} | {c.missing:,} | {c.distinct:,} | {_shown(c.lowest)} | {_shown(c.highest)} |"
                f" {_shown(c.mean)} |"
                for c in self.columns
            ),
            "",
        ]
        return "\n".join(lines)


def profiles(table: Any) -> tuple[ColumnProfile, ...]:
    """A profile of each column of a pandas DataFrame."""
    return tuple(_profile(str(name), table[name]) for name in table.columns)


def found(kind: Kind, column: str | None, count: int, what: str) -> Sequence[Finding]:
    """The finding, in a list; an empty one where nothing was found."""
    return [Finding(kind, column, int(count), what)] if count else []


def _profile(name: str, column: Any) -> ColumnProfile:
    missing, distinct = int(column.isna().sum()), int(column.nunique())
    if column.dtype.kind not in "iuf" or missing == len(column):
        return ColumnProfile(name, str(column.dtype), missing, distinct, None, None, None)
    low, high, mean = float(column.min()), float(column.max()), float(column.mean())
    return ColumnProfile(name, str(column.dtype), missing, distinct, low, high, mean)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
