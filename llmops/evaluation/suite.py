"""Suites: `eval_sets/<suite>.toml`, one task each: eval sets, prompt, default model, scorers, gate."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, UnknownVersion, UsageError
from llmops.evaluation.eval_set import EvalRow, EvalSet, load_eval_set
from llmops.evaluation.gate import GateRules
from llmops.evaluation.scorers import Scorer, make_scorer

_KEYS = {"description", "eval_sets", "prompt", "model", "scorers", "gate"}


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """A scorer as the suite asks for it."""

    name: str
    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True)
class Suite:
    """One evaluation task. `make_scorers` gives fresh scorers."""

    name: str
    description: str
    eval_sets: tuple[EvalSet, ...]
    prompt: str
    model: str
    scorer_specs: tuple[ScorerSpec, ...]
    gate: GateRules

    @property
    def rows(self) -> tuple[EvalRow, ...]:
        """Rows of all eval sets, in order."""
        return tuple(row for eval_set in self.eval_sets for row in eval_set.rows)

    def make_scorers(self) -> list[Scorer]:
        return [make_scorer(spec.name, spec.type, spec.parameters) for spec in self.scorer_specs]


def suite_names(folder: Path) -> list[str]:
    """Names of the suites in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_suite(folder: Path, name: str) -> Suite:
    """Reads `folder/<name>.toml` and its eval sets.

    Raises:
        UnknownVersion: there is no such suite. BadFile: naming file and field.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(suite_names(folder)) or "none"
        raise UnknownVersion(f"no suite {name!r} in {folder}; there are {known}")
    values = _read(path)
    eval_sets = _texts(values, "eval_sets", path)
    specs = tuple(_scorer_spec(key, value, path) for key, value in _table(values, "scorers", path).items())
    if not specs:
        raise BadFile(path, "must name at least one scorer", field="scorers")
    loaded = tuple(load_eval_set(folder / eval_set) for eval_set in eval_sets)
    _check_ids(loaded, path)
    gate = _gate(_table(values, "gate", path), {spec.name for spec in specs}, path)
    return Suite(
        name, str(values.get("description", "")), loaded, _text(values, "prompt", path), _text(values, "model", path),
        specs, gate,
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadFile(path, f"not TOML: {error}") from error
    if unknown := sorted(values.keys() - _KEYS):
        raise BadFile(path, f"unknown key; known: {', '.join(sorted(_KEYS))}", field=unknown[0])
    return values


def _text(values: Mapping[str, Any], name: str, path: Path) -> str:
    if not isinstance(values.get(name), str) or not values[name]:
        raise BadFile(path, "must be text", field=name)
    return str(values[name])


def _texts(values: Mapping[str, Any], name: str, path: Path) -> list[str]:
    found = values.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise BadFile(path, "must be a list of names", field=name)
    return found


def _table(values: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = values.get(name, {})
    if not isinstance(found, dict):
        raise BadFile(path, "must be a table", field=name)
    return found


def _scorer_spec(name: str, value: Any, path: Path) -> ScorerSpec:
    if not isinstance(value, dict):
        raise BadFile(path, "must be a table", field=f"scorers.{name}")
    parameters = {key: item for key, item in value.items() if key != "type"}
    if "schema_file" in parameters:
        schema_path = path.parent / str(parameters.pop("schema_file"))
        try:
            parameters["schema"] = json.loads(schema_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadFile(schema_path, f"not a JSON file: {error}", field=f"scorers.{name}.schema_file") from error
    spec = ScorerSpec(name, str(value.get("type", name)), parameters)
    try:
        make_scorer(spec.name, spec.type, spec.parameters)
    except UsageError as error:
        raise BadFile(path, str(error), field=f"scorers.{name}") from error
    return spec


def _check_ids(eval_sets: tuple[EvalSet, ...], path: Path) -> None:
    seen: set[str] = set()
    for eval_set in eval_sets:
        for row in eval_set.rows:
            if row.id in seen:
                raise BadFile(path, f"row id {row.id!r} stands in two eval sets", field="eval_sets")
            seen.add(row.id)


def _gate(values: Mapping[str, Any], scorers: set[str], path: Path) -> GateRules:
    try:
        rules = GateRules.from_mapping(values)
    except UsageError as error:
        name, _, problem = str(error).partition(": ")
        raise BadFile(path, problem, field=f"gate.{name}") from error
    for name in (rules.primary, *rules.floors):
        if name not in scorers:
            raise BadFile(path, f"names {name!r}, which is no scorer of this suite", field="gate")
    return rules
