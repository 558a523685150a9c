"""Scorers of structured output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.json_scorers import read_json
from llmops.evaluation.scorers.protocol import MissingExpectation, RunScorer

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


def f1(text: str, expected: Any, **parameters: Any) -> Score:
    return make_scorer("s", "json_f1", parameters).score(row(expected), Output(text))


@pytest.mark.parametrize(
    ("text", "expected", "value", "rationale"),
    [
        ('{"a": 1, "b": "x"}', {"a": 1, "b": "the X."}, 1.0, ""),
        ('{"a": 1}', {"a": 1, "b": 2}, 2 / 3, "missing or wrong: b"),
        ('{"a": 1, "b": 2}', {"a": 1}, 2 / 3, "not expected: b"),
        ('{"a": 2}', {"a": 1}, 0.0, "missing or wrong: a; not expected: a"),
        ('{"a": true}', {"a": 1}, 0.0, "missing or wrong: a; not expected: a"),
        ('{"a": {"b": [1, 2]}}', {"a": {"b": [1, 3]}}, 0.5, "missing or wrong: a.b[1]; not expected: a.b[1]"),
        ('{"a": []}', {"a": []}, 1.0, ""),
        ('{"a": {}}', {"a": []}, 0.0, "missing or wrong: a; not expected: a"),
        ('{"a": null}', {"a": None}, 1.0, ""),
        ("[1, 2]", [1, 2, 3], 0.8, "missing or wrong: [2]"),
        ("3", {"a": 3}, 0.0, "missing or wrong: a; not expected: the value"),
        ("{}", {"a": 3}, 0.0, "missing or wrong: a; not expected: the value"),
        ("nothing", {"a": 3}, 0.0, "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_json_f1_weighs_missing_and_made_up_leaves(text: str, expected: Any, value: float, rationale: str) -> None:
    score = f1(text, expected)

    assert score.value == pytest.approx(value)
    assert score.rationale == rationale


def test_lists_are_compared_in_order_unless_told_otherwise() -> None:
    assert f1('{"names": ["b", "a"]}', {"names": ["a", "b"]}).value == 0.0
    assert f1('{"names": ["b", "a"]}', {"names": ["a", "b"]}, ordered=False).value == 1.0
    assert f1('{"names": ["a", "a"]}', {"names": ["a", "b"]}, ordered=False).value == 0.5


def test_json_nested_as_deep_as_the_reader_goes_is_scored() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]

    assert f1(json.dumps(deep), deep).value == 1.0


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES.filter(lambda value: isinstance(value, dict | list) and bool(value)), JSON_VALUES, st.booleans())
def test_json_f1_is_1_for_the_same_value_and_symmetric(expected: Any, other: Any, ordered: bool) -> None:
    assert f1(json.dumps(expected), expected, ordered=ordered).value == 1.0
    there = f1(json.dumps(other), expected, ordered=ordered).value
    assert there is not None
    assert 0.0 <= there <= 1.0
    if isinstance(other, dict | list) and other:
        assert f1(json.dumps(expected), other, ordered=ordered).value == pytest.approx(there)


def test_the_run_counts_the_leaves_of_all_rows_and_a_failed_row_as_missing_all() -> None:
    scorer = make_scorer("s", "json_f1", {})
    results = [
        RowResult(row({"a": 1, "b": 2}), Output('{"a": 1, "c": 3, "d": 4}'), {}),
        RowResult(row({"a": 1}), Output('{"a": 1}'), {}),
        RowResult(row({"a": 1}), Output("", error="timed out"), {}),
        RowResult(row(), Output('{"a": 1}'), {}),  # nothing expected: left out
    ]

    assert isinstance(scorer, RunScorer)
    findings = scorer.findings(results)

    assert findings.metrics == {"micro_precision": 2 / 4, "micro_recall": 2 / 4, "micro_f1": 4 / 8}


def test_a_run_without_rows_has_no_figures() -> None:
    scorer = make_scorer("s", "json_f1", {})

    assert isinstance(scorer, RunScorer)
    assert scorer.findings([]) == RunFindings()
    answered_by_no_json = [RowResult(row({"a": 1}), Output("no"), {})]
    assert scorer.findings(answered_by_no_json).metrics["micro_precision"] == 0.0


@pytest.mark.parametrize("expected", [None, {}, [], "x", 3])
def test_json_f1_needs_an_expected_object_or_list(expected: Any) -> None:
    with pytest.raises(MissingExpectation, match="r1"):
        f1("{}", expected)


@pytest.mark.parametrize(
    ("type_name", "parameters", "named"),
    [
        ("json_f1", {"ordered": "no"}, "ordered: "),
        ("json_schema", {"schema": 3}, "schema: must be a JSON schema object, not 3"),
        ("json_schema", {}, "json_schema: missing a required argument: 'schema'"),
    ],
)
def test_a_wrong_parameter_is_named(type_name: str, parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_scorer("s", type_name, parameters)
    assert str(caught.value).startswith(named)
