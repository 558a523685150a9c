"""What all judge scorers share: an endpoint, an identity to keep scores under, and failures that become records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from llmops.errors import EngineError, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.judges.client import JudgeClient
from llmops.judges.endpoint import JudgeEndpoint


class JudgeScorer(ABC):
    """Base of scorers that ask a judge; a `KeptScorer`.

    type_name: the scorer type a suite names. settings: all else that can change a score, plain JSON values.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, type_name: str, endpoint: JudgeEndpoint, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.endpoint = endpoint
        self.client = JudgeClient(endpoint)
        self._identity = {"type": type_name, "judge": endpoint.identity, **settings}

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._identity

    @property
    def side_by_side(self) -> int:
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


def check_parameters(type_name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises UsageError that starts with the first parameter which a scorer type does not know."""
    if unknown := sorted(given.keys() - known.keys()):
        names = ", ".join(sorted(known)) or "none"
        raise UsageError(f"{unknown[0]}: {type_name} has no such parameter; known: {names}")


def optional_name(name: str, value: Any) -> str | None:
    """The parameter check of a name that may be left out."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f"{name}: must be a name, not {value!r}")
    return value
