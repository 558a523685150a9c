"""Scorers of what the output says: the expected answer, a pattern, a number."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer, expected_answers

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’“”–—…", " "))


def fold(text: str) -> str:
    """Lower case, no punctuation (`_` and `-` are spaces) or spare white space, with Unicode compatibility forms
    folded first. Commas inside numbers vanish, decimal points stay."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", "\0", text)
    return " ".join(text.translate(_PUNCTUATION).split()).replace("\0", ".")


def normalise(text: str) -> str:
    """`fold`, without articles: SQuAD's normalisation of answers (Rajpurkar et al., 2016). A text of nothing but
    articles keeps them, so that the answer “A” is not the empty one."""
    folded = fold(text)
    return " ".join(_ARTICLES.sub(" ", folded).split()) or folded


class ExactMatch(Correctness):
    """True when the normalised output equals an expected answer."""

    def score(self, row: EvalRow, output: Output) -> Score:
        answers, got = expected_answers(row), normalise(output.text)
        hit = next((answer for answer in answers if normalise(answer) == got), None)
        return Score(hit is not None, f"equals {hit!r}" if hit else f"expected {answers[0]!r}")


class Contains:
    """True when an expected answer stands in the output as whole words, after normalisation.

    texts: looked for in every row in place of the row's expected answers. where: `anywhere`, or at the output's
    `start` or `end`. need: `any` of them or `all`. expect: false turns the verdict round, for what must not be said.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(
        self,
        name: str,
        texts: Sequence[str] | None = None,
        where: str = "anywhere",
        need: str = "any",
        expect: bool = True,
    ) -> None:
        self.name = name
        self._texts = None if texts is None else parameters.texts("texts", texts)
        self._where = parameters.one_of("where", where, ("anywhere", "start", "end"))
        self._all = parameters.one_of("need", need, ("any", "all")) == "all"
        self._expect = parameters.boolean("expect", expect)

    def score(self, row: EvalRow, output: Output) -> Score:
        wanted = self._texts or expected_answers(row)
        got = f" {normalise(output.text)} "
        hits = [text for text in wanted if self._holds(got, normalise(text))]
        held = len(hits) == len(wanted) if self._all else bool(hits)
        if held:
            return Score(self._expect, f"holds {', '.join(map(repr, hits if self._all else hits[:1]))}")
        missing = next(text for text in wanted if text not in hits)
        return Score(not self._expect, f"expected {missing!r}" if self._expect else "")

    def _holds(self, got: str, text: str) -> bool:
        if self._where == "start":
            return got.startswith(f" {text} ")
        return got.endswith(f" {text} ") if self._where == "end" else f" {text} " in got


class Regex:
    """True when a regular expression is found somewhere in the output (`re.search`; use ^ and $ to anchor).

    pattern: for every row; without it each row brings `expectations.pattern`. flags: letters of `re`'s inline flags,
    `imsx`. expect: false for what must not be found.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, pattern: str | None = None, flags: str = "", expect: bool = True) -> None:
        self.name = name
        self._flags = parameters.regular_expression_flags("flags", flags)
        self._pattern = None if pattern is None else parameters.regular_expression("pattern", pattern, self._flags)
        self._expect = parameters.boolean("expect", expect)

    def score(self, row: EvalRow, output: Output) -> Score:
        found = (self._pattern or self._row_pattern(row)).search(output.text)
        return Score((found is not None) is self._expect, f"found {found[0]!r}" if found else "not found")

    def _row_pattern(self, row: EvalRow) -> re.Pattern[str]:
        try:
            return parameters.regular_expression("pattern", row.expectations.get("pattern"), self._flags)
        except UsageError as error:
            raise MissingExpectation(f"row {row.id}: expectations.{error}") from error


TYPES: dict[str, Callable[..., Scorer]] = {"exact_match": ExactMatch, "contains": Contains, "regex": Regex}
