"""ragas' metrics that need no judge, by their own names: `ragas.RougeScore` and so on.

Those of reference and response compare the output with the row's expected answers and keep the best score over them, as
is usual with several references. The others read what else a row holds: its contexts, `reference_contexts`,
`retrieved_context_ids` and `reference_context_ids`, or the `tool_calls` expected. ragas is imported when the first
score is asked for (seconds).

DataCompyScore is left out: it needs the package datacompy, and compares CSV tables. What needs a judge or embeddings is
in `llmops.judges.ragas_judges`.
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.json_scorers import read_json
from llmops.evaluation.scorers.protocol import MissingExpectation, Scorer, expected_answers

# What each constructor knows. ragas takes any other keyword and ignores it, so a misspelt one would go unnoticed.
_OF_ANSWERS: dict[str, frozenset[str]] = {
    "BleuScore": frozenset({"kwargs"}),
    "CHRFScore": frozenset({"kwargs"}),
    "ExactMatch": frozenset(),
    "NonLLMStringSimilarity": frozenset({"distance_measure"}),
    "RougeScore": frozenset({"rouge_type", "mode"}),
    "StringPresence": frozenset(),
}
_OF_CONTEXTS: dict[str, frozenset[str]] = {
    "IDBasedContextPrecision": frozenset(),
    "IDBasedContextRecall": frozenset(),
    "NonLLMContextPrecisionWithReference": frozenset({"threshold"}),
    "NonLLMContextRecall": frozenset({"threshold"}),
}
_OF_QUOTES = {"QuotedSpansAlignment": frozenset({"casefold", "min_span_words"})}
_OF_TOOL_CALLS: dict[str, frozenset[str]] = {"ToolCallAccuracy": frozenset({"strict_order"}), "ToolCallF1": frozenset()}
_PARAMETERS = {**_OF_ANSWERS, **_OF_CONTEXTS, **_OF_QUOTES, **_OF_TOOL_CALLS}

# Filters of warnings belong to the process: two threads that set and restore them at once leave them changed.
_filtering = threading.RLock()


class _RagasMetric(ABC):
    """Base: one ragas metric with its parameters, loaded at the first score and used by one thread at a time.

    Raises:
        UsageError: at construction, for a parameter that the metric does not have.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, metric_name: str, name: str, **parameters: Any) -> None:
        if unknown := sorted(parameters.keys() - _PARAMETERS[metric_name]):
            known = ", ".join(sorted(_PARAMETERS[metric_name])) or "none"
            raise UsageError(f"{unknown[0]}: ragas.{metric_name} has no such parameter; known: {known}")
        self.name = name
        self._metric_name, self._parameters = metric_name, parameters
        self._lock = threading.Lock()
        self._metric: Any = None

    @abstractmethod
    def score(self, row: EvalRow, output: Output) -> Score: ...

    def _loaded(self) -> Any:
        """The metric; the caller holds the lock."""
        if self._metric is None:
            self._metric = _load(self._metric_name, self._parameters)
        return self._metric

    def _checked(self, value: float, rationale: str) -> Score:
        if not 0.0 <= value <= 1.0 + 1e-9:
            return Score(error=f"ragas {self._metric_name} gave {value}, which is outside 0–1")
        return Score(min(value, 1.0), rationale)


class RagasScorer(_RagasMetric):
    """One ragas metric of reference and response. parameters: passed to the metric's constructor."""

    def score(self, row: EvalRow, output: Output) -> Score:
        if not output.text.strip():
            return Score(0.0, "the output is empty")
        best, best_answer = -math.inf, ""
        for answer in expected_answers(row):
            value = self._score_one(answer, output.text)
            if value > best:
                best, best_answer = value, answer
        return self._checked(best, f"against {best_answer!r}")

    def _score_one(self, reference: str, response: str) -> float:
        with self._lock:
            return float(self._loaded().score(reference=reference, response=response).value)


class QuotedSpans(_RagasMetric):
    """The share of the output's quotations that stand in the row's contexts; 1 when it quotes nothing."""

    def score(self, row: EvalRow, output: Output) -> Score:
        contexts = _contexts(row)
        with self._lock:
            result = self._loaded().score(response=output.text, retrieved_contexts=contexts)
        return self._checked(float(result.value), result.reason)


class ContextScorer(_RagasMetric):
    """How well the contexts of a row match those it should have: by text, or by id.

    By text: the row's contexts against `expectations.reference_contexts`. By id: `expectations.retrieved_context_ids`
    against `expectations.reference_context_ids`. The output plays no part.
    """

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        columns = self._columns(row)
        with self._lock:
            metric = self._loaded()
            from ragas.dataset_schema import SingleTurnSample

            # Its public name adds a report of use that is sent to ragas' makers.
            value = float(asyncio.run(metric._single_turn_ascore(SingleTurnSample(**columns), [])))
        return self._checked(value, "")

    def _columns(self, row: EvalRow) -> dict[str, list[str]]:
        """Raises MissingExpectation."""
        if self._metric_name.startswith("IDBased"):
            return {name: _texts(row, name) for name in ("retrieved_context_ids", "reference_context_ids")}
        return {"retrieved_contexts": _contexts(row), "reference_contexts": _texts(row, "reference_contexts")}


class ToolCallScorer(_RagasMetric):
    """Whether the output calls the tools of `expectations.tool_calls`, a list of `{"name": …, "args": {…}}`.

    The output is the calls as JSON: one, or a list of them, or an object with that list as `tool_calls`; arguments may
    be called `args`, `arguments` or `parameters`, in or beside an object `function`, as text or as an object. An output
    of another shape calls nothing. An expected list that is empty says: call no tool.
    """

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = row.expectations.get("tool_calls")
        if not isinstance(expected, list):
            raise MissingExpectation(f"row {row.id}: expectations hold no tool_calls")
        wanted = [_tool_call(call) for call in expected]
        if None in wanted:
            raise MissingExpectation(f"row {row.id}: expectations.tool_calls must be objects of name and args")
        made, problem = read_tool_calls(output.text)
        with _filtering, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ragas warns of every output with fewer or more calls than expected
            metric = self._loaded()
            from ragas.messages import AIMessage, ToolCall

            called = AIMessage(content=output.text, tool_calls=[ToolCall(**call) for call in made])
            reference = [ToolCall(**call) for call in wanted if call]
            value = float(metric.score(user_input=[called], reference_tool_calls=reference).value)
        return self._checked(value, problem or f"calls {', '.join(call['name'] for call in made) or 'nothing'}")


def read_tool_calls(text: str) -> tuple[list[dict[str, Any]], str]:
    """The calls that an output makes, each a name and arguments, and what is wrong where it makes none."""
    value, problem = read_json(text)
    if problem is not None:
        return [], f"no tool calls: {problem}"
    listed = value.get("tool_calls", value) if isinstance(value, dict) else value
    calls = [_tool_call(call) for call in (listed if isinstance(listed, list) else [listed])]
    found = [call for call in calls if call is not None]
    return (found, "") if len(found) == len(calls) else ([], "no tool calls: the JSON is not of their shape")


def _tool_call(value: Any) -> dict[str, Any] | None:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    given: Any = next((function[key] for key in ("args", "arguments", "parameters") if key in function), {})
    arguments = read_json(given)[0] if isinstance(given, str) else given
    return {"name": function["name"], "args": arguments} if isinstance(arguments, dict) else None


def _contexts(row: EvalRow) -> list[str]:
    if not row.contexts:
        raise MissingExpectation(f"row {row.id}: contexts are empty")
    return list(row.contexts)


def _texts(row: EvalRow, name: str) -> list[str]:
    """A list of the expectations, numbers in it as text: ragas takes no list of both."""
    values = row.expectations.get(name)
    if not isinstance(values, list) or not values:
        raise MissingExpectation(f"row {row.id}: expectations.{name} must be a list, and not empty")
    return [str(value) for value in values]


def _load(metric_name: str, parameters: dict[str, Any]) -> Any:
    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ragas' own deprecations, at import and for the context metrics
        from ragas import metrics
        from ragas.metrics import collections

        if metric_name not in _OF_CONTEXTS:
            return getattr(collections, metric_name)(**parameters)
        # The context metrics without a judge are of the older interface only; its own measure of likeness reports too.
        measure = {
            "NonLLMContextPrecisionWithReference": "distance_measure",
            "NonLLMContextRecall": "_distance_measure",
        }
        likeness = _Likeness(collections.NonLLMStringSimilarity())
        own = {measure[metric_name]: likeness} if metric_name in measure else {}
        return getattr(metrics, metric_name)(**parameters, **own)


class _Likeness:
    """ragas' string similarity, under the name that its context metrics call it by."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    async def single_turn_ascore(self, sample: Any, _callbacks: Any) -> float:
        result = await self._metric.ascore(reference=sample.reference, response=sample.response)
        return float(result.value)


TYPES: dict[str, Callable[..., Scorer]] = {
    f"ragas.{metric_name}": functools.partial(scorer, metric_name)
    for scorer, metric_names in (
        (RagasScorer, _OF_ANSWERS),
        (QuotedSpans, _OF_QUOTES),
        (ContextScorer, _OF_CONTEXTS),
        (ToolCallScorer, _OF_TOOL_CALLS),
    )
    for metric_name in metric_names
}
