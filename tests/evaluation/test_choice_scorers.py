"""Multiple choice by log-likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.classification import answer_index, row_choices
from llmops.evaluation.scorers.protocol import MissingExpectation

CHOICES = ["no", "a long answer", "ja, größer"]


def row(**expectations: object) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"choices": CHOICES, **expectations})


def scored(logprobs: tuple[float, ...] | None, right: int, norm: bool = False, **parameters: object) -> Score:
    scorer = make_scorer("s", "choice_accuracy_norm" if norm else "choice_accuracy", parameters)
    return scorer.score(row(answer_index=right), Output("no", choice_logprobs=logprobs))


def test_the_likeliest_choice_is_the_answer() -> None:
    score = scored((-5.0, -3.0, -4.0), right=1)
    assert score == Score(True, "ranks 'a long answer' first", label="a long answer")
    assert scored((-5.0, -3.0, -4.0), right=2).value is False


@pytest.mark.parametrize("norm", [False, True])
def test_of_equal_choices_the_first_counts(norm: bool) -> None:
    minus_infinity = (-np.inf, -np.inf, -np.inf)
    assert scored(minus_infinity, right=0, norm=norm).value is True
    assert scored(minus_infinity, right=1, norm=norm).value is False


def test_length_is_no_disadvantage_when_normalised() -> None:
    # A byte of "no" costs 2.0, one of "a long answer" 0.46.
    assert scored((-4.0, -6.0, -40.0), right=1, norm=False).value is False
    assert scored((-4.0, -6.0, -40.0), right=1, norm=True).value is True


def test_bytes_and_characters_differ_outside_ascii() -> None:
    # "ja, größer" is 10 characters and 12 bytes, "a long answer" 13 of both: −10.8/12 > −12/13 > −10.8/10.
    logprobs = (-40.0, -12.0, -10.8)
    assert scored(logprobs, right=2, norm=True).value is True
    assert scored(logprobs, right=1, norm=True, length="characters").value is True


@given(st.lists(st.floats(-1e3, 0), min_size=3, max_size=3), st.integers(0, 2))
def test_both_agree_with_argmax_over_log_likelihoods(logprobs: list[float], right: int) -> None:
    lengths = np.array([len(choice.encode()) for choice in CHOICES])
    assert scored(tuple(logprobs), right).value is bool(np.argmax(logprobs) == right)
    assert scored(tuple(logprobs), right, norm=True).value is bool(np.argmax(np.array(logprobs) / lengths) == right)


@pytest.mark.parametrize("logprobs", [None, (), (-1.0, -2.0), (-1.0, float("nan"), -2.0)])
def test_an_output_without_a_log_likelihood_for_each_choice_is_an_error(logprobs: tuple[float, ...] | None) -> None:
    score = scored(logprobs, right=0)
    assert score.value is None
    assert "choice_logprobs" in (score.error or "")


def test_the_right_choice_is_given_by_place_or_by_text() -> None:
    assert answer_index(row(answer_index=0)) == 0
    assert answer_index(row(expected_response="ja, größer")) == 2
    assert answer_index(row(answer_index=1, expected_response="no")) == 1
    assert row_choices(row()) == tuple(CHOICES)


@pytest.mark.parametrize(
    "expectations",
    [
        {},
        {"expected_response": "perhaps"},
        {"answer_index": 3},
        {"answer_index": -1},
        {"answer_index": True},
        {"answer_index": "1"},
        {"choices": None, "answer_index": 0},
        {"choices": ["one"], "answer_index": 0},
        {"choices": "no", "answer_index": 0},
        {"choices": ["a", " "], "answer_index": 0},
        {"choices": ["a", 2], "answer_index": 0},
    ],
)
def test_a_row_without_choices_or_answer_is_not_scored(expectations: dict[str, object]) -> None:
    with pytest.raises(MissingExpectation, match="row r1: "):
        make_scorer("s", "choice_accuracy", {}).score(row(**expectations), Output("", choice_logprobs=(-1, -2, -3)))
