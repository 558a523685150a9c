"""Our own count of tool calls: every call and every argument, by JSON type."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.protocol import MissingExpectation

F: dict[str, Any] = {"name": "f", "args": {"x": 1}}
G: dict[str, Any] = {"name": "g", "args": {}}


def scored(made: Any, expected: Any, **options: Any) -> Score:
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
def test_calls_are_counted_with_all_their_arguments(made: Any, expected: Any, value: float) -> None:
    assert scored(made, expected).value == pytest.approx(value)
    assert scored(made, expected, exact=True).value is (value == 1.0)


@pytest.mark.parametrize(
    ("made", "value"), [([F, G, F], 1.0), ([F, F, G], 2 / 3), ([G, F], 0.8), ([F, G, G, F], 6 / 7)]
)
def test_calls_in_order_are_counted_where_the_order_matters(made: Any, value: float) -> None:
    assert scored(made, [F, G, F], ordered=True).value == pytest.approx(value)


def test_calls_that_stand_beside_the_text_are_the_outputs_calls() -> None:
    given = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    row = EvalRow("r1", {"q": "x"}, {"tool_calls": [F]})

    for type_name in ("tool_calls", "ragas.ToolCallF1", "ragas.ToolCallAccuracy"):
        scorer = make_scorer("s", type_name, {})
        assert scorer.score(row, Output("I call f.", tool_calls=given)).value == 1.0
        assert (
            scorer.score(row, Output("", tool_calls=[*given, {"function": {"name": "f", "arguments": "{"}}])).value
            == 0.0
        )


def test_the_rationale_counts_the_calls() -> None:
    assert scored([F, F], [F]).rationale == "1 of 1 expected calls, 2 made"
    assert scored("no", [F]).rationale.startswith("0 of 1 expected calls, 0 made; no tool calls: ")


@pytest.mark.parametrize("expected", [None, "f", [3], [{"args": {}}]])
def test_a_row_without_expected_calls_is_not_scored(expected: Any) -> None:
    with pytest.raises(MissingExpectation, match="r1"):
        scored([F], expected)
