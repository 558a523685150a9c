"""Eval sets: rows of inputs and expectations in `eval_sets/<name>/rows.jsonl`, identified by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.errors import BadFile
from llmops.hashing import content_hash
from llmops.json_lines import json_object, numbered_lines

_FIELDS = {"id", "inputs", "expectations", "contexts", "tags"}


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One question to the system, and what a good answer is measured by.

    inputs: the prompt's variables, all text. expectations: what scorers compare with (`expected_response`, `answers`,
    `expected_json` …). contexts: texts given or retrieved. tags: slices.
    """

    id: str
    inputs: Mapping[str, str]
    expectations: Mapping[str, Any] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "inputs": dict(self.inputs),
            "expectations": dict(self.expectations),
            "contexts": list(self.contexts),
            "tags": dict(self.tags),
        }


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Rows under a name. Two eval sets with the same content hash hold the same rows in the same order."""

    name: str
    rows: tuple[EvalRow, ...]

    @property
    def content_hash(self) -> str:
        return content_hash([row.to_json() for row in self.rows])

    def first(self, limit: int | None) -> EvalSet:
        """The eval set of the first `limit` rows; itself when None."""
        return self if limit is None else EvalSet(self.name, self.rows[:limit])


def load_eval_set(folder: Path) -> EvalSet:
    """Reads `folder/rows.jsonl`; every row is checked before any is returned.

    Raises:
        BadFile: naming file, line and field of the first wrong row.
    """
    path = folder / "rows.jsonl"
    rows: dict[str, EvalRow] = {}
    for number, line in numbered_lines(path):
        row = parse_row(line, path, number)
        if row.id in rows:
            raise BadFile(path, f"{row.id!r} stands on two rows", line=number, field="id")
        rows[row.id] = row
    if not rows:
        raise BadFile(path, "holds no rows")
    return EvalSet(folder.name, tuple(rows.values()))


def parse_row(line: str, path: Path | str, number: int) -> EvalRow:
    """One JSON line as a row. Raises BadFile."""
    values = json_object(line, path, number)
    if unknown := sorted(values.keys() - _FIELDS):
        raise BadFile(path, f"unknown field; known: {', '.join(sorted(_FIELDS))}", line=number, field=unknown[0])

    for name, check, problem in _CHECKS:
        if not check(values.get(name)):
            raise BadFile(path, problem, line=number, field=name)
    for name, value in values["inputs"].items():
        if not isinstance(value, str) or not value.strip():
            raise BadFile(path, "must be text, and not empty", line=number, field=f"inputs.{name}")
    return EvalRow(
        values["id"],
        values["inputs"],
        values.get("expectations") or {},
        tuple(values.get("contexts") or ()),
        values.get("tags") or {},
    )


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("id", lambda value: isinstance(value, str) and value != "", "must be text"),
    ("inputs", lambda value: isinstance(value, dict) and bool(value), "must be an object with at least one field"),
    ("expectations", lambda value: value is None or isinstance(value, dict), "must be an object"),
    ("contexts", lambda value: value is None or (isinstance(value, list) and _texts(value)), "must be a list of texts"),
    (
        "tags",
        lambda value: value is None or (isinstance(value, dict) and _texts(value.values())),
        "must be an object of texts",
    ),
)
