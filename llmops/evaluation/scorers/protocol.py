"""What a scorer is, and what scorers read of a row."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.errors import LlmopsError, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.text_io import first_problem

T = TypeVar("T")

Text = Annotated[str, Field(pattern=r"\S")]
"""An option that is text, and not blank."""
Texts = Annotated[Sequence[Text], Field(min_length=1)]
"""An option that is a list of at least one text."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""An option that is a finite number of 0 or more."""


class Scorer(Protocol):
    """Judges one output.

    name: the metric's name.
    higher_is_better: None when neither direction is better (an answer's length).
    worst: what a row without a score counts as in comparisons and gates; where it is None, as the worst value seen in
    either run (without a direction such rows are left out).

    Where it has an attribute `limits`, its scores lie between these two values, which may be infinite (0 and ∞ of a
    latency); `limits_of` reads it.
    """

    @property
    def name(self) -> str: ...

    @property
    def higher_is_better(self) -> bool | None: ...

    @property
    def worst(self) -> float | None: ...

    def score(self, row: EvalRow, output: Output) -> Score:
        """The score. An exception it raises becomes a score with an error."""
        ...


@runtime_checkable
class FingerprintedScorer(Scorer, Protocol):
    """A scorer whose scores depend on a model. identity: everything besides row and output that can change a score
    (model, rubric, version of the metric); it is part of what makes two runs the same."""

    @property
    def identity(self) -> Mapping[str, Any]: ...


@runtime_checkable
class CachedScorer(FingerprintedScorer, Protocol):
    """A scorer whose scores cost something to make (a judge's): they are kept by content and never made twice.

    side_by_side: how many scores may be asked for at the same time, from as many threads.
    """

    @property
    def side_by_side(self) -> int: ...


@runtime_checkable
class BatchScorer(Scorer, Protocol):
    """A scorer that is much faster on many rows at a time (an embedding model)."""

    def score_many(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        """A score for each row, in order. An exception becomes an error of every row's score."""
        ...


@runtime_checkable
class RunScorer(Scorer, Protocol):
    """A scorer that also has something to say of all rows together (macro-F1, corpus BLEU)."""

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """Reads every row once, in order; keeps no texts, so that any number of rows fits."""
        ...


class Correctness(BaseModel):
    """Base of scorers: its fields are the options that a suite may set, checked when a scorer is made. Unless a class
    says otherwise it tells how right an output is: more is better, and a row without a score counts as wrong."""

    # Built when one is made: a suite uses a few of the types that there are.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)
    higher_is_better: ClassVar[bool | None] = True
    worst: ClassVar[float | None] = 0.0
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    name: str

    def __init__(self, name: str, **options: Any) -> None:
        """Raises UsageError, which begins with the name of the option at fault."""
        try:
            super().__init__(name=name, **options)
        except ValidationError as error:
            raise UsageError(": ".join(first_problem(error, show_value=True))) from error


def limits_of(scorer: Scorer) -> tuple[float, float]:
    """The least and the greatest value of a scorer; infinite where it is not known."""
    limits: tuple[float, float] | None = getattr(scorer, "limits", None)
    if limits is not None:
        return limits
    if scorer.worst is None or scorer.higher_is_better is None:
        return -math.inf, math.inf
    return (scorer.worst, math.inf) if scorer.higher_is_better else (-math.inf, scorer.worst)


def best_of(scorer: Scorer) -> float | None:
    """The best value that a row can have; None where no direction is better, or no value is known to be the best."""
    if scorer.higher_is_better is None:
        return None
    best = limits_of(scorer)[scorer.higher_is_better]
    return best if math.isfinite(best) else None


class MissingExpectation(LlmopsError):
    """A row lacks what the scorer compares with."""


def expected_answers(row: EvalRow) -> list[str]:
    """Every acceptable answer of a row: `answers`, a list or a single one, else `expected_response`. A number is
    written as people do, and as programs do where that differs: 4.0 is “4” and “4.0”. Raises MissingExpectation."""
    return [form for forms in answer_forms(row) for form in forms]


def right_answer(row: EvalRow) -> str:
    """What to show or teach as the answer: `expected_json` written as JSON, else `expected_response`, else the first of
    `answers`. Raises MissingExpectation."""
    if (value := row.expectations.get("expected_json")) is not None:
        return json.dumps(value, ensure_ascii=False)
    response = row.expectations.get("expected_response")
    return response if isinstance(response, str) and response else expected_answers(row)[0]


def answer_forms(row: EvalRow) -> list[tuple[str, ...]]:
    """`expected_answers`, with what writes the same answer together; the way people write it first."""
    answers = row.expectations.get("answers") or row.expectations.get("expected_response")
    listed = answers if isinstance(answers, list | tuple) else [answers]
    forms: list[tuple[str, ...]] = []
    for answer in listed:
        if answer is None:
            continue
        if not isinstance(answer, str | int | float):
            raise MissingExpectation(f"row {row.id}: an expected answer must be text or a number, not {answer!r}")
        if isinstance(answer, float) and answer.is_integer():
            forms.append((str(int(answer)), str(answer)))
        else:
            forms.append((str(answer).lower() if isinstance(answer, bool) else str(answer),))
    if not forms:
        raise MissingExpectation(f"row {row.id}: expectations hold neither answers nor expected_response")
    return forms


def expected_rows(results: Iterable[RowResult], expected: Callable[[EvalRow], T]) -> Iterator[tuple[RowResult, T]]:
    """Each row of a run with what `expected` reads in it, for what a scorer says of all of them together.

    A row without that cannot be judged and is left out; it is counted where it got no score. A row whose generation
    failed stays, with its empty text, so that failures lower a run's figures.
    """
    for result in results:
        try:
            wanted = expected(result.row)
        except MissingExpectation:
            continue
        yield result, wanted
