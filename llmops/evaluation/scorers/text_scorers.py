"""Scorers of what the output says: the expected answer, a pattern, a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.normalisation import holds_words, normalise, same_text, squad_normalise
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer, answer_forms, expected_answers


class ExactMatch(Correctness):
    """True when the output equals an expected answer.

    normalisation: `words`, our own, which ignores case, punctuation, extra white space and a leading article, but keeps
    the signs of numbers and of mathematics; `squad`, that of SQuAD's script, for its exact match, in which a row whose
    `answers` is an empty list has the empty answer; `none`, character by character.
    """

    def __init__(self, name: str, normalisation: str = "words") -> None:
        super().__init__(name)
        self._rule = parameters.one_of("normalisation", normalisation, ("words", "squad", "none"))

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = squad_answers(row) if self._rule == "squad" else expected_answers(row)
        hit = next((answer for answer in answers if self._same(output.text, answer)), None)
        return Score(hit is not None, f"equals {hit!r}" if hit is not None else f"expected {answers[0]!r}")

    def _same(self, text: str, answer: str) -> bool:
        if self._rule == "squad":
            return squad_words(text, answer) == squad_words(answer, answer)
        return text == answer if self._rule == "none" else same_text(text, answer)


def squad_answers(row: EvalRow) -> list[str]:
    """The expected answers; the empty one where `answers` is an empty list, which in SQuAD 2.0 says that a question has
    no answer. Raises MissingExpectation."""
    if row.expectations.get("answers") == [] and row.expectations.get("expected_response") is None:
        return [""]
    return expected_answers(row)


def squad_words(text: str, answer: str) -> list[str]:
    """The words of a text after SQuAD's normalisation. Where that leaves none of the expected answer (“A”, “?”), which
    SQuAD's script takes for having no answer, our own normalisation is used."""
    words = squad_normalise(text).split()
    if answer.strip() and not squad_normalise(answer):
        return (normalise(text) or text.strip()).split()
    return words


class Contains:
    """True when the output contains an expected answer as whole words, normalised as by `exact_match`. In scripts
    without spaces between words (Chinese, Japanese, Thai …) word boundaries do not matter.

    texts: looked for in every row instead of the row's expected answers. where: `anywhere`, or at the output's `start`
    or `end`. need: `any` of them or `all`. expect: false inverts the result, for texts that must not appear.

    Not counted: the rest of the output, even “it is not” before the answer.
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
        wanted = [(text,) for text in self._texts] if self._texts else answer_forms(row)
        got = normalise(output.text)
        hits = [next((form for form in forms if self._holds(output.text, got, form)), None) for forms in wanted]
        held = [hit for hit in hits if hit is not None]
        if len(held) == len(wanted) if self._all else held:
            return Score(self._expect, f"holds {', '.join(map(repr, held if self._all else held[:1]))}")
        missing = wanted[hits.index(None)][0]
        return Score(not self._expect, f"expected {missing!r}" if self._expect else "")

    def _holds(self, text: str, normalised: str, wanted: str) -> bool:
        words = normalise(wanted)
        if words:
            return holds_words(normalised, words, self._where)
        # Nothing but marks: as they are written.
        marks, text = wanted.strip(), text.strip()
        held = {"start": text.startswith(marks), "end": text.endswith(marks), "anywhere": marks in text}
        return (bool(marks) and held[self._where]) or same_text(text, wanted)


class Regex:
    """True when a regular expression matches anywhere in the unchanged output (`re.search`; use ^ and $ to anchor).

    pattern: for every row; by default each row gives `expectations.pattern`. flags: letters of `re`'s inline flags,
    `imsx`. expect: false for a pattern that must not match.
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
