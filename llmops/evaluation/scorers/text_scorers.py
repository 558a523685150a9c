"""Scorers of what the output says (the expected answer, a pattern, that it declines to answer), and what is measured on
it rather than judged: length, readability, repetition, time, tokens, cost."""

import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.normalisation import holds_words, normalise, same_text, split_words, squad_normalise
from llmops.evaluation.scorers.protocol import (
    Amount,
    Correctness,
    MissingExpectation,
    Scorer,
    Texts,
    answer_forms,
    expected_answers,
)
from llmops.text_patterns import refusal_phrase

# Full stops, question and exclamation marks before white space or the end; their full-width forms; line ends.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+|\n+")


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def count_words(text: str) -> int:
    """What white space separates; in scripts that put none between words, each letter."""
    pieces = [split_words(piece) for piece in text.split()]
    return sum(1 if len(words) == 1 else sum(map(_has_words, words)) for words in pieces)


def count_sentences(text: str) -> int:
    """Sentences that hold a letter or digit. A line is at least one; an abbreviation before a space ends one too."""
    return sum(map(_has_words, _SENTENCE_END.split(text)))


def automated_readability_index(text: str) -> float | None:
    """ARI = 4.71 × letters and digits a word + 0.5 × words a sentence − 21.43, a United States school grade (Smith and
    Senter, 1967; made for English). None for a text without words."""
    n_words = sum(map(_has_words, text.split()))
    if not n_words:
        return None
    characters = sum(map(str.isalnum, text))
    return 4.71 * characters / n_words + 0.5 * n_words / count_sentences(text) - 21.43


def repeated_share(text: str, n: int) -> float:
    """Share of the word n-grams that stood in the text before: 1 − distinct / all (seq-rep-n of Welleck et al., 2019).

    0 for a text of fewer than n words.
    """
    words = split_words(text.casefold())
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1 - len({tuple(words[i : i + n]) for i in range(total)}) / total


class Measure(Correctness):
    """A number read off the output, of which neither more nor less is better, and none is the worst.

    of: gives it, or None where the output has none. absent: why it then has none.
    """

    higher_is_better: ClassVar[bool | None] = None
    worst = None
    limits = (0.0, math.inf)
    of: ClassVar[Callable[[Output], float | None]]
    absent: ClassVar[str] = "the output holds no words"

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        value = self._value(output)
        return Score(error=self.absent) if value is None else Score(float(value))

    def _value(self, output: Output) -> float | None:
        return type(self).of(output)


class Repetition(Measure):
    """Share of the output's word n-grams that occurred earlier in it. n: number of words in an n-gram."""

    limits = (0.0, 1.0)
    n: Annotated[int, Field(ge=1, le=100)] = 4

    def _value(self, output: Output) -> float | None:
        return repeated_share(output.text, self.n)


class Cost(Measure):
    """Cost of the tokens, in the currency of the prices. per_million_in, per_million_out: prices of a million prompt
    tokens and of a million answer tokens."""

    higher_is_better = False
    absent = "its tokens were not counted"
    per_million_in: Amount
    per_million_out: Amount

    def _value(self, output: Output) -> float | None:
        if output.tokens_in is None or output.tokens_out is None:
            return None
        return (output.tokens_in * self.per_million_in + output.tokens_out * self.per_million_out) / 1e6


def _measure(meaning: str, of: Callable[[Output], float | None], **settings: Any) -> type[Measure]:
    """A type of measure. settings: its class variables, where they differ from Measure's."""
    return type("Measure", (Measure,), {"__doc__": meaning, "of": staticmethod(of), **settings})


def _spent(meaning: str, field: str, absent: str = "its tokens were not counted") -> type[Measure]:
    """A type of measure of what the output took, which is a field of it: less is better."""
    return _measure(meaning, operator.attrgetter(field), higher_is_better=False, absent=absent)


_MEASURES: dict[str, Callable[..., Scorer]] = {
    "words": _measure(
        "Number of words in the output, separated by white space; in scripts without spaces between words (Chinese,"
        " Japanese, Thai …), each letter counts.",
        lambda output: count_words(output.text),
    ),
    "characters": _measure("Number of Unicode characters in the output.", lambda output: len(output.text)),
    "sentences": _measure(
        "Number of sentences in the output that contain a letter or digit; a line counts as at least one.",
        lambda output: count_sentences(output.text),
    ),
    "readability": _measure(
        "Automated readability index, a United States school grade. Made for English; not counted: anything that makes"
        " a text in another language hard to read.",
        lambda output: automated_readability_index(output.text),
        limits=(-math.inf, math.inf),
    ),
    "repetition": Repetition,
    "latency_ms": _spent("Milliseconds until the answer was complete.", "latency_ms", "its time was not measured"),
    "first_token_ms": _spent(
        "Milliseconds until the answer began.",
        "first_token_ms",
        "it has no first token, or its time was not measured",
    ),
    "tokens_in": _spent(
        "Tokens in the prompt, as counted by the model's server; an error if it does not count them.", "tokens_in"
    ),
    "tokens_out": _spent(
        "Tokens in the answer, as counted by the model's server; an error if it does not count them.", "tokens_out"
    ),
    "cost": Cost,
}


class ExactMatch(Correctness):
    """True when the output equals an expected answer.

    normalisation: `words`, our own, which ignores case, punctuation, extra white space and a leading article, but keeps
    the signs of numbers and of mathematics; `squad`, that of SQuAD's script, for its exact match, in which a row whose
    `answers` is an empty list has the empty answer; `none`, character by character.
    """

    normalisation: Literal["words", "squad", "none"] = "words"

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = squad_answers(row) if self.normalisation == "squad" else expected_answers(row)
        hit = next((answer for answer in answers if self._same(output.text, answer)), None)
        return Score(hit is not None, f"equals {hit!r}" if hit is not None else f"expected {answers[0]!r}")

    def _same(self, text: str, answer: str) -> bool:
        if self.normalisation == "squad":
            return squad_words(text, answer) == squad_words(answer, answer)
        return text == answer if self.normalisation == "none" else same_text(text, answer)


def squad_answers(row: EvalRow) -> list[str]:
    """The expected answers; the empty one where `answers` is an empty list, which in SQuAD 2.0 says that a question has
    no answer. Raises MissingExpectation."""
    if row.expectations.get("answers") == [] and row.expectations.get("expected_response") is None:
        return [""]
    return expected_answers(row)


def squad_words(text: str, answer: str) -> list[str]:
    """The words of a text after SQuAD's normalisation. Where that leaves none of the expected answer (“A”, “?”), which
    SQuAD's script takes for having no answer, our own normalisation is used."""
    if answer.strip() and not squad_normalise(answer):
        return (normalise(text) or text.strip()).split()
    return squad_normalise(text).split()


class Contains(Correctness):
    """True when the output contains an expected answer as whole words, normalised as by `exact_match`. In scripts
    without spaces between words (Chinese, Japanese, Thai …) word boundaries do not matter.

    texts: looked for in every row instead of the row's expected answers. where: `anywhere`, or at the output's `start`
    or `end`. need: `any` of them or `all`. expect: false inverts the result, for texts that must not appear.

    Not counted: the rest of the output, even “it is not” before the answer.
    """

    texts: Texts | None = None
    where: Literal["anywhere", "start", "end"] = "anywhere"
    need: Literal["any", "all"] = "any"
    expect: bool = True

    def score(self, row: EvalRow, output: Output) -> Score:
        wanted = [(text,) for text in self.texts] if self.texts else answer_forms(row)
        got = normalise(output.text)
        hits = [next((form for form in forms if self._holds(output.text, got, form)), None) for forms in wanted]
        held = [hit for hit in hits if hit is not None]
        if len(held) == len(wanted) if self.need == "all" else held:
            return Score(self.expect, f"holds {', '.join(map(repr, held if self.need == 'all' else held[:1]))}")
        missing = wanted[hits.index(None)][0]
        return Score(not self.expect, f"expected {missing!r}" if self.expect else "")

    def _holds(self, text: str, normalised: str, wanted: str) -> bool:
        if words := normalise(wanted):
            return holds_words(normalised, words, self.where)
        # Nothing but marks: as they are written.
        marks, text = wanted.strip(), text.strip()
        held = {"start": text.startswith(marks), "end": text.endswith(marks), "anywhere": marks in text}
        return (bool(marks) and held[self.where]) or same_text(text, wanted)


class Regex(Correctness):
    """True when a regular expression matches anywhere in the unchanged output (`re.search`; use ^ and $ to anchor).

    pattern: for every row; by default each row gives `expectations.pattern`. flags: letters of `re`'s inline flags,
    `imsx`. expect: false for a pattern that must not match.
    """

    pattern: str | None = None
    flags: Annotated[str, Field(pattern="^[imsx]*$", description="letters out of i, m, s, x")] = ""
    expect: bool = True
    _compiled: re.Pattern[str] | None = None

    def model_post_init(self, _: Any) -> None:
        """Raises UsageError."""
        if self.pattern is not None:
            self._compiled = self._compile(self.pattern)

    def score(self, row: EvalRow, output: Output) -> Score:
        try:
            pattern = self._compiled or self._compile(row.expectations.get("pattern"))
        except UsageError as error:
            raise MissingExpectation(f"row {row.id}: expectations.{error}") from error
        match = pattern.search(output.text)
        return Score((match is not None) is self.expect, f"found {match[0]!r}" if match else "not found")

    def _compile(self, pattern: Any) -> re.Pattern[str]:
        if not isinstance(pattern, str) or not pattern:
            raise UsageError(f"pattern: must be a regular expression, not {pattern!r}")
        try:
            return re.compile(f"(?{self.flags}){pattern}" if self.flags else pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"pattern: {pattern!r} is no regular expression: {error}") from error


class Refusal(Correctness):
    """True when the output declines to answer, by a phrase in its first 300 characters or in its `refusal` field.

    Not counted: answers that only moralise; refusals in languages other than English, German, French and Spanish.
    """

    higher_is_better = False
    worst = 1.0

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        if output.refusal:
            return Score(True, f"the model refused: {output.refusal!r}")
        phrase = refusal_phrase(output.text)
        return Score(phrase is not None, f"says {phrase!r}" if phrase else "")


TYPES: dict[str, Callable[..., Scorer]] = {
    **_MEASURES,
    "exact_match": ExactMatch,
    "contains": Contains,
    "regex": Regex,
    "refusal": Refusal,
}
