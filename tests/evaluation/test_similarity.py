"""Closeness in meaning, with a made-up embedding: a text's vector counts its letters a, b and c."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import SCORER_TYPES, make_scorer
from llmops.evaluation.scorers.protocol import BatchScorer
from llmops.evaluation.scorers.reference_scorers import SemanticSimilarity


class Letters:
    """Embeds, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        vectors = np.array([[text.count(letter) - text.count(letter.upper()) for letter in "abc"] for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def row(*answers: str) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers)})


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.mark.parametrize(
    ("output", "answers", "value"),
    [
        ("ab", ("ba",), 1.0),
        ("a", ("b",), 0.0),
        ("a", ("ab",), 2**-0.5),
        ("a", ("b", "ab"), 2**-0.5),
        ("a", ("A",), -1.0),
    ],
)
def test_it_is_the_highest_cosine_over_the_answers(
    letters: Letters, output: str, answers: tuple[str, ...], value: float
) -> None:
    score = SemanticSimilarity("s", embed=letters).score(row(*answers), Output(output))
    assert score == Score(pytest.approx(value, abs=1e-6), f"against {answers[-1]!r}")
    assert type(score.value) is float


def test_many_rows_give_the_scores_of_one_at_a_time_and_embed_each_text_once(letters: Letters) -> None:
    scorer = SemanticSimilarity("s", embed=letters)
    rows = [row("a", "b"), row("a"), row(), row("c"), row("b")]
    outputs = [Output("ab"), Output("ab"), Output("a"), Output(" "), Output("a")]

    scores = scorer.score_many(rows, outputs)

    assert isinstance(scorer, BatchScorer)
    assert letters.asked == [["ab", "a", "b"]]
    assert scores == [scorer.score(*pair) for pair in zip(rows, outputs, strict=True)]
    assert scores[2].error is not None
    assert "r1" in scores[2].error
    assert scores[3] == Score(0.0, "the output is empty")


def test_any_number_of_rows_is_embedded_in_groups(letters: Letters) -> None:
    scores = SemanticSimilarity("s", embed=letters).score_many([row("a")] * 3000, [Output("a")] * 3000)
    assert len(scores) == 3000
    assert letters.asked == [["a"]] * 3


def test_nothing_is_embedded_where_nothing_can_be_scored(letters: Letters) -> None:
    assert SemanticSimilarity("s", embed=letters).score_many([], []) == []
    assert SemanticSimilarity("s", embed=letters).score(row("a"), Output("")).value == 0.0
    assert letters.asked == []


def test_a_workflow_binds_the_embedding_to_the_type(letters: Letters) -> None:
    types = {**SCORER_TYPES, "semantic_similarity": functools.partial(SemanticSimilarity, embed=letters)}
    assert make_scorer("s", "semantic_similarity", {}, types).score(row("a"), Output("a")).value == 1.0


def test_without_an_embedding_it_is_not_made_and_a_suite_can_name_none() -> None:
    with pytest.raises(UsageError, match=r"^embed: semantic_similarity needs an embedding model"):
        make_scorer("s", "semantic_similarity", {})
    with pytest.raises(UsageError, match=r"^semantic_similarity: has no option 'embed'"):
        make_scorer("s", "semantic_similarity", {"embed": "all-minilm"})
