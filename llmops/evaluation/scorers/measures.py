"""What is measured on an output rather than judged: length, readability, repetition, time, tokens, cost."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import Field

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.normalisation import split_words
from llmops.evaluation.scorers.protocol import Amount, Correctness, Scorer

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


TYPES: dict[str, Callable[..., Scorer]] = {
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
