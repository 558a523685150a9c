"""The judgements of the benchmark of evaluation runners: it must not call a wrong answer a near-tie."""

import math

import pytest

from benchmarks.evaluation.criteria import NEAR_TIE, OurRuns, same_as_alone, same_as_loop
from benchmarks.evaluation.outcome import Answer, Outcome
from benchmarks.evaluation.plain_loop import Reference, Token
from benchmarks.evaluation.questions import choice_questions, contained, questions

KEY = ("plain", "q000")
LOOP = Reference(
    Answer("It is Rome.", 1.0),
    [
        Token("It", {"It": -0.1, "The": -2.5}),
        Token(" is", {" is": -0.2, " could": -2.0}),
        Token(" Rome", {" Rome": -0.7, " Romeo": -0.9, " Paris": -3.0}),
        Token(".", {".": -0.5, "": -0.8, " now": -4.0}),
        Token("", {"": -0.1, " And": -0.3, "\n\n": -3.0}),
    ],
)


def outcome(text: str, score: float = 1.0) -> Outcome:
    return Outcome(1.0, 1.0, {KEY: Answer(text, score)})


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        pytest.param("It is Rome.", 0.0, id="the same text does not part"),
        pytest.param("It is Paris.", 2.3, id="by the lead of the token where it leaves the loop"),
        pytest.param("The capital", 2.4, id="at the first token"),
        pytest.param("It is Romeo.", 0.2, id="a token that begins with the loop's token is found"),
        pytest.param("It is Rome", 0.3, id="ending early"),
        pytest.param("It is Rome. And more", 0.2, id="going on"),
        pytest.param("Nonsense", math.inf, id="a token that was no candidate is no near-tie"),
        pytest.param("", math.inf, id="nor is no text"),
    ],
)
def test_a_text_parts_from_the_loops_by_the_lead_of_a_token(text, lead):
    assert LOOP.parting(text) == pytest.approx(lead)
    assert (lead <= NEAR_TIE) == (text not in ("It is Paris.", "The capital", "Nonsense", ""))


@pytest.mark.parametrize(
    ("text", "score", "loop_server", "again", "met"),
    [
        pytest.param("It is Rome.", 1.0, "It is Rome.", None, [True, True, True, True], id="equal answers"),
        pytest.param("It is Rome.", 1.0, "It is Romeo.", None, [False, True, True, True], id="loop's server differs"),
        pytest.param(
            "It is Romeo.", 0.0, "It is Rome.", None, [True, True, True, True], id="a near-tie may score less"
        ),
        pytest.param("It is Rome.", 1.0, "It is Rome.", "It is Romeo.", [True, False, True, True], id="must repeat"),
        pytest.param("It is Paris.", 0.0, "It is Rome.", None, [True, True, False, False], id="beyond a near-tie"),
        pytest.param("It is Rome.", 0.0, "It is Rome.", None, [True, True, False, False], id="same text, other score"),
    ],
)
def test_ours_is_held_against_the_loop(text, score, loop_server, again, met):
    fast = outcome(text, score)
    runs = OurRuns(outcome(loop_server), (fast, outcome(again, score) if again else fast), [fast])
    assert [criterion.met for criterion in same_as_loop(runs, {KEY: LOOP})] == met


ROME, ROMEO, PARIS = "It is Rome.", "It is Romeo.", "It is Paris."


@pytest.mark.parametrize(
    ("batched", "alone", "again", "score", "rows", "met"),
    [
        pytest.param(PARIS, PARIS, PARIS, 1.0, 1, [True, True], id="it may leave the loop when it agrees with itself"),
        pytest.param(ROMEO, ROME, ROME, 1.0, 1, [True, True], id="batching may change a text at a near-tie"),
        pytest.param(ROME, ROMEO, ROMEO, 1.0, 1, [True, True], id="either way"),
        pytest.param(PARIS, ROME, ROME, 1.0, 1, [True, False], id="but not elsewhere"),
        pytest.param(ROME, PARIS, PARIS, 1.0, 1, [True, False], id="nor the other way"),
        pytest.param("It is Paris, of course.", PARIS, PARIS, 1.0, 1, [True, True], id="where both left, no judgement"),
        pytest.param(ROMEO, ROME, ROME, 0.0, 20, [True, True], id="batching may change few scores"),
        pytest.param(ROMEO, ROME, ROME, 0.0, 19, [True, False], id="not many"),
        pytest.param(ROME, ROME, ROMEO, 1.0, 20, [False, True], id="it must repeat"),
        pytest.param(ROME, ROME, ROME, 0.0, 20, [True, False], id="and score the same text the same"),
    ],
)
def test_an_engine_is_held_against_itself(batched, alone, again, score, rows, met):
    """The first row is as given, the others are the loop's."""
    keys = [("plain", f"q{number:03}") for number in range(rows)]
    same = dict.fromkeys(keys, LOOP.answer)
    first, second, fast = (
        Outcome(1.0, 1.0, {**same, keys[0]: Answer(text, worth)})
        for text, worth in ((alone, 1.0), (again, 1.0), (batched, score))
    )
    found = same_as_alone((first, second), [fast], dict.fromkeys(keys, LOOP))
    assert [criterion.met for criterion in found] == met


def test_no_question_stands_twice_and_the_right_choice_stands_in_every_place_and_only_once():
    assert len({item.question for item in questions()}) == len(questions()) == 100
    assert len({item.question for item in choice_questions()}) == len(choice_questions()) == 40
    assert {item.answer_index for item in choice_questions()} == {0, 1, 2, 3}
    assert all(len(set(item.choices)) == 4 for item in choice_questions())


def test_contained_means_whole_words_in_any_case():
    assert contained("4", "It is 4.")
    assert contained("new delhi", "New Delhi, India")
    assert not contained("4", "It is 40.")
