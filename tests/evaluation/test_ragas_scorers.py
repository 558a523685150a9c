"""ragas' deterministic metrics, on pairs whose scores follow by hand."""

from __future__ import annotations

import math

import pytest

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.runner import score_output
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.ragas_scorers import RagasScorer


def scored(type_name: str, output: str, *answers: str, **parameters: str) -> Score:
    row = EvalRow("r1", {"q": "x"}, {"answers": list(answers)})
    return make_scorer("s", f"ragas.{type_name}", parameters).score(row, Output(output))


@pytest.mark.parametrize(
    ("type_name", "output", "reference", "value"),
    [
        ("ExactMatch", "Paris", "Paris", 1.0),
        ("ExactMatch", "paris", "Paris", 0.0),
        ("StringPresence", "It is Paris.", "Paris", 1.0),
        ("StringPresence", "It is Rome.", "Paris", 0.0),
        ("NonLLMStringSimilarity", "Paris", "Paris", 1.0),
        ("NonLLMStringSimilarity", "abcd", "abcx", 0.75),  # one edit in four letters
        ("NonLLMStringSimilarity", "abc", "xyz", 0.0),
        ("BleuScore", "the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("BleuScore", "dog", "cat", 0.0),
        ("CHRFScore", "the cat", "the cat", 1.0),
        ("CHRFScore", "xyz", "abc", 0.0),
    ],
)
def test_values_on_hand_made_pairs(type_name: str, output: str, reference: str, value: float) -> None:
    score = scored(type_name, output, reference)

    assert score.error is None
    assert score.value == pytest.approx(value, abs=1e-6)


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    # "the cat sat" of 3 words against 6: precision 1, recall 1/2, F 2/3.
    assert scored("RougeScore", "the cat sat", "the cat sat on the mat", rouge_type="rougeL").value == pytest.approx(
        2 / 3
    )


def test_parameters_reach_the_metric() -> None:
    # Words in another order: every single word is there (rouge1), the longest common subsequence is one word (rougeL).
    one = scored("RougeScore", "mat cat", "cat mat", rouge_type="rouge1").value
    longest = scored("RougeScore", "mat cat", "cat mat", rouge_type="rougeL").value

    assert (one, longest) == (pytest.approx(1.0), pytest.approx(0.5))


@pytest.mark.parametrize("answers", [("Rome", "Paris", "Oslo"), ("Paris", "Rome"), ("Oslo", "Rome", "Paris")])
def test_the_best_over_the_references_counts_and_is_named(answers: tuple[str, ...]) -> None:
    score = scored("NonLLMStringSimilarity", "Paris", *answers)

    assert score.value == 1.0
    assert score.rationale == "against 'Paris'"


@pytest.mark.parametrize("type_name", ["BleuScore", "CHRFScore", "ExactMatch", "NonLLMStringSimilarity", "RougeScore"])
@pytest.mark.parametrize("output", ["", " \n"])
def test_an_empty_output_scores_zero(type_name: str, output: str) -> None:
    assert scored(type_name, output, "Paris") == Score(0.0, "the output is empty")


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan, math.inf])
def test_a_value_outside_0_to_1_is_an_error_and_no_score(value: float) -> None:
    class Outside(RagasScorer):
        def _score_one(self, reference: str, response: str) -> float:
            return value

    score = Outside("RougeScore", "s").score(EvalRow("r1", {"q": "x"}, {"answers": ["Paris"]}), Output("Rome"))

    assert score.value is None
    assert score.error is not None
    assert "outside 0–1" in score.error


def test_a_parameter_that_the_metric_does_not_have_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"rouge_kind: ragas\.RougeScore has no such parameter; known: mode, rouge_type"
    ):
        make_scorer("s", "ragas.RougeScore", {"rouge_kind": "rougeL"})


@pytest.mark.parametrize("parameters", [{"rouge_type": "rougeX"}, {"mode": "best"}])
def test_a_parameter_value_that_the_metric_refuses_is_an_error_of_each_row(parameters: dict[str, str]) -> None:
    row = EvalRow("r1", {"q": "x"}, {"answers": ["Paris"]})

    score = score_output(row, Output("Paris"), [make_scorer("s", "ragas.RougeScore", parameters)])["s"]

    assert score.value is None
    assert score.error
