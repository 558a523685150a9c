"""Closeness in meaning, by sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import MissingExpectation, Scorer, expected_answers
from llmops.evaluation.scorers.reference_scorers import blank_score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embed = Callable[[Sequence[str]], NDArray[np.float32]]

# Rows whose embeddings are held at the same time; the texts of such a group are embedded once each.
_GROUP = 1024


class SemanticSimilarity:
    """Cosine similarity of the embeddings of output and expected answer, the highest over the answers.

    The cosine is used unchanged, from −1 to 1. A sentence model gives about 0 to unrelated texts and rarely less, so a
    row without a score counts as 0. embed: function from texts to rows of unit length; set by the workflow, not by a
    suite.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (-1.0, 1.0)

    def __init__(self, name: str, *, embed: Embed | None = None) -> None:
        if not callable(embed):
            raise UsageError("embed: semantic_similarity needs an embedding model, which a suite cannot name")
        self.name = name
        self._embed = embed
        self.identity: Mapping[str, Any] = {"embeddings": dict(getattr(embed, "identity", {}))}

    def score(self, row: EvalRow, output: Output) -> Score:
        return self.score_many([row], [output])[0]

    def score_many(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        """A score for each row, in order; one with an error for a row without an expected answer."""
        scores: list[Score] = []
        for start in range(0, len(rows), _GROUP):
            scores += self._score_group(rows[start : start + _GROUP], outputs[start : start + _GROUP])
        return scores

    def _score_group(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        asked = [_answers(row) for row in rows]
        texts: dict[str, int] = {}  # each text once, and its place
        for output, answers in zip(outputs, asked, strict=True):
            if output.text.strip() and not isinstance(answers, MissingExpectation):
                for text in (output.text, *filter(str.strip, answers)):
                    texts.setdefault(text, len(texts))
        vectors = self._embed(list(texts)) if texts else None
        return [_score(output.text, answers, texts, vectors) for output, answers in zip(outputs, asked, strict=True)]


def _answers(row: EvalRow) -> list[str] | MissingExpectation:
    try:
        return expected_answers(row)
    except MissingExpectation as error:
        return error


def _score(
    text: str, answers: list[str] | MissingExpectation, places: dict[str, int], vectors: NDArray[np.float32] | None
) -> Score:
    if isinstance(answers, MissingExpectation):
        return Score(error=str(answers))
    if (blank := blank_score(text, answers)) is not None:
        return blank
    if vectors is None or text in answers:
        return Score(1.0, f"against {text!r}")  # a vector's product with itself is 1 only nearly
    mine = vectors[places[text]]
    answers = [answer for answer in answers if answer.strip()]
    cosines = [float(mine @ vectors[places[answer]]) for answer in answers]
    best = max(range(len(answers)), key=cosines.__getitem__)
    return Score(max(-1.0, min(cosines[best], 1.0)), f"against {answers[best]!r}")


TYPES: dict[str, Callable[..., Scorer]] = {"semantic_similarity": SemanticSimilarity}
