"""ragas' metrics that need a judge or embeddings, from its collections API (0.4.3), as scorer types `ragas.<name>`.

Every name that `ragas.metrics.collections` exports, and what became of it:

| exported | here |
| --- | --- |
| Faithfulness, ContextRecall, ContextPrecision(WithReference, WithoutReference), ContextUtilization, ContextRelevance, ContextEntityRecall, ResponseGroundedness, NoiseSensitivity | built |
| AnswerAccuracy, AnswerCorrectness, AnswerRelevancy, FactualCorrectness, SemanticSimilarity, SummaryScore, SQLSemanticEquivalence | built |
| DomainSpecificRubrics, RubricsScoreWithReference, RubricsScoreWithoutReference, InstanceSpecificRubrics | built; 1 to 5 becomes 0 to 1 |
| AgentGoalAccuracy(WithReference, WithoutReference), TopicAdherence | built, on the conversation that a row and its output make |
| BleuScore, CHRFScore, ExactMatch, NonLLMStringSimilarity, QuotedSpansAlignment, RougeScore, StringPresence, ToolCallAccuracy, ToolCallF1 | need no judge: `llmops.evaluation.scorers.ragas_scorers` |
| DataCompyScore | left out: it needs the package datacompy, and compares CSV tables, which no eval set here holds |
| MultiModalFaithfulness, MultiModalRelevance | left out: they judge pictures, and rows hold text |
| BaseMetric, DistanceMeasure | no metrics: a base class and an enumeration |

Where ours differs from a bare call of ragas: answers are bounded (`ragas_bridge`); a failed judge call fails the score;
and AnswerRelevancy makes one question instead of three unless `strictness` says otherwise, because a judge that decodes
greedily makes the same one three times.
"""  # noqa: E501 - a table's rows cannot be broken

from __future__ import annotations

import asyncio
import functools
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import EngineError, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters as check
from llmops.evaluation.scorers.options import Option
from llmops.evaluation.scorers.protocol import Scorer, expected_answers
from llmops.generation import Message
from llmops.judges import columns
from llmops.judges.endpoint import JudgeEndpoint
from llmops.judges.ragas_bridge import Embed, RagasEmbeddings, RagasJudge, reasons
from llmops.judges.scorer import JudgeScorer, check_parameters, optional_name

VERSION = 1
_loading = threading.Lock()
_SLACK = 1e-6  # ragas adds small numbers to denominators, and cosines of equal texts overshoot 1


def _beta(name: str, value: Any) -> float:
    if check.number(name, value) == 0:
        raise UsageError(f"{name}: must be above 0")
    return float(value)


def _share(name: str, value: Any) -> float:
    if check.number(name, value) > 1:
        raise UsageError(f"{name}: must be a number from 0 to 1")
    return float(value)


def _weights(name: str, value: Any) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UsageError(f"{name}: must be two numbers, of facts and of similarity")
    weights = [check.number(name, weight) for weight in value]
    if not any(weights):
        raise UsageError(f"{name}: one of them must be above 0")
    return weights


def _rubrics(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or value.keys() != _RUBRIC_KEYS or not all(map(_filled, value.values())):
        raise UsageError(f"{name}: must be an object of the texts {', '.join(sorted(_RUBRIC_KEYS))}")
    return dict(value)


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_RUBRIC_KEYS = {f"score{points}_description" for points in range(1, 6)}
_MODE = {"mode": lambda name, value: check.one_of(name, value, ("precision", "recall", "f1"))}
_DETAIL = {name: lambda name, value: check.one_of(name, value, ("low", "high")) for name in ("atomicity", "coverage")}
_COSINE = (-1.0, 1.0)

# What each option is, and its default: ragas' own where `_Metric.defaults` has none.
_KINDS: Mapping[str, tuple[str, str]] = {
    "mode": ("precision, recall or f1", '"f1"'),
    "atomicity": ("low or high", '"low"'),
    "coverage": ("low or high", '"low"'),
    "beta": ("number above 0", "1.0"),
    "weights": ("two numbers, of facts and of similarity", "[0.75, 0.25]"),
    "strictness": ("whole number from 1 to 10", "1"),
    "rubrics": ("table of score1_description to score5_description", "ragas' general ones"),
    "with_reference": ("true or false", "false"),
    "threshold": ("number from 0 to 1, from which on the score is 1, else 0", ""),
    "length_penalty": ("true or false", "true"),
    "coeff": ("number from 0 to 1, the weight of brevity", "0.5"),
}

# Columns by ragas' keyword; a `?` marks one that is shown where the row has it. `conversation` is its `user_input` of
# metrics that read whole exchanges.
_READERS: Mapping[str, Callable[[EvalRow, Output, str | None], Any]] = {
    "user_input": lambda row, _output, variable: columns.input_text(row, variable),
    "response": lambda _row, output, _variable: output.text,
    "reference": lambda row, _output, _variable: expected_answers(row)[0],
    "retrieved_contexts": lambda row, _output, _variable: columns.contexts(row),
    "reference_contexts": lambda row, _output, _variable: columns.expected_texts(row, "reference_contexts"),
    "reference_topics": lambda row, _output, _variable: columns.expected_texts(row, "reference_topics"),
    "rubrics": lambda row, _output, _variable: columns.expected_mapping(row, "rubrics"),
    "conversation": lambda row, output, variable: _messages(columns.conversation(row, output, variable)),
}


@dataclass(frozen=True)
class _Metric:
    """What a metric is given, and what it may give back.

    parameters: checks by name. values: bounds of fields of the judge's answers, besides those of every metric.
    embeddings, judge: what it needs. limits: of ragas' value; scale: what that becomes.
    """

    columns: Sequence[str]
    parameters: Mapping[str, Callable[[str, Any], Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    embeddings: bool = False
    judge: bool = True
    limits: tuple[float, float] = (0.0, 1.0)
    scale: Callable[[float], float] = float
    higher_is_better: bool = True


_QUESTION = ("user_input", "response", "reference")
_RETRIEVAL = ("user_input", "reference", "retrieved_contexts")
_ANSWER_ONLY = ("user_input", "response", "retrieved_contexts")
_GRADE: dict[str, Any] = {
    "values": {"score": (1, 2, 3, 4, 5)}, "limits": (1.0, 5.0), "scale": lambda points: (points - 1) / 4
}  # fmt: skip
_RATING = {"rating": (0, 1, 2)}
_MAY_HELP = ("retrieved_contexts?", "reference_contexts?")

_METRICS: dict[str, _Metric] = {
    "AgentGoalAccuracy": _Metric(("conversation", "reference")),
    "AgentGoalAccuracyWithReference": _Metric(("conversation", "reference")),
    "AgentGoalAccuracyWithoutReference": _Metric(("conversation",)),
    "AnswerAccuracy": _Metric(_QUESTION, values={"rating": (0, 2, 4)}),
    "AnswerCorrectness": _Metric(
        _QUESTION, {"weights": _weights, "beta": _beta}, {"weights": [0.75, 0.25]}, embeddings=True, limits=_COSINE
    ),
    "AnswerRelevancy": _Metric(
        ("user_input", "response"),
        {"strictness": lambda name, value: check.whole_number(name, value, 1, 10)},
        {"strictness": 1},
        embeddings=True,
        limits=_COSINE,
    ),
    "ContextEntityRecall": _Metric(("reference", "retrieved_contexts")),
    "ContextPrecision": _Metric(_RETRIEVAL),
    "ContextPrecisionWithReference": _Metric(_RETRIEVAL),
    "ContextPrecisionWithoutReference": _Metric(_ANSWER_ONLY),
    "ContextRecall": _Metric(_RETRIEVAL),
    "ContextRelevance": _Metric(("user_input", "retrieved_contexts"), values=_RATING),
    "ContextUtilization": _Metric(_ANSWER_ONLY),
    "DomainSpecificRubrics": _Metric(
        ("user_input", "response", "reference?", *_MAY_HELP),
        {"rubrics": _rubrics, "with_reference": check.boolean},
        **_GRADE,
    ),
    "FactualCorrectness": _Metric(("response", "reference"), {**_MODE, **_DETAIL, "beta": _beta}),
    "Faithfulness": _Metric(_ANSWER_ONLY),
    "InstanceSpecificRubrics": _Metric(("rubrics", "user_input", "response", "reference?", *_MAY_HELP), **_GRADE),
    "NoiseSensitivity": _Metric(
        (*_QUESTION, "retrieved_contexts"),
        {"mode": lambda name, value: check.one_of(name, value, ("relevant", "irrelevant"))},
        higher_is_better=False,
    ),
    "ResponseGroundedness": _Metric(("response", "retrieved_contexts"), values=_RATING),
    "RubricsScoreWithReference": _Metric((*_QUESTION, *_MAY_HELP), {"rubrics": _rubrics}, **_GRADE),
    "RubricsScoreWithoutReference": _Metric(("user_input", "response", *_MAY_HELP), {"rubrics": _rubrics}, **_GRADE),
    "SQLSemanticEquivalence": _Metric(("response", "reference", "reference_contexts?")),
    "SemanticSimilarity": _Metric(
        ("response", "reference"), {"threshold": _share}, embeddings=True, judge=False, limits=_COSINE
    ),
    "SummaryScore": _Metric(("reference_contexts", "response"), {"length_penalty": check.boolean, "coeff": _share}),
    "TopicAdherence": _Metric(("conversation", "reference_topics"), _MODE),
}


class RagasJudged(JudgeScorer):
    """One ragas metric, asked of our judge with the row's columns.

    input_variable: as for `columns.input_text`. parameters: the metric's own.

    Raises:
        UsageError: at construction, starting with the name of the parameter at fault; `embed` when embeddings lack.
    """

    def __init__(
        self,
        metric_name: str,
        name: str,
        *,
        endpoint: JudgeEndpoint,
        embed: Embed | None = None,
        input_variable: str | None = None,
        **parameters: Any,
    ) -> None:
        type_name, metric = f"ragas.{metric_name}", _METRICS[metric_name]
        check_parameters(type_name, parameters, metric.parameters)
        checked = {key: metric.parameters[key](key, value) for key, value in parameters.items()}
        self._parameters = {**metric.defaults, **checked}
        # AnswerCorrectness without a share of similarity is the one that can do without.
        embeds = metric.embeddings and self._parameters.get("weights", [1, 1])[1] > 0
        if embeds and embed is None:
            raise UsageError(f"embed: {type_name} needs an embedding model")
        self._embed = embed if embeds else None
        self._metric_name, self._metric = metric_name, metric
        self._input_variable = optional_name("input_variable", input_variable)
        self.higher_is_better, self.worst = metric.higher_is_better, 0.0 if metric.higher_is_better else 1.0
        self.limits = metric.scale(metric.limits[0]), metric.scale(metric.limits[1])
        settings = {
            "version": VERSION,
            "metric": metric_name,
            "parameters": self._parameters,
            "input_variable": input_variable,
            "embeddings": dict(getattr(embed, "identity", {})) if embeds else None,
        }
        super().__init__(name, type_name, endpoint, settings)

    @staticmethod
    def more_options(metric_name: str) -> list[Option]:
        """The metric's own options, which the constructor takes as keywords."""
        noise = {"mode": ("relevant or irrelevant", '"relevant"')} if metric_name == "NoiseSensitivity" else {}
        kinds = {**_KINDS, **noise}
        return [Option(name, *kinds[name]) for name in _METRICS[metric_name].parameters]

    def judge(self, row: EvalRow, output: Output) -> Score:
        shown = self._columns(row, output)
        if "response" in self._metric.columns and not output.text.strip():
            return Score(self.worst, "the output is empty")
        judge = RagasJudge(self.client, self._metric.values)
        try:
            result = asyncio.run(self._make(judge).ascore(**shown))
        except Exception as error:
            # ragas wraps what it raises in many ways; what the judge's client said first is the cause.
            raise judge.failure or EngineError(f"ragas.{self._metric_name}: {type(error).__name__}: {error}") from error
        if judge.failure is not None:
            raise judge.failure
        value, (lowest, highest) = float(result.value), self._metric.limits
        if not lowest - _SLACK <= value <= highest + _SLACK:
            raise EngineError(f"ragas.{self._metric_name} gave {value}, which is outside {lowest:g} to {highest:g}")
        value = min(max(value, lowest), highest)
        return Score(self._metric.scale(value), self._rationale(value, result.reason, judge))

    def _columns(self, row: EvalRow, output: Output) -> dict[str, Any]:
        """What the metric is called with. Raises MissingExpectation."""
        shown = {}
        for column in self._metric.columns:
            name = column.removesuffix("?")
            if name != column and not _has(row, name):
                continue
            keyword = "user_input" if name == "conversation" else name
            shown[keyword] = _READERS[name](row, output, self._input_variable)
        return shown

    def _make(self, judge: RagasJudge) -> Any:
        parts: dict[str, Any] = {"llm": judge} if self._metric.judge else {}
        if self._embed is not None:
            parts["embeddings"] = RagasEmbeddings(self._embed)
        return getattr(load_collections(), self._metric_name)(**parts, **self._parameters)

    def _rationale(self, value: float, reason: str | None, judge: RagasJudge) -> str:
        text = reason or reasons(judge.answers)
        return f"{value:g} of 5: {text}" if self._metric.limits[1] == 5.0 else text


def _has(row: EvalRow, column: str) -> bool:
    if column == "reference":
        return bool(row.expectations.get("answers") or row.expectations.get("expected_response"))
    return bool(row.contexts if column == "retrieved_contexts" else row.expectations.get(column))


def _messages(conversation: Sequence[Message]) -> list[Any]:
    """ragas' messages; it has no kind for a system message, so that is left out."""
    load_collections()
    from ragas.messages import AIMessage, HumanMessage

    kinds = {"user": HumanMessage, "assistant": AIMessage}
    return [kinds[turn["role"]](content=turn["content"]) for turn in conversation if turn["role"] in kinds]


@functools.cache
def load_collections() -> Any:
    """`ragas.metrics.collections`, taking our judge and embeddings for its own kinds; seconds at the first call."""
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ragas' own deprecations, at import
        from ragas.embeddings.base import BaseRagasEmbedding
        from ragas.llms.base import InstructorBaseRagasLLM
        from ragas.metrics import collections

        InstructorBaseRagasLLM.register(RagasJudge)
        BaseRagasEmbedding.register(RagasEmbeddings)
    return collections


TYPES: dict[str, Callable[..., Scorer]] = {
    f"ragas.{metric_name}": functools.partial(RagasJudged, metric_name) for metric_name in _METRICS
}
NEEDS_EMBEDDINGS = frozenset(f"ragas.{name}" for name, metric in _METRICS.items() if metric.embeddings)
NEEDS_NO_JUDGE = frozenset(f"ragas.{name}" for name, metric in _METRICS.items() if not metric.judge)
