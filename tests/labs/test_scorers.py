from __future__ import annotations

from labs.scorers import AbsoluteError, Correct, SquaredError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers.protocol import Scorer


def test_errors_of_numbers() -> None:
    row = EvalRow("1", {"hour": 3}, {"expected_response": 10.0})
    assert AbsoluteError().score(row, Output("7.5")).value == 2.5
    assert SquaredError().score(row, Output("12")).value == 4.0


def test_a_class_is_right_or_wrong() -> None:
    row = EvalRow("1", {"hue": 1.0}, {"expected_response": "class_1"})
    right, wrong = Correct().score(row, Output("class_1")), Correct().score(row, Output("class_0"))
    assert (right.value, wrong.value, wrong.label) == (True, False, "class_0")


def test_they_are_scorers_of_which_less_error_is_better() -> None:
    scorers: list[Scorer] = [AbsoluteError(), SquaredError(), Correct()]
    assert [scorer.higher_is_better for scorer in scorers] == [False, False, True]
    assert [scorer.name for scorer in scorers] == ["absolute_error", "squared_error", "correct"]
