"""Scorers of structured output: is it JSON, does it follow the schema, are the fields right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.json_values import Leaf, aligned, leaves, path_text, same_json
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer
from llmops.evaluation.scorers.run_rows import judgeable
from llmops.json_schema import schema_validator


def read_json(text: str) -> tuple[Any, str | None]:
    """The value and None, or None and what is wrong.

    `NaN` and `Infinity` are not JSON. An object that names a key twice is refused too: parsers disagree on what it
    holds (RFC 8259, section 4), so an answer could be two things at once.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise ValueError(f"an object names the key {twice!r} twice")
        return found

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=whole), None
    except (ValueError, RecursionError) as error:
        return None, str(error) or type(error).__name__


class JsonValid(Correctness):
    """True when the whole output is one JSON value."""

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        _, problem = read_json(output.text)
        return Score(problem is None, problem or "")


class JsonSchema:
    """True when the output is JSON that follows a JSON schema, including the schema's formats (date, uuid …).

    schema: the schema; a suite may use `schema_file` instead, a path relative to the suite. A format that cannot be
    checked, or a reference to another address, is an error when the suite is loaded.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self.name = name
        if not isinstance(schema, Mapping):
            raise UsageError(f"schema: must be a JSON schema object, not {schema!r}")
        self._validator = schema_validator(schema)

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        value, problem = read_json(output.text)
        if problem is None:
            first = next(iter(self._validator.iter_errors(value)), None)
            problem = first.message if first is not None else None
        return Score(problem is None, problem or "")


class JsonFields(Correctness):
    """Share of the fields of `expected_json` that the output has with the same value, from 0 to 1.

    Text is compared after normalisation, at any depth; numbers are compared by value, so 1.0 equals 1 and −0.0 equals
    0, but true and "1" do not equal 1. An output that is not a JSON object scores 0. Not counted: unexpected fields.
    """

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = row.expectations.get("expected_json")
        if not isinstance(expected, dict) or not expected:
            raise MissingExpectation(f"row {row.id}: expectations hold no expected_json")
        value, problem = read_json(output.text)
        if not isinstance(value, dict):
            return Score(0.0, problem or "not a JSON object")
        wrong = [name for name in expected if name not in value or not same_json(value[name], expected[name])]
        return Score(1 - len(wrong) / len(expected), f"wrong: {', '.join(wrong)}" if wrong else "")


class JsonF1:
    """F1 of the leaves that the output shares with `expected_json`, from 0 to 1: missing leaves lower recall, invented
    ones lower precision.

    A leaf is a value with its path (`items[0].name`), or an empty object or list. Values are compared as by
    `json_fields`. ordered: false accepts list items in any order; each is compared with the most similar expected item.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, ordered: bool = True) -> None:
        self.name = name
        self._ordered = parameters.boolean("ordered", ordered)

    def score(self, row: EvalRow, output: Output) -> Score:
        got, expected, problem = self._leaves(output, self._expected(row))
        shared = (got & expected).total()
        missing, made_up = _paths(expected - got), _paths(got - expected)
        parts = [f"missing or wrong: {missing}" if missing else "", f"not expected: {made_up}" if made_up else ""]
        return Score(2 * shared / (got.total() + expected.total()), problem or "; ".join(filter(None, parts)))

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """micro_precision, micro_recall, micro_f1: over the leaves of all rows together."""
        shared = n_got = n_expected = 0
        for result, wanted in judgeable(results, self._expected):
            got, expected, _ = self._leaves(result.output, wanted)
            shared += (got & expected).total()
            n_got, n_expected = n_got + got.total(), n_expected + expected.total()
        if not n_expected:
            return RunFindings()
        return RunFindings(
            {
                "micro_precision": shared / n_got if n_got else 0.0,
                "micro_recall": shared / n_expected,
                "micro_f1": 2 * shared / (n_got + n_expected),
            }
        )

    def _expected(self, row: EvalRow) -> Any:
        expected = row.expectations.get("expected_json")
        if not isinstance(expected, dict | list) or not expected:
            raise MissingExpectation(f"row {row.id}: expectations hold no expected_json")
        return expected

    def _leaves(self, output: Output, expected: Any) -> tuple[Counter[Leaf], Counter[Leaf], str | None]:
        value, problem = read_json(output.text)
        if problem is None and not self._ordered:
            value, expected = aligned(value, expected)
        return Counter() if problem else Counter(leaves(value)), Counter(leaves(expected)), problem


def _paths(found: Counter[Leaf]) -> str:
    return ", ".join(sorted({path_text(path) for path, _, _ in found}))


TYPES: dict[str, Callable[..., Scorer]] = {
    "json_valid": JsonValid,
    "json_schema": JsonSchema,
    "json_fields": JsonFields,
    "json_f1": JsonF1,
}
