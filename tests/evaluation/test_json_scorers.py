"""Scorers of structured output."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.json_scorers import read_json
from llmops.evaluation.scorers.protocol import RunScorer

SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["order", "return"]}, "quantity": {"type": "integer"}},
    "required": ["intent"],
    "additionalProperties": False,
}
EXPECTED = {"intent": "order", "product": "Blue mugs", "quantity": 3, "gift": True}
NESTED = "[" * 100_000
PEOPLE = [{"name": "a", "age": 1}, {"name": "b", "age": 2}]


def row(expected: Any = None) -> EvalRow:
    return EvalRow("r1", {"text": "x"}, {} if expected is None else {"expected_json": expected})


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        *((text, True) for text in ('{"a": 1}', "[]", "3", '"x"', "null", " true \n")),
        *((text, False) for text in ("", "{", "{'a': 1}", '{"a": 1} and more', "```json\n{}\n```", "NaN", NESTED)),
        *((text, False) for text in ('{"a": Infinity}', '{"a": 1,}')),
    ],
)
def test_only_whole_json_values_are_valid_and_others_say_why(text, valid):
    score = make_scorer("s", "json_valid", {}).score(row(), Output(text))
    assert (score.value, bool(score.rationale)) == (valid, not valid)


def test_read_json_gives_a_value_or_a_problem():
    assert read_json('{"a": 1}') == ({"a": 1}, None)
    assert read_json("null") == (None, None)
    assert read_json("NaN") == (None, "NaN is not JSON")
    # What an object that names a key twice holds, nobody can judge.
    assert read_json('[{"a": 1, "a": 2}]') == (None, "an object names the key 'a' twice")


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
def test_json_schema_names_the_first_violation(text, follows, rationale):
    score = make_scorer("s", "json_schema", {"schema": SCHEMA}).score(row(), Output(text))
    assert score.value is follows
    assert rationale in score.rationale


@pytest.mark.parametrize(
    ("text", "expected", "share", "wrong"),
    [
        ('{"intent": "order", "product": "the blue mugs.", "quantity": 3, "gift": true}', EXPECTED, 1.0, ""),
        ('{"intent": "order", "product": "Blue mugs", "quantity": 3, "gift": true, "more": 1}', EXPECTED, 1.0, ""),
        ('{"intent": "order", "product": "red mugs", "quantity": 3, "gift": true}', EXPECTED, 0.75, "product"),
        ('{"intent": "order", "product": "Blue mugs", "quantity": "3", "gift": true}', EXPECTED, 0.75, "quantity"),
        ('{"intent": "order", "product": "Blue mugs", "quantity": true, "gift": 1}', EXPECTED, 0.5, "quantity, gift"),
        ('{"intent": "order"}', EXPECTED, 0.25, "product, quantity, gift"),
        ("{}", EXPECTED, 0.0, "intent, product, quantity, gift"),
        ("[]", EXPECTED, 0.0, "not a JSON object"),
        ("null", EXPECTED, 0.0, "not a JSON object"),
        ("nothing", EXPECTED, 0.0, "Expecting value"),
        ('{"product": null}', {"product": None}, 1.0, ""),  # an expected null must be given
        ("{}", {"product": None}, 0.0, "product"),
    ],
)
def test_json_fields_is_the_share_of_expected_fields_that_are_right(text, expected, share, wrong):
    score = make_scorer("s", "json_fields", {}).score(row(expected), Output(text))
    assert score.value == pytest.approx(share)
    assert wrong in score.rationale
    assert bool(score.rationale) is (share < 1)


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
def test_json_f1_weighs_missing_and_made_up_leaves(text, expected, value, rationale):
    score = f1(text, expected)
    assert score.value == pytest.approx(value)
    assert score.rationale == rationale


@pytest.mark.parametrize(
    ("text", "expected", "ordered", "value"),
    [
        ('{"names": ["b", "a"]}', {"names": ["a", "b"]}, True, 0.0),
        ('{"names": ["b", "a"]}', {"names": ["a", "b"]}, False, 1.0),
        ('{"names": ["a", "a"]}', {"names": ["a", "b"]}, False, 0.5),
        # Items in any order are compared whole and not field by field.
        ('[{"name": "b", "age": 2}, {"name": "a", "age": 1}]', PEOPLE, False, 1.0),
        ('[{"name": "a", "age": 2}, {"name": "b", "age": 1}]', PEOPLE, False, 0.5),
        ('[{"name": "b", "age": 2}]', PEOPLE, False, 2 / 3),
        ('{"x": [[3, 2], [1]]}', {"x": [[1], [2, 3]]}, False, 1.0),
    ],
)
def test_lists_are_compared_in_order_unless_told_otherwise(text, expected, ordered, value):
    assert f1(text, expected, ordered=ordered).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "expected", "same"),
    [
        ('{"a": 1.0}', {"a": 1}, True),
        ('{"a": 1}', {"a": 1.0}, True),
        ('{"a": 1e0}', {"a": 1}, True),
        ('{"a": -0.0}', {"a": 0}, True),
        ('{"a": 0}', {"a": -0.0}, True),
        ('{"a": [1.0, {"b": 2.0}]}', {"a": [1, {"b": 2}]}, True),
        ('{"a": {"c": 1, "b": 2}}', {"a": {"b": 2, "c": 1}}, True),
        ('{"a": {"b": "X."}}', {"a": {"b": "the x"}}, True),
        ('{"a": "Cafe\u0301"}', {"a": "Caf\u00e9"}, True),
        ('{"a": "Москва"}', {"a": "москва"}, True),
        ('{"a": true}', {"a": 1}, False),
        ('{"a": 0}', {"a": False}, False),
        ('{"a": [true]}', {"a": [1]}, False),
        ('{"a": "1"}', {"a": 1}, False),
        ('{"a": null}', {"a": "null"}, False),
        ('{"a": 9007199254740993}', {"a": 9007199254740992}, False),
        ('{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}, True),
        ('{"a": 123456789012345678901234567891}', {"a": 123456789012345678901234567890}, False),
        ('{"a": 1.0000001}', {"a": 1}, False),
        ('{"a": "-5"}', {"a": "5"}, False),
        ('{"a": "!"}', {"a": "?"}, False),
        ('{"a.b": 1}', {"a": {"b": 1}}, False),
        ('{"a": {"b": 1}}', {"a.b": 1}, False),
        ('{"a": {"0": 1}}', {"a": [1]}, False),
        ('{"a": 1, "a": 1}', {"a": 1}, False),
        ('{"a": NaN}', {"a": None}, False),
        ('{"a": 1} and more', {"a": 1}, False),
    ],
)
def test_json_values_are_the_same_by_value_and_not_by_spelling(text, expected, same):
    assert (make_scorer("s", "json_fields", {}).score(row(expected), Output(text)).value == 1.0) is same
    assert (f1(text, expected).value == 1.0) is same
    assert (f1(text, expected, ordered=False).value == 1.0) is same


FORMATS = {
    "date": ("2024-02-29", "tomorrow"),
    # Not of every draft.
    "duration": ("P1D", "1 day"),
    "uri-reference": ("/x", "\\\\x"),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    "json-pointer": ("/a/b", "a/b"),
}


@pytest.mark.parametrize(
    "draft", [None, "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"]
)
@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_a_schema_are_checked_in_every_draft(name, draft):
    schema = {"type": "string", "format": name} | ({"$schema": draft} if draft else {})
    right, wrong = FORMATS[name]
    scorer = make_scorer("s", "json_schema", {"schema": schema})
    assert scorer.score(row(), Output(json.dumps(right))).value is True
    assert scorer.score(row(), Output(json.dumps(wrong))).value is False


def test_json_nested_as_deep_as_the_reader_goes_is_scored():
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
def test_json_f1_is_1_for_the_same_value_and_symmetric(expected, other, ordered):
    assert f1(json.dumps(expected), expected, ordered=ordered).value == 1.0
    there = f1(json.dumps(other), expected, ordered=ordered).value
    assert 0.0 <= there <= 1.0
    if isinstance(other, dict | list) and other:
        assert f1(json.dumps(expected), other, ordered=ordered).value == pytest.approx(there)


def test_the_run_counts_the_leaves_of_all_rows_and_a_failed_row_as_missing_all():
    scorer = make_scorer("s", "json_f1", {})
    assert isinstance(scorer, RunScorer)
    results = [
        RowResult(row({"a": 1, "b": 2}), Output('{"a": 1, "c": 3, "d": 4}'), {}),
        RowResult(row({"a": 1}), Output('{"a": 1}'), {}),
        RowResult(row({"a": 1}), Output("", error="timed out"), {}),
        RowResult(row(), Output('{"a": 1}'), {}),  # nothing expected: left out
    ]
    assert scorer.findings(results).metrics == {"micro_precision": 2 / 4, "micro_recall": 2 / 4, "micro_f1": 4 / 8}
    assert scorer.findings([]) == RunFindings()
    answered_by_no_json = [RowResult(row({"a": 1}), Output("no"), {})]
    assert scorer.findings(answered_by_no_json).metrics["micro_precision"] == 0.0


# Tool calls

F: dict[str, Any] = {"name": "f", "args": {"x": 1}}
G: dict[str, Any] = {"name": "g", "args": {}}


def called(made: Any, expected: Any, **options: Any) -> Score:
    text = made if isinstance(made, str) else json.dumps(made)
    return make_scorer("s", "tool_calls", options).score(
        EvalRow("r1", {"q": "x"}, {"tool_calls": expected}), Output(text)
    )


@pytest.mark.parametrize(
    ("made", "expected", "value"),
    [
        ([F, G], [F, G], 1.0),
        ([G, F], [F, G], 1.0),
        ([F, F, F], [F], 0.5),
        ([F], [F, F], 2 / 3),
        ([F, F], [F, F], 1.0),
        ([F], [F, G], 2 / 3),
        ([], [F], 0.0),
        ([F], [], 0.0),
        ([], [], 1.0),
        ("It is Paris.", [], 1.0),
        ("It is Paris.", [F], 0.0),
        ([{"name": "f", "args": {"x": 1, "delete_all": True}}], [F], 0.0),
        ([{"name": "f", "args": {}}], [F], 0.0),
        ([{"name": "f", "args": {"x": "1"}}], [F], 0.0),
        ([{"name": "f", "args": {"x": True}}], [F], 0.0),
        ([{"name": "f", "args": {"x": 1.0}}], [F], 1.0),
        ([{"name": "f", "args": {"x": [1]}}], [F], 0.0),
        ([{"name": "F", "args": {"x": 1}}], [F], 0.0),
        ([{"function": {"name": "f", "arguments": '{"x": 1}'}}], [F], 1.0),
        ([{"function": {"name": "g", "arguments": ""}}], [G], 1.0),
        ([{"name": "g", "arguments": None}], [G], 1.0),
        (
            [{"name": "f", "args": {"a": "x", "b": [{"c": "Москва"}]}}],
            [{"name": "f", "args": {"b": [{"c": "Москва"}], "a": "x"}}],
            1.0,
        ),
        ([{"name": "f", "args": {"a": "x"}}], [{"name": "f", "args": {"a": "X"}}], 0.0),
        ([{"name": "f", "args": {"a": {"b": 1}}}], [{"name": "f", "args": {"a.b": 1}}], 0.0),
    ],
)
def test_calls_are_counted_with_all_their_arguments(made, expected, value):
    assert called(made, expected).value == pytest.approx(value)
    assert called(made, expected, exact=True).value is (value == 1.0)


@pytest.mark.parametrize(
    ("made", "value"), [([F, G, F], 1.0), ([F, F, G], 2 / 3), ([G, F], 0.8), ([F, G, G, F], 6 / 7)]
)
def test_calls_in_order_are_counted_where_the_order_matters_and_the_rationale_counts_them(made, value):
    assert called(made, [F, G, F], ordered=True).value == pytest.approx(value)
    assert called([F, F], [F]).rationale == "1 of 1 expected calls, 2 made"
    assert called("no", [F]).rationale.startswith("0 of 1 expected calls, 0 made; no tool calls: ")


def test_calls_that_stand_beside_the_text_are_the_outputs_calls():
    given = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    broken = [*given, {"function": {"name": "f", "arguments": "{"}}]
    row = EvalRow("r1", {"q": "x"}, {"tool_calls": [F]})
    for type_name in ("tool_calls", "ragas.ToolCallF1", "ragas.ToolCallAccuracy"):
        scorer = make_scorer("s", type_name, {})
        assert scorer.score(row, Output("I call f.", tool_calls=given)).value == 1.0
        assert scorer.score(row, Output("", tool_calls=broken)).value == 0.0
