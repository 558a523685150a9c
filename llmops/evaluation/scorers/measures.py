"""What is measured on an output rather than judged: length, readability, repetition, time, tokens, cost."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.normalisation import split_words
from llmops.evaluation.scorers.protocol import Scorer

# Full stops, question and exclamation marks before white space or the end; their full-width forms; line ends.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+|\n+")


def count_words(text: str) -> int:
    """What white space separates; in scripts that put none between words, each letter."""
    return sum(_words_in(piece) for piece in text.split())


def _words_in(piece: str) -> int:
    words = split_words(piece)
    return 1 if len(words) == 1 else sum(any(map(str.isalnum, word)) for word in words)


def count_sentences(text: str) -> int:
    """Sentences that hold a letter or digit. A line is at least one; an abbreviation before a space ends one too."""
    return sum(any(map(str.isalnum, part)) for part in _SENTENCE_END.split(text))


def automated_readability_index(text: str) -> float | None:
    """ARI = 4.71 × letters and digits a word + 0.5 × words a sentence − 21.43, a United States school grade (Smith and
    Senter, 1967; made for English). None for a text without words."""
    words = [word for word in text.split() if any(map(str.isalnum, word))]
    if not words:
        return None
    characters = sum(map(str.isalnum, text))
    return 4.71 * characters / len(words) + 0.5 * len(words) / count_sentences(text) - 21.43


def repeated_share(text: str, n: int) -> float:
    """Share of the word n-grams that stood in the text before: 1 − distinct / all (seq-rep-n of Welleck et al., 2019).

    0 for a text of fewer than n words.
    """
    words = split_words(text.casefold())
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1 - len({tuple(words[i : i + n]) for i in range(total)}) / total


@dataclass(frozen=True)
class _Measure:
    """A number read off the output. worst: none, since no number is the worst one. absent: why an output may have no
    such number."""

    name: str
    measure: Callable[[Output], float | None]
    higher_is_better: bool | None
    worst: float | None = None
    limits: tuple[float, float] = (0.0, math.inf)
    absent: str = "the output holds no words"

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        value = self.measure(output)
        return Score(error=self.absent) if value is None else Score(float(value))


def _of_text(measure: Callable[[str], float | None], name: str) -> Scorer:
    """A measure of the text, of which neither more nor less is better."""
    return _Measure(name, lambda output: measure(output.text), None)


def _readability(name: str) -> Scorer:
    measure = automated_readability_index
    return _Measure(name, lambda output: measure(output.text), None, limits=(-math.inf, math.inf))


_NOT_COUNTED = "its tokens were not counted"


def _spent(measure: Callable[[Output], float | None], name: str, absent: str) -> Scorer:
    """A measure of what the output took: less is better."""
    return _Measure(name, measure, higher_is_better=False, absent=absent)


def _repetition(name: str, n: int = 4) -> Scorer:
    n = parameters.whole_number("n", n, 1, 100)
    return _Measure(name, lambda output: repeated_share(output.text, n), None, limits=(0.0, 1.0))


def _cost(name: str, per_million_in: float, per_million_out: float) -> Scorer:
    """What the tokens cost, in the currency of the prices."""
    price_in = parameters.number("per_million_in", per_million_in)
    price_out = parameters.number("per_million_out", per_million_out)

    def cost(output: Output) -> float | None:
        if output.tokens_in is None or output.tokens_out is None:
            return None
        return (output.tokens_in * price_in + output.tokens_out * price_out) / 1e6

    return _spent(cost, name, _NOT_COUNTED)


MEANINGS: Mapping[str, str] = {
    "words": "Number of words in the output, separated by white space; in scripts without spaces between words"
    " (Chinese, Japanese, Thai …), each letter counts.",
    "characters": "Number of Unicode characters in the output.",
    "sentences": "Number of sentences in the output that contain a letter or digit; a line counts as at least one.",
    "readability": "Automated readability index, a United States school grade. Made for English; not counted: anything"
    " that makes a text in another language hard to read.",
    "repetition": "Share of the output's word n-grams that occurred earlier in it. n: number of words in an n-gram.",
    "latency_ms": "Milliseconds until the answer was complete.",
    "first_token_ms": "Milliseconds until the answer began.",
    "tokens_in": "Tokens in the prompt, as counted by the model's server; an error if it does not count them.",
    "tokens_out": "Tokens in the answer, as counted by the model's server; an error if it does not count them.",
    "cost": "Cost of the tokens, in the currency of the prices. per_million_in, per_million_out: prices of a million"
    " prompt tokens and of a million answer tokens.",
}
"""What each type gives whose class does not say it."""

TYPES: dict[str, Callable[..., Scorer]] = {
    "words": functools.partial(_of_text, count_words),
    "characters": functools.partial(_of_text, len),
    "sentences": functools.partial(_of_text, count_sentences),
    "readability": _readability,
    "repetition": _repetition,
    "latency_ms": functools.partial(_spent, lambda output: output.latency_ms, absent="its time was not measured"),
    "first_token_ms": functools.partial(
        _spent, lambda output: output.first_token_ms, absent="it has no first token, or its time was not measured"
    ),
    "tokens_in": functools.partial(_spent, lambda output: output.tokens_in, absent=_NOT_COUNTED),
    "tokens_out": functools.partial(_spent, lambda output: output.tokens_out, absent=_NOT_COUNTED),
    "cost": _cost,
}
