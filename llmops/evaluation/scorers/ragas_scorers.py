"""ragas' metrics (0.4.3) that need no judge, by their own names: `ragas.RougeScore` and so on.

Those of reference and response are computed here with the libraries that ragas calls, sacrebleu, rouge_score and
rapidfuzz: they give what ragas gives, but where that is wrong, which each says. The best score over a row's expected
answers counts, as is usual with several references. The others are ragas' own code; they read what else a row holds:
its contexts, `reference_contexts`, `retrieved_context_ids` and `reference_context_ids`. ragas is imported when the
first score of these is asked for (seconds).

DataCompyScore is left out: it needs the package datacompy, and compares CSV tables. What needs a judge or embeddings is
in `llmops.judges.ragas_judges`.
"""

from __future__ import annotations

import asyncio
import functools
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.options import Option
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer, expected_answers
from llmops.evaluation.scorers.reference_scorers import TOKENIZERS, blank_score, rouge_score_of
from llmops.evaluation.scorers.tool_calls import calls_of, expected_calls

# Filters of warnings belong to the process: two threads that set and restore them at once leave them changed.
_filtering = threading.RLock()


class _OfAnswers(Correctness, ABC):
    """Base: the output against each expected answer, the best of them."""

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if (blank := blank_score(output.text, answers)) is not None:
            return blank
        values = [(self._value(answer, output.text), answer) for answer in answers if answer.strip()]
        value, answer = max(values, key=lambda pair: pair[0])
        return Score(min(value, 1.0), f"against {answer!r}")

    @abstractmethod
    def _value(self, reference: str, response: str) -> float: ...


class BleuScore(_OfAnswers):
    """sacrebleu's corpus BLEU of the single output, from 0 to 1.

    Unlike ragas, this scorer uses the whole text (ragas cuts both texts at ". " and scores only the first sentence) and
    stops at the longest n-gram that a text has (in ragas a perfect answer of fewer than four words scores 0).

    kwargs: arguments of `sacrebleu.corpus_bleu`: smooth_method, smooth_value, force, lowercase, tokenize (13a, intl,
    char, zh or none), use_effective_order. Not counted: in Chinese or Japanese, anything but the whole text, unless
    tokenize is char or zh.
    """

    def __init__(self, name: str, kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__(name)
        known = ("smooth_method", "smooth_value", "force", "lowercase", "tokenize", "use_effective_order")
        self._given = {"use_effective_order": True, **_keywords(kwargs, known)}
        if self._given.get("tokenize") is not None:
            parameters.one_of("kwargs.tokenize", self._given["tokenize"], TOKENIZERS)

    def _value(self, reference: str, response: str) -> float:
        from sacrebleu import corpus_bleu

        return float(corpus_bleu([response], [[reference]], **self._given).score) / 100


class CHRFScore(_OfAnswers):
    """sacrebleu's corpus chrF of the single output, from 0 to 1, in any script.

    kwargs: arguments of `sacrebleu.corpus_chrf`: char_order, word_order, beta, remove_whitespace, eps_smoothing. Not
    counted: white space, unless remove_whitespace is false.
    """

    def __init__(self, name: str, kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__(name)
        self._given = _keywords(kwargs, ("char_order", "word_order", "beta", "remove_whitespace", "eps_smoothing"))

    def _value(self, reference: str, response: str) -> float:
        from sacrebleu import corpus_chrf

        return float(corpus_chrf([response], [[reference]], **self._given).score) / 100


class ExactMatch(_OfAnswers):
    """1 when the output equals an expected answer, character by character; otherwise 0."""

    def _value(self, reference: str, response: str) -> float:
        return float(reference == response)


class StringPresence(_OfAnswers):
    """1 when the output contains an expected answer, character by character; otherwise 0.

    Not counted: word boundaries (“party” contains “art”). `contains` looks for whole words.
    """

    def _value(self, reference: str, response: str) -> float:
        return float(reference in response)


class NonLLMStringSimilarity(_OfAnswers):
    """1 − the distance between output and answer as a share of the longer one, by rapidfuzz.

    distance_measure: levenshtein, hamming, jaro or jaro_winkler.
    """

    def __init__(self, name: str, distance_measure: str = "levenshtein") -> None:
        super().__init__(name)
        self._measure = parameters.one_of("distance_measure", distance_measure, tuple(_DISTANCES))

    def _value(self, reference: str, response: str) -> float:
        return likeness(reference, response, self._measure)


_DISTANCES = {"levenshtein": "Levenshtein", "hamming": "Hamming", "jaro": "Jaro", "jaro_winkler": "JaroWinkler"}


def likeness(one: str, other: str, measure: str = "levenshtein") -> float:
    """1 − rapidfuzz' normalised distance, as ragas' NonLLMStringSimilarity. measure: a key of `_DISTANCES`."""
    from rapidfuzz import distance

    return 1.0 - float(getattr(distance, _DISTANCES[measure]).normalized_distance(one, other))


class RougeScore(_OfAnswers):
    """ROUGE by Google's rouge_score with English stems, from 0 to 1.

    Unlike ragas, this scorer reads every script, as `rouge` does: Google's tokens are only a–z and 0–9, so ragas gives
    0 to a perfect answer in Cyrillic.

    rouge_type: rouge1, rouge2, rougeL or rougeLsum. mode: fmeasure, precision or recall. Not counted: punctuation
    and signs.
    """

    def __init__(self, name: str, rouge_type: str = "rougeL", mode: str = "fmeasure") -> None:
        super().__init__(name)
        self._type = parameters.one_of("rouge_type", rouge_type, ("rouge1", "rouge2", "rougeL", "rougeLsum"))
        self._mode = parameters.one_of("mode", mode, ("fmeasure", "precision", "recall"))

    def _value(self, reference: str, response: str) -> float:
        return float(getattr(rouge_score_of([reference], response, self._type, use_stemmer=True), self._mode))


class QuotedSpansAlignment(Correctness):
    """Share of the output's quotations that occur in the row's contexts; 1 when it quotes nothing.

    Unlike ragas, this scorer does not treat an apostrophe as a quotation mark: in ragas “I don't think that it's so”
    quotes “t think that it”. casefold: true ignores case. min_span_words: quotations of fewer words are not counted.
    Not counted: quotations between « » or 「 」, and those that continue on the next line.
    """

    def __init__(self, name: str, casefold: bool = True, min_span_words: int = 3) -> None:
        super().__init__(name)
        self._given = {
            "casefold": parameters.boolean("casefold", casefold),
            "min_span_words": parameters.whole_number("min_span_words", min_span_words, 1, 1000),
        }
        self._lock = threading.Lock()
        self._metric: Any = None

    def score(self, row: EvalRow, output: Output) -> Score:
        contexts = [_without_apostrophes(context) for context in _contexts(row)]
        with self._lock:
            if self._metric is None:
                self._metric = load("QuotedSpansAlignment", self._given)
            result = self._metric.score(response=_without_apostrophes(output.text), retrieved_contexts=contexts)
        return Score(float(result.value), result.reason)


_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)|(?<=s)['’](?=\s)")


def _without_apostrophes(text: str) -> str:
    """The text with a letter in the place of each apostrophe (U+02BC), which ragas takes for no quotation mark."""
    return _APOSTROPHE.sub("\u02bc", text)


class ContextScorer(Correctness):
    """How well the contexts of a row match those it should have: by text, or by id. The output plays no part.

    By text: the row's contexts against `expectations.reference_contexts`. By id: `expectations.retrieved_context_ids`
    against `expectations.reference_context_ids`.
    """

    def __init__(self, metric_name: str, name: str, **given: Any) -> None:
        """Raises UsageError."""
        super().__init__(name)
        known = {"threshold"} if metric_name in _BY_TEXT else set()
        if unknown := sorted(given.keys() - known):
            raise UsageError(f"{unknown[0]}: ragas.{metric_name} has no such option")
        if "threshold" in given and not 0 <= parameters.number("threshold", given["threshold"]) < 1:
            raise UsageError("threshold: must be a number from 0 to below 1, which equal texts have to exceed")
        self._metric_name, self._given = metric_name, given
        self._lock = threading.Lock()
        self._metric: Any = None

    @staticmethod
    def more_options(metric_name: str) -> list[Option]:
        """The options, which the constructor takes as keywords."""
        return [Option("threshold", "number", "0.5")] if metric_name in _BY_TEXT else []

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        columns = self._columns(row)
        with self._lock:
            if self._metric is None:
                self._metric = _load_of_contexts(self._metric_name, self._given)
            from ragas.dataset_schema import SingleTurnSample

            # Its public name adds a report of use that is sent to ragas' makers.
            value = float(asyncio.run(self._metric._single_turn_ascore(SingleTurnSample(**columns), [])))
        if not 0.0 <= value <= 1.0 + 1e-9:
            return Score(error=f"ragas {self._metric_name} gave {value}, which is outside 0–1")
        return Score(1.0 if value > 1 - 1e-9 else value)  # ragas adds small numbers to denominators

    def _columns(self, row: EvalRow) -> dict[str, list[str]]:
        """Raises MissingExpectation."""
        if self._metric_name in _BY_TEXT:
            return {"retrieved_contexts": _contexts(row), "reference_contexts": _texts(row, "reference_contexts")}
        return {name: _texts(row, name) for name in ("retrieved_context_ids", "reference_context_ids")}


class RagasToolCalls(Correctness):
    """One of ragas' metrics of tool calls."""

    def __init__(self, metric_name: str, name: str, **given: Any) -> None:
        """Raises UsageError."""
        super().__init__(name)
        known = {"strict_order"} if metric_name == "ToolCallAccuracy" else set()
        if unknown := sorted(given.keys() - known):
            raise UsageError(f"{unknown[0]}: ragas.{metric_name} has no such option")
        if "strict_order" in given:
            parameters.boolean("strict_order", given["strict_order"])
        self._metric_name, self._given = metric_name, given
        self.not_counted = _NOT_COUNTED[metric_name]
        self._lock = threading.Lock()
        self._metric: Any = None

    @staticmethod
    def more_options(metric_name: str) -> list[Option]:
        """The options, which the constructor takes as keywords."""
        return [Option("strict_order", "true or false", "true")] if metric_name == "ToolCallAccuracy" else []

    def score(self, row: EvalRow, output: Output) -> Score:
        wanted = expected_calls(row)
        made, problem = calls_of(output)
        with _filtering, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ragas warns of every output with fewer or more calls than expected
            with self._lock:
                if self._metric is None:
                    self._metric = load(self._metric_name, self._given)
            from ragas.messages import AIMessage, ToolCall

            called = AIMessage(content=output.text, tool_calls=[ToolCall(**call) for call in made])
            reference = [ToolCall(**call) for call in wanted]
            value = float(self._metric.score(user_input=[called], reference_tool_calls=reference).value)
        if not made and not wanted:
            value = 1.0  # ToolCallF1 gives 0 where nothing was to be called and nothing is
        return Score(value, problem or f"calls {', '.join(call['name'] for call in made) or 'nothing'}")


_NOT_COUNTED = {
    "ToolCallAccuracy": 'surplus arguments, and whether a value is 1 or "1"',
    "ToolCallF1": "how often a call is made, its order, and whether a value is 1 or true",
}

# ragas' name of the measure of likeness in each; each gives it to its own by default, which reports its use.
_BY_TEXT = {"NonLLMContextPrecisionWithReference": "distance_measure", "NonLLMContextRecall": "_distance_measure"}
_OF_CONTEXTS = {
    "IDBasedContextPrecision": """Share of the retrieved ids (`expectations.retrieved_context_ids`) that are among
        `expectations.reference_context_ids`. Not counted: order, repeats, and whether an id is 1 or "1".""",
    "IDBasedContextRecall": """Share of `expectations.reference_context_ids` that are among the retrieved ids
        (`expectations.retrieved_context_ids`). Not counted: order, repeats, and whether an id is 1 or "1".""",
    "NonLLMContextPrecisionWithReference": """Average precision of the row's contexts, in their order. A context is
        relevant if it is similar to one of `expectations.reference_contexts`. threshold: the lowest similarity that
        counts, from the normalised Levenshtein distance. Not counted: whether two contexts are the same.""",
    "NonLLMContextRecall": """Share of `expectations.reference_contexts` to which one of the row's contexts is similar.
        threshold: the similarity that must be exceeded, from the normalised Levenshtein distance; below 1.""",
}
MEANINGS: Mapping[str, str] = {
    **{f"ragas.{name}": meaning for name, meaning in _OF_CONTEXTS.items()},
    "ragas.ToolCallAccuracy": f"""Mean share of the expected arguments that each call has, if the names of all calls are
        the expected ones in the expected order; otherwise 0. strict_order: false accepts any order. Not counted:
        {_NOT_COUNTED["ToolCallAccuracy"]}; `tool_calls` counts all of that.""",
    "ragas.ToolCallF1": f"""F1 between the set of calls that the output makes and the set of `expectations.tool_calls`.
        Not counted: {_NOT_COUNTED["ToolCallF1"]}; `tool_calls` counts all of that.""",
}
"""What each type gives whose class does not say it."""


def _keywords(given: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"kwargs: must be a table of {', '.join(known)}, not {given!r}")
    if unknown := sorted(given.keys() - set(known)):
        raise UsageError(f"kwargs.{unknown[0]}: there is no such keyword; known: {', '.join(known)}")
    return dict(given)


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


def load(metric_name: str, given: Mapping[str, Any]) -> Any:
    """A metric of ragas' collections."""
    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ragas' own deprecations, at import
        from ragas.metrics import collections

        return getattr(collections, metric_name)(**given)


def _load_of_contexts(metric_name: str, given: Mapping[str, Any]) -> Any:
    """Metrics of ragas' older interface: those of contexts that need no judge are in no other."""
    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ragas import metrics

        own = {_BY_TEXT[metric_name]: _Likeness()} if metric_name in _BY_TEXT else {}
        return getattr(metrics, metric_name)(**given, **own)


class _Likeness:
    """The likeness of two texts, under the name that ragas' context metrics call it by."""

    async def single_turn_ascore(self, sample: Any, _callbacks: Any) -> float:
        return likeness(sample.reference, sample.response)


TYPES: dict[str, Callable[..., Scorer]] = {
    **{
        f"ragas.{scorer.__name__}": scorer
        for scorer in (
            BleuScore, CHRFScore, ExactMatch, NonLLMStringSimilarity, RougeScore, StringPresence, QuotedSpansAlignment
        )
    },
    **{f"ragas.{metric_name}": functools.partial(ContextScorer, metric_name) for metric_name in _OF_CONTEXTS},
    **{f"ragas.{metric_name}": functools.partial(RagasToolCalls, metric_name) for metric_name in _NOT_COUNTED},
}  # fmt: skip
