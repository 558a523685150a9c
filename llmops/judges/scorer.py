"""What all judge scorers share: an endpoint, an identity to keep scores under, failures that become records, and what
judges are shown of a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from llmops.errors import EngineError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation
from llmops.generation import Message
from llmops.judges.client import JudgeClient, JudgeEndpoint

_USUAL_NAMES = ("question", "input", "query")
Embed = Callable[[Sequence[str]], Any]
"""Texts to one vector each (an array, or lists of numbers). An `identity` attribute, a mapping of plain JSON values,
says which model it is; scores are kept under it."""


class JudgeScorer(Correctness):
    """Base of scorers that ask a judge; a `KeptScorer`. type_name: the scorer type that a suite names."""

    type_name: ClassVar[str]
    endpoint: JudgeEndpoint
    embed: Embed | None = None
    _client: JudgeClient = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Opens no connection."""
        self._client = JudgeClient(self.endpoint)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The judge, and all else that can change a score."""
        return {"type": self.type_name, "judge": self.endpoint.identity, **self._settings}

    @property
    @abstractmethod
    def _settings(self) -> Mapping[str, Any]:
        """All besides the judge that can change a score, as plain JSON values."""

    @property
    def side_by_side(self) -> int:
        """How many scores may be asked for at the same time."""
        return self.endpoint.side_by_side

    def score(self, row: EvalRow, output: Output) -> Score:
        """The judge's score; an error when it cannot be asked or its answer cannot be believed.

        Raises:
            MissingExpectation: the row lacks something that the judge has to see; nothing was asked.
        """
        try:
            return self.judge(row, output)
        except EngineError as error:
            return Score(error=f"{type(error).__name__}: {error}")

    @abstractmethod
    def judge(self, row: EvalRow, output: Output) -> Score:
        """The judge's score. Raises EngineError as `JudgeClient.ask`, and MissingExpectation."""


def input_text(row: EvalRow, input_variable: str | None = None) -> str:
    """What the user asked: the last user message of a conversation, else the input variable's value.

    input_variable: its name. None takes the row's only variable, or the one called question, input or query.

    Raises:
        MissingExpectation: there is no such variable, or it is not clear which.
    """
    if row.messages and input_variable is None:
        return str(next(message["content"] for message in reversed(row.messages) if message["role"] == "user"))
    variables = row.variables
    if input_variable is not None and input_variable not in variables:
        raise MissingExpectation(f"row {row.id}: inputs hold no {input_variable}")
    named = input_variable or next((name for name in _USUAL_NAMES if name in variables), None)
    if named is None and len(variables) == 1:
        named = next(iter(variables))
    if named is None:
        names = ", ".join(sorted(variables))
        raise MissingExpectation(f"row {row.id}: which of the inputs {names} is the question? Set input_variable")
    return variables[named]


def conversation(row: EvalRow, output: Output, input_variable: str | None = None) -> list[Message]:
    """The whole exchange: the row's messages (or its input as the only one), and the output as the last turn."""
    asked = list(row.messages) or [Message(role="user", content=input_text(row, input_variable))]
    return [*asked, Message(role="assistant", content=output.text)]


def transcript(messages: Sequence[Message]) -> str:
    """Messages as one text, a paragraph each."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def contexts(row: EvalRow) -> list[str]:
    """The texts that were given or retrieved. Raises MissingExpectation."""
    if not any(text.strip() for text in row.contexts):
        raise MissingExpectation(f"row {row.id}: contexts are empty")
    return list(row.contexts)


def expectation(row: EvalRow, name: str) -> Any:
    """One field of the expectations, which must not be empty. Raises MissingExpectation."""
    value = row.expectations.get(name)
    if value is None or value in ("", [], {}):
        raise MissingExpectation(f"row {row.id}: expectations hold no {name}")
    return value


def expected_texts(row: EvalRow, name: str) -> list[str]:
    """One field of the expectations that is a list of texts; a text alone is one. Raises MissingExpectation."""
    value = expectation(row, name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise MissingExpectation(f"row {row.id}: expectations.{name} must be a list of texts, none empty")
    return texts


def expected_mapping(row: EvalRow, name: str) -> dict[str, str]:
    """One field of the expectations that is an object of texts. Raises MissingExpectation."""
    value = expectation(row, name)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MissingExpectation(f"row {row.id}: expectations.{name} must be an object of texts")
    return value
