"""What judges are shown of a row: each function reads one thing, or says that the row lacks it."""

from __future__ import annotations

from typing import Any

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.generation import Message

_USUAL_NAMES = ("question", "input", "query")


def input_text(row: EvalRow, input_variable: str | None = None) -> str:
    """What the user asked: the last user message of a conversation, else the input variable's value.

    input_variable: its name. None takes the row's only variable, or the one called question, input or query.
    """
    if row.messages and input_variable is None:
        return str(next(message["content"] for message in reversed(row.messages) if message["role"] == "user"))
    variables = row.variables
    if input_variable is not None:
        if input_variable not in variables:
            raise MissingExpectation(f"row {row.id}: inputs hold no {input_variable}")
        return variables[input_variable]
    if len(variables) == 1:
        return next(iter(variables.values()))
    usual = next((name for name in _USUAL_NAMES if name in variables), None)
    if usual is None:
        names = ", ".join(sorted(variables))
        raise MissingExpectation(f"row {row.id}: which of the inputs {names} is the question? Set input_variable")
    return variables[usual]


def conversation(row: EvalRow, output: Output, input_variable: str | None = None) -> list[Message]:
    """The whole exchange: the row's messages (or its input as the only one), and the output as the last turn."""
    asked = list(row.messages) or [Message(role="user", content=input_text(row, input_variable))]
    return [*asked, Message(role="assistant", content=output.text)]


def transcript(messages: list[Message]) -> str:
    """Messages as one text, a paragraph each."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def contexts(row: EvalRow) -> list[str]:
    """The texts that were given or retrieved."""
    if not any(text.strip() for text in row.contexts):
        raise MissingExpectation(f"row {row.id}: contexts are empty")
    return list(row.contexts)


def expectation(row: EvalRow, name: str) -> Any:
    """One field of the expectations, which must not be empty."""
    value = row.expectations.get(name)
    if value is None or value in ("", [], {}):
        raise MissingExpectation(f"row {row.id}: expectations hold no {name}")
    return value


def expected_texts(row: EvalRow, name: str) -> list[str]:
    """One field of the expectations that is a list of texts; a text alone is a list of one."""
    value = expectation(row, name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise MissingExpectation(f"row {row.id}: expectations.{name} must be a list of texts, none empty")
    return texts


def expected_mapping(row: EvalRow, name: str) -> dict[str, str]:
    """One field of the expectations that is an object of texts."""
    value = expectation(row, name)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MissingExpectation(f"row {row.id}: expectations.{name} must be an object of texts")
    return value
