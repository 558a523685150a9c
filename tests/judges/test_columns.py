"""What judges are shown of a row."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.judges import scorer as columns

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"anything": "one"}, "one"),
        ({"style": "terse", "question": "two"}, "two"),
        ({"style": "terse", "input": "three"}, "three"),
        ({"messages": TALK}, "Bye"),
        ({"messages": TALK, "style": "terse"}, "Bye"),
    ],
)
def test_the_input_is_the_only_variable_the_usual_one_or_the_last_user_message(
    inputs: dict[str, Any], text: str
) -> None:
    assert columns.input_text(EvalRow("r1", inputs)) == text


def test_the_input_variable_may_be_named() -> None:
    assert columns.input_text(EvalRow("r1", {"question": "a", "claim": "b"}), "claim") == "b"


def test_a_named_variable_that_a_row_lacks_is_missing() -> None:
    with pytest.raises(MissingExpectation, match="row r1: inputs hold no claim"):
        columns.input_text(EvalRow("r1", {"question": "a"}), "claim")


def test_several_unusual_variables_are_not_guessed_between() -> None:
    with pytest.raises(MissingExpectation, match=r"which of the inputs claim, style is the question\? Set input_vari"):
        columns.input_text(EvalRow("r1", {"style": "a", "claim": "b"}))


def test_a_conversation_ends_with_the_output() -> None:
    whole = columns.conversation(EvalRow("r1", {"messages": TALK}), Output("See you"))
    assert [turn["role"] for turn in whole] == ["system", "user", "assistant", "user", "assistant"]
    assert whole[-1]["content"] == "See you"


def test_a_single_question_is_a_conversation_of_two_turns() -> None:
    whole = columns.conversation(EvalRow("r1", {"question": "Hi"}), Output("Hello"))
    assert columns.transcript(whole) == "user: Hi\n\nassistant: Hello"


@pytest.mark.parametrize("contexts", [(), ("", " ")])
def test_contexts_that_say_nothing_are_missing(contexts: tuple[str, ...]) -> None:
    with pytest.raises(MissingExpectation, match="row r1: contexts are empty"):
        columns.contexts(EvalRow("r1", {"q": "x"}, contexts=contexts))


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_empty_expectation_is_missing(value: Any) -> None:
    with pytest.raises(MissingExpectation, match="row r1: expectations hold no topics"):
        columns.expectation(EvalRow("r1", {"q": "x"}, {"topics": value}), "topics")


def test_a_text_alone_is_a_list_of_one() -> None:
    assert columns.expected_texts(EvalRow("r1", {"q": "x"}, {"facts": "a"}), "facts") == ["a"]


@pytest.mark.parametrize("value", [3, ["a", 1], ["a", " "], {"a": "b"}])
def test_expected_texts_of_another_shape_are_missing(value: Any) -> None:
    with pytest.raises(MissingExpectation, match=r"expectations\.facts must be a list of texts"):
        columns.expected_texts(EvalRow("r1", {"q": "x"}, {"facts": value}), "facts")


@pytest.mark.parametrize("value", ["a", ["a"], {"a": 1}])
def test_an_expected_object_of_another_shape_is_missing(value: Any) -> None:
    with pytest.raises(MissingExpectation, match=r"expectations\.rubrics must be an object of texts"):
        columns.expected_mapping(EvalRow("r1", {"q": "x"}, {"rubrics": value}), "rubrics")
