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

Where ours differs from a bare call of ragas: a failed judge call fails the score, where some metrics would try again
five times and then average what is left; AnswerRelevancy makes one question instead of three unless `strictness` says
otherwise, because a judge that decodes greedily makes the same one three times; and answers are bounded (`ragas_bridge`).
"""  # noqa: E501 - a table's rows cannot be broken

import asyncio
import functools
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, create_model

from llmops.errors import EngineError, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import Amount, Scorer, Text, expected_answers
from llmops.generation import Message
from llmops.judges.ragas_bridge import BoundedJudge, RagasEmbeddings, reasons
from llmops.judges.scorer import (
    JudgeScorer,
    contexts,
    conversation,
    expected_mapping,
    expected_texts,
    input_text,
)

VERSION = 1
_loading = threading.Lock()
_SLACK = 1e-6  # ragas adds small numbers to denominators, and cosines of equal texts overshoot 1


def _one_above_0(weights: Sequence[float]) -> list[float]:
    if not any(weights):
        raise ValueError("one of them must be above 0")
    return list(weights)


_Brevity = Annotated[float, Field(ge=0, le=1, description="number from 0 to 1, the weight of brevity")]
_Threshold = Annotated[
    Annotated[float, Field(ge=0, le=1)] | None,
    Field(description="number from 0 to 1, from which on the score is 1, else 0"),
]
_RubricKey = Literal[
    "score1_description", "score2_description", "score3_description", "score4_description", "score5_description"
]
# What a suite may set, and its default. Defaults are ragas' own and not handed on, but for those of `_OWN_DEFAULTS`.
_OWN_DEFAULTS = {"weights", "strictness"}
_MODE = {"mode": (Literal["precision", "recall", "f1"], "f1")}
_DETAIL = dict.fromkeys(("atomicity", "coverage"), (Literal["low", "high"], "low"))
_BETA = {"beta": (Annotated[float, Field(gt=0, allow_inf_nan=False)], 1.0)}
_RUBRICS = {
    "rubrics": (
        Annotated[
            Annotated[dict[_RubricKey, Text], Field(min_length=5)] | None,
            Field(description="table of score1_description to score5_description; ragas' general ones without"),
        ],
        None,
    )
}
_WEIGHTS = Annotated[
    Sequence[Amount],
    Field(min_length=2, max_length=2, description="two numbers, of facts and of similarity"),
    AfterValidator(_one_above_0),
]

# Columns by ragas' keyword; a `?` marks one that is shown where the row has it. `conversation` is its `user_input` of
# metrics that read whole exchanges.
_READERS: Mapping[str, Callable[[EvalRow, Output, str | None], Any]] = {
    "user_input": lambda row, _output, variable: input_text(row, variable),
    "response": lambda _row, output, _variable: output.text,
    "reference": lambda row, _output, _variable: expected_answers(row)[0],
    "retrieved_contexts": lambda row, _output, _variable: contexts(row),
    "reference_contexts": lambda row, _output, _variable: expected_texts(row, "reference_contexts"),
    "reference_topics": lambda row, _output, _variable: expected_texts(row, "reference_topics"),
    "rubrics": lambda row, _output, _variable: expected_mapping(row, "rubrics"),
    "conversation": lambda row, output, variable: _messages(conversation(row, output, variable)),
}


@dataclass(frozen=True)
class _Metric:
    """What a metric is given, and what it may give back.

    meaning: what it gives, in words.
    columns: what it reads of a row.
    options: type and default by name.
    values: bounds of fields of the judge's answers, besides those of every metric.
    embeddings, judge: what it needs.
    limits: of ragas' value; points: whether these are 1 to 5, which becomes 0 to 1.
    """

    meaning: str
    columns: Sequence[str]
    options: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    embeddings: bool = False
    judge: bool = True
    limits: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True

    @property
    def points(self) -> bool:
        """Whether ragas' values are points from 1 to 5."""
        return self.limits[1] == 5.0

    def scaled(self, value: float) -> float:
        """A value of ragas as scores have it: points as their share of the way from 1 to 5."""
        return (value - 1) / 4 if self.points else value


_QUESTION = ("user_input", "response", "reference")
_RETRIEVAL = ("user_input", "reference", "retrieved_contexts")
_ANSWER_ONLY = ("user_input", "response", "retrieved_contexts")
_GRADE: dict[str, Any] = {"values": {"score": (1, 2, 3, 4, 5)}, "limits": (1.0, 5.0)}
_COSINE: dict[str, Any] = {"embeddings": True, "limits": (-1.0, 1.0)}
_RATING = {"rating": (0, 1, 2)}
_MAY_HELP = ("retrieved_contexts?", "reference_contexts?")
_REACHED = "whether the conversation reached the goal that"

_METRICS: dict[str, _Metric] = {
    "AgentGoalAccuracy": _Metric(f"{_REACHED} the expected answer states", ("conversation", "reference")),
    "AgentGoalAccuracyWithReference": _Metric(f"{_REACHED} the expected answer states", ("conversation", "reference")),
    "AgentGoalAccuracyWithoutReference": _Metric(f"{_REACHED} the user had", ("conversation",)),
    "AnswerAccuracy": _Metric(
        "how far the output agrees with the expected answer, asked twice with the two swapped",
        _QUESTION,
        values={"rating": (0, 2, 4)},
    ),
    "AnswerCorrectness": _Metric(
        "F1 of the statements that output and expected answer share, plus their semantic similarity",
        _QUESTION,
        {"weights": (_WEIGHTS, (0.75, 0.25)), **_BETA},
        **_COSINE,
    ),
    "AnswerRelevancy": _Metric(
        "cosine between the question and questions that the judge derives from the output; 0 if evasive",
        ("user_input", "response"),
        {"strictness": (Annotated[int, Field(ge=1, le=10)], 1)},
        **_COSINE,
    ),
    "ContextEntityRecall": _Metric(
        "the share of the expected answer's entities that the contexts contain", ("reference", "retrieved_contexts")
    ),
    "ContextPrecision": _Metric(
        "average precision of the contexts; relevant are those useful for the expected answer", _RETRIEVAL
    ),
    "ContextPrecisionWithReference": _Metric("the same as ContextPrecision", _RETRIEVAL),
    "ContextPrecisionWithoutReference": _Metric(
        "average precision of the contexts; relevant are those useful for the output", _ANSWER_ONLY
    ),
    "ContextRecall": _Metric("the share of the expected answer's statements that the contexts support", _RETRIEVAL),
    "ContextRelevance": _Metric(
        "how far the contexts contain what the question asks for, the mean of two judgements",
        ("user_input", "retrieved_contexts"),
        values=_RATING,
    ),
    "ContextUtilization": _Metric("the same as ContextPrecisionWithoutReference", _ANSWER_ONLY),
    "DomainSpecificRubrics": _Metric(
        "points from 1 to 5 by your own rubrics, scaled to 0 to 1",
        ("user_input", "response", "reference?", *_MAY_HELP),
        {**_RUBRICS, "with_reference": (bool, False)},
        **_GRADE,
    ),
    "FactualCorrectness": _Metric(
        "F1, precision or recall of the claims that output and expected answer share",
        ("response", "reference"),
        {**_MODE, **_DETAIL, **_BETA},
    ),
    "Faithfulness": _Metric("the share of the output's statements that the contexts support", _ANSWER_ONLY),
    "InstanceSpecificRubrics": _Metric(
        "points from 1 to 5 by the row's `expectations.rubrics`, scaled to 0 to 1",
        ("rubrics", "user_input", "response", "reference?", *_MAY_HELP),
        **_GRADE,
    ),
    "NoiseSensitivity": _Metric(
        "the share of the output's statements that are wrong and come from the contexts",
        (*_QUESTION, "retrieved_contexts"),
        {"mode": (Literal["relevant", "irrelevant"], "relevant")},
        higher_is_better=False,
    ),
    "ResponseGroundedness": _Metric(
        "how far the contexts support the output, the mean of two judgements",
        ("response", "retrieved_contexts"),
        values=_RATING,
    ),
    "RubricsScoreWithReference": _Metric(
        "points from 1 to 5 by rubrics, given the expected answer, scaled to 0 to 1",
        (*_QUESTION, *_MAY_HELP),
        _RUBRICS,
        **_GRADE,
    ),
    "RubricsScoreWithoutReference": _Metric(
        "points from 1 to 5 by rubrics, scaled to 0 to 1", ("user_input", "response", *_MAY_HELP), _RUBRICS, **_GRADE
    ),
    "SQLSemanticEquivalence": _Metric(
        "whether the output is an SQL query equivalent to the expected one",
        ("response", "reference", "reference_contexts?"),
    ),
    "SemanticSimilarity": _Metric(
        "cosine of the embeddings of output and expected answer; no judge is asked",
        ("response", "reference"),
        {"threshold": (_Threshold, None)},
        judge=False,
        **_COSINE,
    ),
    "SummaryScore": _Metric(
        "share of questions about the sources that the output answers, less for length: never quite 1",
        ("reference_contexts", "response"),
        {"length_penalty": (bool, True), "coeff": (_Brevity, 0.5)},
    ),
    "TopicAdherence": _Metric(
        "whether the conversation stays on `expectations.reference_topics`", ("conversation", "reference_topics"), _MODE
    ),
}


class RagasJudge(JudgeScorer):
    """One ragas metric, asked of our judge with the row's columns. Its options are fields of a type made for it."""

    metric_name: ClassVar[str]
    metric: ClassVar[_Metric]
    input_variable: Text | None = None

    def model_post_init(self, context: Any) -> None:
        """Raises UsageError."""
        super().model_post_init(context)
        if self._embeds and self.embed is None:
            raise UsageError(f"embed: {self.type_name} needs an embedding model")

    @property
    def _embeds(self) -> bool:
        # AnswerCorrectness without a share of similarity is the one that can do without.
        return self.metric.embeddings and self._parameters.get("weights", [1, 1])[1] > 0

    @property
    def _parameters(self) -> dict[str, Any]:
        """What ragas' metric is made with."""
        return self.model_dump(include=self.metric.options.keys() & (self.model_fields_set | _OWN_DEFAULTS))

    @property
    def _settings(self) -> Mapping[str, Any]:
        return {
            "version": VERSION,
            "metric": self.metric_name,
            "parameters": self._parameters,
            "input_variable": self.input_variable,
            "embeddings": dict(getattr(self.embed, "identity", {})) if self._embeds else None,
        }

    def judge(self, row: EvalRow, output: Output) -> Score:
        shown: dict[str, Any] = {}
        for column in self.metric.columns:
            name = column.removesuffix("?")
            if name == column or _has(row, name):
                keyword = "user_input" if name == "conversation" else name
                shown[keyword] = _READERS[name](row, output, self.input_variable)
        if "response" in self.metric.columns and not output.text.strip():
            return Score(self.worst, "the output is empty")
        judge = BoundedJudge(self._client, self.metric.values)
        parts: dict[str, Any] = {"llm": judge} if self.metric.judge else {}
        if self._embeds and self.embed is not None:
            parts["embeddings"] = RagasEmbeddings(self.embed)
        try:
            made = getattr(load_collections(), self.metric_name)(**parts, **self._parameters)
            result = asyncio.run(made.ascore(**shown))
        except Exception as error:
            # ragas wraps what it raises in many ways; what the judge's client said first is the cause.
            raise judge.failure or EngineError(f"{self.type_name}: {type(error).__name__}: {error}") from error
        if judge.failure is not None:
            raise judge.failure
        value, (lowest, highest) = float(result.value), self.metric.limits
        if not lowest - _SLACK <= value <= highest + _SLACK:
            raise EngineError(f"{self.type_name} gave {value}, which is outside {lowest:g} to {highest:g}")
        value, reason = min(max(value, lowest), highest), result.reason or reasons(judge.answers)
        return Score(self.metric.scaled(value), f"{value:g} of 5: {reason}" if self.metric.points else reason)


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

        InstructorBaseRagasLLM.register(BoundedJudge)
        BaseRagasEmbedding.register(RagasEmbeddings)
    return collections


def _judge_type(name: str, metric: _Metric) -> type[RagasJudge]:
    options: Any = metric.options
    made: Any = create_model(name, __base__=RagasJudge, __doc__=metric.meaning, **options)
    made.type_name, made.metric_name, made.metric = f"ragas.{name}", name, metric
    made.higher_is_better, made.worst = metric.higher_is_better, 0.0 if metric.higher_is_better else 1.0
    made.limits = metric.scaled(metric.limits[0]), metric.scaled(metric.limits[1])
    return made  # type: ignore[no-any-return]


TYPES: dict[str, Callable[..., Scorer]] = {
    f"ragas.{name}": _judge_type(name, metric) for name, metric in _METRICS.items()
}
NEEDS_EMBEDDINGS = frozenset(f"ragas.{name}" for name, metric in _METRICS.items() if metric.embeddings)
NEEDS_NO_JUDGE = frozenset(f"ragas.{name}" for name, metric in _METRICS.items() if not metric.judge)
