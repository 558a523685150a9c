"""What judges are shown of a row."""

from __future__ import annotations

from collections.abc import Callable
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
    ("inputs", "variable", "text"),
    [
        ({"anything": "one"}, None, "one"),
        ({"style": "terse", "question": "two"}, None, "two"),
        ({"style": "terse", "input": "three"}, None, "three"),
        ({"question": "a", "claim": "b"}, "claim", "b"),
        ({"messages": TALK}, None, "Bye"),
        ({"messages": TALK, "style": "terse"}, None, "Bye"),
    ],
)
def test_the_input_is_the_one_named_the_only_or_usual_one_or_the_last_user_message(
    inputs: dict[str, Any], variable: str | None, text: str
) -> None:
    assert columns.input_text(EvalRow("r1", inputs), variable) == text


def test_a_conversation_ends_with_the_output_and_a_single_question_is_one_of_two_turns() -> None:
    whole = columns.conversation(EvalRow("r1", {"messages": TALK}), Output("See you"))
    assert [turn["role"] for turn in whole] == ["system", "user", "assistant", "user", "assistant"]
    assert whole[-1]["content"] == "See you"
    whole = columns.conversation(EvalRow("r1", {"question": "Hi"}), Output("Hello"))
    assert columns.transcript(whole) == "user: Hi\n\nassistant: Hello"


def test_a_text_alone_is_a_list_of_one() -> None:
    assert columns.expected_texts(EvalRow("r1", {"q": "x"}, {"facts": "a"}), "facts") == ["a"]


def of(read: Callable[..., Any], value: Any) -> Callable[[], Any]:
    return lambda: read(EvalRow("r1", {"q": "x"}, {"facts": value}), "facts")


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (lambda: columns.input_text(EvalRow("r1", {"question": "a"}), "claim"), "inputs hold no claim"),
        (
            lambda: columns.input_text(EvalRow("r1", {"style": "a", "claim": "b"})),
            r"which of the inputs claim, style is the question\? Set input_variable",
        ),
        (lambda: columns.contexts(EvalRow("r1", {"q": "x"})), "contexts are empty"),
        (lambda: columns.contexts(EvalRow("r1", {"q": "x"}, contexts=("", " "))), "contexts are empty"),
        *((of(columns.expectation, value), "expectations hold no facts") for value in (None, "", [], {})),
        *(
            (of(columns.expected_texts, value), r"expectations\.facts must be a list of texts")
            for value in (3, ["a", 1], ["a", " "], {"a": "b"})
        ),
        *(
            (of(columns.expected_mapping, value), r"expectations\.facts must be an object of texts")
            for value in ("a", ["a"], {"a": 1})
        ),
    ],
)
def test_what_a_row_lacks_or_has_in_another_shape_is_named(read: Callable[[], Any], problem: str) -> None:
    with pytest.raises(MissingExpectation, match=f"row r1: {problem}"):
        read()
