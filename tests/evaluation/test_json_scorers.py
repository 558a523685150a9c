"""Scorers of structured output."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.json_scorers import read_json
from llmops.evaluation.scorers.protocol import MissingExpectation

SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["order", "return"]}, "quantity": {"type": "integer"}},
    "required": ["intent"],
    "additionalProperties": False,
}
EXPECTED = {"intent": "order", "product": "Blue mugs", "quantity": 3, "gift": True}
NESTED = "[" * 100_000


def row(expected: Any = None) -> EvalRow:
    return EvalRow("r1", {"text": "x"}, {} if expected is None else {"expected_json": expected})


@pytest.mark.parametrize("text", ['{"a": 1}', "[]", "3", '"x"', "null", " true \n"])
def test_whole_json_values_are_valid(text: str) -> None:
    score = make_scorer("s", "json_valid", {}).score(row(), Output(text))

    assert score.value is True
    assert score.rationale == ""


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'a': 1}", '{"a": 1} and more', "```json\n{}\n```", "NaN", '{"a": Infinity}', '{"a": 1,}', NESTED],
)
def test_anything_else_is_not_and_says_why(text: str) -> None:
    score = make_scorer("s", "json_valid", {}).score(row(), Output(text))

    assert score.value is False
    assert score.rationale


def test_read_json_gives_a_value_or_a_problem() -> None:
    assert read_json('{"a": 1}') == ({"a": 1}, None)
    assert read_json("null") == (None, None)
    assert read_json("NaN") == (None, "NaN is not JSON")


@pytest.mark.parametrize(
    ("text", "follows", "rationale"),
    [
        ('{"intent": "order"}', True, ""),
        ('{"intent": "order", "quantity": 3}', True, ""),
        ('{"intent": "buy"}', False, "buy"),
        ('{"quantity": 3}', False, "intent"),
        ('{"intent": "order", "quantity": "3"}', False, "integer"),
        ('{"intent": "order", "colour": "red"}', False, "colour"),
        ("[]", False, "object"),
        ("not json", False, "Expecting value"),
    ],
)
def test_json_schema_names_the_first_violation(text: str, follows: bool, rationale: str) -> None:
    score = make_scorer("s", "json_schema", {"schema": SCHEMA}).score(row(), Output(text))

    assert score.value is follows
    assert rationale in score.rationale


@pytest.mark.parametrize("schema", [{"type": "texts"}, {"type": 3}, {"properties": []}])
def test_what_is_no_schema_is_refused_when_the_scorer_is_made(schema: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="schema: not a JSON schema"):
        make_scorer("s", "json_schema", {"schema": schema})


@pytest.mark.parametrize(
    ("text", "share", "wrong"),
    [
        ('{"intent": "order", "product": "the blue mugs.", "quantity": 3, "gift": true}', 1.0, ""),
        ('{"intent": "order", "product": "Blue mugs", "quantity": 3, "gift": true, "more": 1}', 1.0, ""),
        ('{"intent": "order", "product": "red mugs", "quantity": 3, "gift": true}', 0.75, "product"),
        ('{"intent": "order", "product": "Blue mugs", "quantity": "3", "gift": true}', 0.75, "quantity"),
        ('{"intent": "order", "product": "Blue mugs", "quantity": true, "gift": 1}', 0.5, "quantity, gift"),
        ('{"intent": "order"}', 0.25, "product, quantity, gift"),
        ("{}", 0.0, "intent, product, quantity, gift"),
        ("[]", 0.0, "not a JSON object"),
        ("null", 0.0, "not a JSON object"),
        ("nothing", 0.0, "Expecting value"),
    ],
)
def test_json_fields_is_the_share_of_expected_fields_that_are_right(text: str, share: float, wrong: str) -> None:
    score = make_scorer("s", "json_fields", {}).score(row(EXPECTED), Output(text))

    assert score.value == pytest.approx(share)
    assert wrong in score.rationale
    assert bool(score.rationale) is (share < 1)


def test_an_expected_null_must_be_given() -> None:
    scorer = make_scorer("s", "json_fields", {})

    assert scorer.score(row({"product": None}), Output('{"product": null}')).value == 1.0
    assert scorer.score(row({"product": None}), Output("{}")).value == 0.0


@pytest.mark.parametrize("expected", [None, {}, [1], "x"])
def test_a_row_without_expected_fields_is_not_scored(expected: Any) -> None:
    with pytest.raises(MissingExpectation, match="r1"):
        make_scorer("s", "json_fields", {}).score(row(expected), Output("{}"))
