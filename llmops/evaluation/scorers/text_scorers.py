"""Scorers of what the output says: the expected answer, a pattern, or that it declines to answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.normalisation import holds_words, normalise, same_text, squad_normalise
from llmops.evaluation.scorers.protocol import (
    Correctness,
    MissingExpectation,
    Scorer,
    Texts,
    answer_forms,
    expected_answers,
)
from llmops.text_patterns import refusal_phrase


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
        found = pattern.search(output.text)
        return Score((found is not None) is self.expect, f"found {found[0]!r}" if found else "not found")

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
    "exact_match": ExactMatch,
    "contains": Contains,
    "regex": Regex,
    "refusal": Refusal,
}
