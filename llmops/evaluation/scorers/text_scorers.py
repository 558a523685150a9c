"""Scorers of plain text, and of what it cost: matches, refusal, length, latency, tokens."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import Correctness, Scorer, expected_answers

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’“”–—…", " "))
_REFUSAL = re.compile(
    r"\b(i (can ?not|can[’']t|am unable to|am not able to|won[’']t|will not) (help|assist|answer|do|provide|comply)"
    r"|as an ai (language )?model|i[’']?m sorry,? but|i must decline|i do not have the ability)\b",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """Lower case, no punctuation, articles or spare white space: SQuAD's normalisation of answers (Rajpurkar et al.,
    2016), with Unicode compatibility forms folded first. Commas inside numbers vanish, decimal points stay."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", "\0", text)
    return " ".join(_ARTICLES.sub(" ", text.translate(_PUNCTUATION)).split()).replace("\0", ".")


class ExactMatch(Correctness):
    """True when the normalised output equals an expected answer."""

    def score(self, row: EvalRow, output: Output) -> Score:
        answers, got = expected_answers(row), normalise(output.text)
        hit = next((answer for answer in answers if normalise(answer) == got), None)
        return Score(hit is not None, f"equals {hit!r}" if hit else f"expected {answers[0]!r}")


class Contains(Correctness):
    """True when an expected answer stands in the output as whole words, after normalisation."""

    def score(self, row: EvalRow, output: Output) -> Score:
        answers, got = expected_answers(row), f" {normalise(output.text)} "
        hit = next((answer for answer in answers if f" {normalise(answer)} " in got), None)
        return Score(hit is not None, f"holds {hit!r}" if hit else f"expected {answers[0]!r}")


@dataclass(frozen=True)
class Refusal:
    """True when the output declines to answer, by phrase."""

    name: str
    higher_is_better: bool | None = False
    worst: float | None = 1.0

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        found = _REFUSAL.search(output.text)
        return Score(found is not None, f"says {found[0]!r}" if found else "")


@dataclass(frozen=True)
class _Measure:
    """A number read off the output; neither direction is better, unless told otherwise."""

    name: str
    measure: Callable[[Output], float]
    higher_is_better: bool | None = None
    worst: float | None = None

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        return Score(float(self.measure(output)))


TYPES: dict[str, Callable[..., Scorer]] = {
    "exact_match": ExactMatch,
    "contains": Contains,
    "refusal": Refusal,
    "words": lambda name: _Measure(name, lambda output: len(output.text.split())),
    "characters": lambda name: _Measure(name, lambda output: len(output.text)),
    "latency_ms": lambda name: _Measure(name, lambda output: output.latency_ms, higher_is_better=False),
    "tokens_in": lambda name: _Measure(name, lambda output: output.tokens_in, higher_is_better=False),
    "tokens_out": lambda name: _Measure(name, lambda output: output.tokens_out, higher_is_better=False),
}
