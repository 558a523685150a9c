"""Scorers of structured output: is it JSON, does it follow the schema, are the fields right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer
from llmops.evaluation.scorers.text_scorers import normalise


def read_json(text: str) -> tuple[Any, str | None]:
    """The value and None, or None and what is wrong. `NaN` and `Infinity` are not JSON."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse), None
    except (ValueError, RecursionError) as error:
        return None, str(error) or type(error).__name__


class JsonValid(Correctness):
    """True when the whole output is one JSON value."""

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        _, problem = read_json(output.text)
        return Score(problem is None, problem or "")


class JsonSchema:
    """True when the output is JSON that follows `schema`."""

    higher_is_better: bool | None = True
    worst: float | None = 0.0

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self.name = name
        import jsonschema_rs

        try:
            self._validator = jsonschema_rs.validator_for(dict(schema))
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise UsageError(f"schema: not a JSON schema: {str(error).splitlines()[0]}") from error

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        value, problem = read_json(output.text)
        if problem is None:
            first = next(iter(self._validator.iter_errors(value)), None)
            problem = first.message if first is not None else None
        return Score(problem is None, problem or "")


class JsonFields(Correctness):
    """Share of the fields of `expected_json` that the output has with the same value, from 0 to 1.

    Text is compared after normalisation. An output that is no JSON object has no field right.
    """

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = row.expectations.get("expected_json")
        if not isinstance(expected, dict) or not expected:
            raise MissingExpectation(f"row {row.id}: expectations hold no expected_json")
        value, problem = read_json(output.text)
        if not isinstance(value, dict):
            return Score(0.0, problem or "not a JSON object")
        wrong = [name for name in expected if name not in value or not _same(value[name], expected[name])]
        return Score(1 - len(wrong) / len(expected), f"wrong: {', '.join(wrong)}" if wrong else "")


def _same(got: Any, expected: Any) -> bool:
    if isinstance(got, str) and isinstance(expected, str):
        return normalise(got) == normalise(expected)
    return type(got) is type(expected) and bool(got == expected)


TYPES: dict[str, Callable[..., Scorer]] = {
    "json_valid": JsonValid,
    "json_schema": JsonSchema,
    "json_fields": JsonFields,
}
