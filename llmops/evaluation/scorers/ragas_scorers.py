"""ragas' metrics (0.4.3) that need no judge, by their own names: `ragas.RougeScore` and so on.

Those of reference and response are computed here with the libraries that ragas calls, sacrebleu, rouge_score and
rapidfuzz: they give what ragas gives, but where that is wrong, which each says. The best score over a row's expected
answers counts, as is usual with several references. The others are ragas' own code; they read what else a row holds:
its contexts, `reference_contexts`, `retrieved_context_ids` and `reference_context_ids`. ragas is imported when the
first score of these is asked for (seconds).

DataCompyScore is left out: it needs the package datacompy, and compares CSV tables. What needs a judge or embeddings is
in `llmops.judges.ragas_judges`.
"""

import asyncio
import re
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.json_scorers import calls_of, expected_calls
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer, expected_answers
from llmops.evaluation.scorers.reference_scorers import RougeType, Tokenizer, blank_score, rouge_score_of

# Of ragas' use, and of filters of warnings: these belong to the process, and two threads that set and restore them at
# once leave them changed.
_lock = threading.RLock()


class _OfAnswers(Correctness):
    """Base: the output against each expected answer, the best of them."""

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if (blank := blank_score(output.text, answers)) is not None:
            return blank
        values = {answer: self._value(answer, output.text) for answer in answers if answer.strip()}
        best = max(values, key=values.__getitem__)
        return Score(min(values[best], 1.0), f"against {best!r}")

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

    kwargs: dict[
        Literal["smooth_method", "smooth_value", "force", "lowercase", "tokenize", "use_effective_order"], Any
    ] = {}

    def model_post_init(self, _: Any) -> None:
        """Raises UsageError."""
        if (tokenize := self.kwargs.get("tokenize")) not in (None, *get_args(Tokenizer)):
            raise UsageError(f"kwargs.tokenize: must be one of {', '.join(get_args(Tokenizer))}, not {tokenize!r}")

    def _value(self, reference: str, response: str) -> float:
        from sacrebleu import corpus_bleu

        given = {"use_effective_order": True} | dict(self.kwargs)
        return float(corpus_bleu([response], [[reference]], **given).score) / 100


class CHRFScore(_OfAnswers):
    """sacrebleu's corpus chrF of the single output, from 0 to 1, in any script.

    kwargs: arguments of `sacrebleu.corpus_chrf`: char_order, word_order, beta, remove_whitespace, eps_smoothing. Not
    counted: white space, unless remove_whitespace is false.
    """

    kwargs: dict[Literal["char_order", "word_order", "beta", "remove_whitespace", "eps_smoothing"], Any] = {}

    def _value(self, reference: str, response: str) -> float:
        from sacrebleu import corpus_chrf

        return float(corpus_chrf([response], [[reference]], **self.kwargs).score) / 100


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

    distance_measure: Literal["levenshtein", "hamming", "jaro", "jaro_winkler"] = "levenshtein"

    def _value(self, reference: str, response: str) -> float:
        return similarity(reference, response, self.distance_measure)


def similarity(one: str, other: str, measure: str = "levenshtein") -> float:
    """1 − rapidfuzz' normalised distance, as ragas' NonLLMStringSimilarity."""
    from rapidfuzz import distance

    metric = getattr(distance, measure.title().replace("_", ""))  # jaro_winkler is JaroWinkler there
    return 1.0 - float(metric.normalized_distance(one, other))


class RougeScore(_OfAnswers):
    """ROUGE by Google's rouge_score with English stems, from 0 to 1.

    Unlike ragas, this scorer reads every script, as `rouge` does: Google's tokens are only a–z and 0–9, so ragas gives
    0 to a perfect answer in Cyrillic.

    rouge_type: rouge1, rouge2, rougeL or rougeLsum. mode: fmeasure, precision or recall. Not counted: punctuation
    and signs.
    """

    rouge_type: RougeType = "rougeL"
    mode: Literal["fmeasure", "precision", "recall"] = "fmeasure"

    def _value(self, reference: str, response: str) -> float:
        return float(getattr(rouge_score_of([reference], response, self.rouge_type, use_stemmer=True), self.mode))


class _OfRagas(Correctness):
    """Base: a metric of ragas' own code, under the name of the class; one score at a time."""

    _metric: Any = None

    def _load(self) -> Any:  # with the lock held
        if self._metric is None:
            self._metric = load(type(self).__name__, self.model_dump(exclude={"name"}))
        return self._metric


class QuotedSpansAlignment(_OfRagas):
    """Share of the output's quotations that occur in the row's contexts; 1 when it quotes nothing.

    Unlike ragas, this scorer does not treat an apostrophe as a quotation mark: in ragas “I don't think that it's so”
    quotes “t think that it”. casefold: true ignores case. min_span_words: quotations of fewer words are not counted.
    Not counted: quotations between « » or 「 」, and those that continue on the next line.
    """

    casefold: bool = True
    min_span_words: Annotated[int, Field(ge=1, le=1000)] = 3

    def score(self, row: EvalRow, output: Output) -> Score:
        # A letter in the place of each apostrophe (U+02BC), which ragas takes for no quotation mark.
        response, *contexts = (_APOSTROPHE.sub("\u02bc", text) for text in (output.text, *_contexts(row)))
        with _lock:
            result = self._load().score(response=response, retrieved_contexts=contexts)
        return Score(float(result.value), result.reason)


_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)|(?<=s)['’](?=\s)")


class _ById(_OfRagas):
    """How well the contexts of a row match those it should have; the output plays no part. Here by their ids."""

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        columns = self._columns(row)
        with _lock:
            metric = self._load()
            from ragas.dataset_schema import SingleTurnSample

            # Its public name adds a report of use that is sent to ragas' makers.
            value = float(asyncio.run(metric._single_turn_ascore(SingleTurnSample(**columns), [])))
        if not 0.0 <= value <= 1.0 + 1e-9:
            return Score(error=f"ragas {type(self).__name__} gave {value}, which is outside 0–1")
        return Score(1.0 if value > 1 - 1e-9 else value)  # ragas adds small numbers to denominators

    def _columns(self, row: EvalRow) -> dict[str, list[str]]:
        return {name: _texts(row, name) for name in ("retrieved_context_ids", "reference_context_ids")}


class IDBasedContextPrecision(_ById):
    """Share of the retrieved ids (`expectations.retrieved_context_ids`) that are among
    `expectations.reference_context_ids`. Not counted: order, repeats, and whether an id is 1 or "1"."""


class IDBasedContextRecall(_ById):
    """Share of `expectations.reference_context_ids` that are among the retrieved ids
    (`expectations.retrieved_context_ids`). Not counted: order, repeats, and whether an id is 1 or "1"."""


class _ByText(_ById):
    threshold: Annotated[float, Field(ge=0, lt=1, description="number from 0 to below 1")] = 0.5

    def _columns(self, row: EvalRow) -> dict[str, list[str]]:
        return {"retrieved_contexts": _contexts(row), "reference_contexts": _texts(row, "reference_contexts")}


class NonLLMContextPrecisionWithReference(_ByText):
    """Average precision of the row's contexts, in their order. A context is relevant if it is similar to one of
    `expectations.reference_contexts`. threshold: the lowest similarity that counts, from the normalised Levenshtein
    distance. Not counted: whether two contexts are the same."""


class NonLLMContextRecall(_ByText):
    """Share of `expectations.reference_contexts` to which one of the row's contexts is similar. threshold: the
    similarity that must be exceeded, from the normalised Levenshtein distance; below 1."""


class ToolCallF1(_OfRagas):
    """F1 between the set of calls that the output makes and the set of `expectations.tool_calls`. Not counted: how
    often a call is made, its order, and whether a value is 1 or true; `tool_calls` counts all of that."""

    not_counted: ClassVar[str] = "how often a call is made, its order, and whether a value is 1 or true"

    def score(self, row: EvalRow, output: Output) -> Score:
        wanted = expected_calls(row)
        made, problem = calls_of(output)
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ragas warns of every output with fewer or more calls than expected
            metric = self._load()
            from ragas.messages import AIMessage, ToolCall

            called = AIMessage(content=output.text, tool_calls=[ToolCall(**call) for call in made])
            reference = [ToolCall(**call) for call in wanted]
            value = float(metric.score(user_input=[called], reference_tool_calls=reference).value)
        if not made and not wanted:
            value = 1.0  # ToolCallF1 gives 0 where nothing was to be called and nothing is
        return Score(value, problem or f"calls {', '.join(call['name'] for call in made) or 'nothing'}")


class ToolCallAccuracy(ToolCallF1):
    """Mean share of the expected arguments that each call has, if the names of all calls are the expected ones in the
    expected order; otherwise 0. strict_order: false accepts any order. Not counted: surplus arguments, and whether a
    value is 1 or "1"; `tool_calls` counts all of that."""

    not_counted = 'surplus arguments, and whether a value is 1 or "1"'
    strict_order: bool = True


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


# Metrics of contexts that need no judge are in ragas' older interface alone. By ragas' name of the measure of
# similarity in each, where it has one; each gives it to its own by default, which reports its use.
_OLDER = {
    "IDBasedContextPrecision": None,
    "IDBasedContextRecall": None,
    "NonLLMContextPrecisionWithReference": "distance_measure",
    "NonLLMContextRecall": "_distance_measure",
}


def load(metric_name: str, given: Mapping[str, Any]) -> Any:
    """A metric of ragas' collections, or of its older interface."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ragas' own deprecations, at import
        if metric_name not in _OLDER:
            from ragas.metrics import collections

            return getattr(collections, metric_name)(**given)
        from ragas import metrics

        measure = _OLDER[metric_name]
        return getattr(metrics, metric_name)(**given, **({measure: _Similarity()} if measure else {}))


class _Similarity:
    """The similarity of two texts, under the name that ragas' context metrics call it by."""

    async def single_turn_ascore(self, sample: Any, _callbacks: Any) -> float:
        return similarity(sample.reference, sample.response)


TYPES: dict[str, Callable[..., Scorer]] = {
    f"ragas.{scorer.__name__}": scorer
    for scorer in (
        BleuScore, CHRFScore, ExactMatch, NonLLMStringSimilarity, RougeScore, StringPresence, QuotedSpansAlignment,
        IDBasedContextPrecision, IDBasedContextRecall, NonLLMContextPrecisionWithReference, NonLLMContextRecall,
        ToolCallAccuracy, ToolCallF1,
    )
}  # fmt: skip
