"""Scorers of structured output: is it JSON, does it follow the schema, are the fields right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer
from llmops.evaluation.scorers.run_rows import judgeable
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
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self.name = name
        import jsonschema_rs

        if not isinstance(schema, Mapping):
            raise UsageError(f"schema: must be a JSON schema object, not {schema!r}")
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


# A leaf: where it stands, its JSON type, and its value as compared.
Leaf = tuple[str, str, Any]


class JsonF1:
    """F1 of the leaves that the output shares with `expected_json`, from 0 to 1: what is missing costs recall, what is
    made up costs precision.

    A leaf is a value with its path (`items[0].name`); an empty object or list is one. Text is compared after
    normalisation. ordered: false compares lists as bags: their items have no place (`items[].name`).
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, ordered: bool = True) -> None:
        self.name = name
        self._ordered = parameters.boolean("ordered", ordered)

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = self._expected(row)
        got, problem = self._output(output)
        shared = (got & expected).total()
        missing, made_up = _paths(expected - got), _paths(got - expected)
        parts = [f"missing or wrong: {missing}" if missing else "", f"not expected: {made_up}" if made_up else ""]
        return Score(2 * shared / (got.total() + expected.total()), problem or "; ".join(filter(None, parts)))

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """micro_precision, micro_recall, micro_f1: over the leaves of all rows together."""
        shared = n_got = n_expected = 0
        for result, expected in judgeable(results, self._expected):
            got, _ = self._output(result.output)
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

    def _expected(self, row: EvalRow) -> Counter[Leaf]:
        expected = row.expectations.get("expected_json")
        if not isinstance(expected, dict | list) or not expected:
            raise MissingExpectation(f"row {row.id}: expectations hold no expected_json")
        return Counter(leaves(expected, self._ordered))

    def _output(self, output: Output) -> tuple[Counter[Leaf], str | None]:
        value, problem = read_json(output.text)
        return (Counter() if problem else Counter(leaves(value, self._ordered))), problem


def leaves(value: Any, ordered: bool = True) -> Iterator[Leaf]:
    """Every leaf of a JSON value. Goes as deep as the value does without recursion."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict) and item:
            waiting += [(f"{path}.{name}" if path else name, below) for name, below in item.items()]
        elif isinstance(item, list) and item:
            waiting += [(f"{path}[{i if ordered else ''}]", below) for i, below in enumerate(item)]
        else:
            yield path, type(item).__name__, _comparable(item)


def _comparable(leaf: Any) -> Any:
    if isinstance(leaf, str):
        return normalise(leaf)
    return None if isinstance(leaf, dict | list) else leaf  # an empty one: its type says all


def _paths(found: Counter[Leaf]) -> str:
    return ", ".join(sorted({path or "the value" for path, _, _ in found}))


TYPES: dict[str, Callable[..., Scorer]] = {
    "json_valid": JsonValid,
    "json_schema": JsonSchema,
    "json_fields": JsonFields,
    "json_f1": JsonF1,
}
