"""What a tabular model reads and gives back: named columns, each of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmops.errors import Corrupted, UsageError

Kind = Literal["integer", "number", "text", "boolean"]
Task = Literal["regression", "classification"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. nullable: whether a row may hold null there. categories: the only texts it may hold; empty where any
    text will do."""

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

    def to_json(self) -> dict[str, Any]:
        """The column as plain JSON values, all of them named."""
        return {
            "name": self.name,
            "kind": self.kind,
            "nullable": self.nullable,
            "categories": list(self.categories),
        }


@dataclass(frozen=True, slots=True)
class RowSchema:
    """The columns of a row in the order the model was trained on, what it predicts, and whether that is a number
    (`regression`) or a class (`classification`)."""

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
        return {
            "inputs": [column.to_json() for column in self.inputs],
            "output": self.output.to_json(),
            "task": self.task,
        }

    @classmethod
    def from_json(cls, value: Any) -> RowSchema:
        """The inverse of `to_json`. Raises Corrupted where `value` is no schema."""
        try:
            inputs = tuple(_column(item) for item in value["inputs"])
            return cls(inputs, _column(value["output"]), value["task"])
        except (KeyError, TypeError, UsageError) as error:
            raise Corrupted(f"no schema of rows: {error!s}") from error


def _column(value: Mapping[str, Any]) -> Column:
    return Column(value["name"], value["kind"], bool(value["nullable"]), tuple(value["categories"]))
