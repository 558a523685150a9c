"""ragas' metrics that need no judge, from its collections API, by their own names: `ragas.RougeScore` and so on.

Each compares the output with the row's expected answers and keeps the best score over them, as is usual with several
references. ragas is imported when the first score is asked for (seconds).
"""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import Scorer, expected_answers

# What each constructor knows. ragas takes any other keyword and ignores it, so a misspelt one would go unnoticed.
_PARAMETERS: dict[str, frozenset[str]] = {
    "BleuScore": frozenset({"kwargs"}),
    "CHRFScore": frozenset({"kwargs"}),
    "ExactMatch": frozenset(),
    "NonLLMStringSimilarity": frozenset({"distance_measure"}),
    "RougeScore": frozenset({"rouge_type", "mode"}),
    "StringPresence": frozenset(),
}


class RagasScorer:
    """One ragas metric of reference and response. parameters: passed to the metric's constructor.

    Raises:
        UsageError: at construction, for a parameter that the metric does not have.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0

    def __init__(self, metric_name: str, name: str, **parameters: Any) -> None:
        if unknown := sorted(parameters.keys() - _PARAMETERS[metric_name]):
            known = ", ".join(sorted(_PARAMETERS[metric_name])) or "none"
            raise UsageError(f"{unknown[0]}: ragas.{metric_name} has no such parameter; known: {known}")
        self.name = name
        self._metric_name, self._parameters = metric_name, parameters
        self._lock = threading.Lock()
        self._metric: Any = None

    def score(self, row: EvalRow, output: Output) -> Score:
        if not output.text.strip():
            return Score(0.0, "the output is empty")
        best, best_answer = -math.inf, ""
        for answer in expected_answers(row):
            value = self._score_one(answer, output.text)
            if value > best:
                best, best_answer = value, answer
        if not 0.0 <= best <= 1.0 + 1e-9:
            return Score(error=f"ragas {self._metric_name} gave {best}, which is outside 0–1")
        return Score(min(best, 1.0), f"against {best_answer!r}")

    def _score_one(self, reference: str, response: str) -> float:
        with self._lock:
            if self._metric is None:
                self._metric = _load(self._metric_name, self._parameters)
            return float(self._metric.score(reference=reference, response=response).value)


def _load(metric_name: str, parameters: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ragas' own deprecations, at import
        from ragas.metrics import collections

    return getattr(collections, metric_name)(**parameters)


TYPES: dict[str, Callable[..., Scorer]] = {
    f"ragas.{metric_name}": functools.partial(RagasScorer, metric_name) for metric_name in _PARAMETERS
}
