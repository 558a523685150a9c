"""The judgements of the benchmark of evaluation runners: it must not call a wrong answer a near-tie."""

from __future__ import annotations

import math

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


def test_the_same_text_does_not_part() -> None:
    assert LOOP.parting("It is Rome.") == 0.0


def test_a_text_parts_by_the_lead_of_the_token_where_it_leaves_the_loop() -> None:
    assert math.isclose(LOOP.parting("It is Paris."), 2.3)
    assert math.isclose(LOOP.parting("The capital"), 2.4)


def test_a_token_that_begins_with_the_loops_token_is_found() -> None:
    assert math.isclose(LOOP.parting("It is Romeo."), 0.2)


def test_ending_early_and_going_on_are_partings_too() -> None:
    assert math.isclose(LOOP.parting("It is Rome"), 0.3)
    assert math.isclose(LOOP.parting("It is Rome. And more"), 0.2)


def test_a_token_that_was_no_candidate_is_no_near_tie() -> None:
    assert LOOP.parting("Nonsense") == math.inf
    assert LOOP.parting("") == math.inf


def criteria_of(
    text: str, score: float = 1.0, loop_server: str = "It is Rome.", again: str | None = None
) -> list[bool]:
    fast = outcome(text, score)
    repeatable = (fast, outcome(again, score) if again else fast)
    runs = OurRuns(outcome(loop_server), repeatable, [fast])
    return [criterion.met for criterion in same_as_loop(runs, {KEY: LOOP})]


def test_equal_answers_meet_every_criterion() -> None:
    assert criteria_of("It is Rome.") == [True, True, True, True]


def test_on_the_loops_server_only_its_own_text_will_do() -> None:
    assert LOOP.parting("It is Romeo.") <= NEAR_TIE
    assert criteria_of("It is Rome.", loop_server="It is Romeo.") == [False, True, True, True]


def test_a_near_tie_may_change_a_score() -> None:
    assert criteria_of("It is Romeo.", 0.0) == [True, True, True, True]


def test_repeatable_runs_must_repeat() -> None:
    assert criteria_of("It is Rome.", again="It is Romeo.") == [True, False, True, True]


def test_an_answer_beyond_a_near_tie_misses_the_criterion() -> None:
    assert criteria_of("It is Paris.", 0.0) == [True, True, False, False]


def test_another_score_for_the_same_text_misses_the_criterion() -> None:
    assert criteria_of("It is Rome.", 0.0) == [True, True, False, False]


def by_itself(batched: str, alone: str, score: float = 1.0, again: str | None = None, rows: int = 1) -> list[bool]:
    """The criteria of an engine held against itself. The first row is as given, the others are the loop's."""
    keys = [("plain", f"q{number:03}") for number in range(rows)]
    same = dict.fromkeys(keys, LOOP.answer)
    first, second, fast = (
        Outcome(1.0, 1.0, {**same, keys[0]: Answer(text, worth)})
        for text, worth in ((alone, 1.0), (again or alone, 1.0), (batched, score))
    )
    return [criterion.met for criterion in same_as_alone((first, second), [fast], dict.fromkeys(keys, LOOP))]


def test_an_engine_may_leave_the_loop_when_it_agrees_with_itself() -> None:
    assert by_itself("It is Paris.", "It is Paris.") == [True, True]


def test_batching_may_change_a_text_at_a_near_tie_of_the_loop() -> None:
    assert by_itself("It is Romeo.", "It is Rome.") == [True, True]
    assert by_itself("It is Rome.", "It is Romeo.") == [True, True]
    assert by_itself("It is Paris.", "It is Rome.") == [True, False]
    assert by_itself("It is Rome.", "It is Paris.") == [True, False]


def test_where_both_had_left_the_loop_the_tie_is_not_judged() -> None:
    assert by_itself("It is Paris, of course.", "It is Paris.") == [True, True]


def test_batching_may_change_few_scores() -> None:
    assert by_itself("It is Romeo.", "It is Rome.", score=0.0, rows=20) == [True, True]
    assert by_itself("It is Romeo.", "It is Rome.", score=0.0, rows=19) == [True, False]


def test_an_engine_held_against_itself_must_repeat_and_score_the_same_text_the_same() -> None:
    assert by_itself("It is Rome.", "It is Rome.", again="It is Romeo.", rows=20) == [False, True]
    assert by_itself("It is Rome.", "It is Rome.", score=0.0, rows=20) == [True, False]


def test_no_question_stands_twice() -> None:
    assert len({item.question for item in questions()}) == len(questions()) == 100
    assert len({item.question for item in choice_questions()}) == len(choice_questions()) == 40


def test_the_right_choice_stands_in_every_place_and_only_once() -> None:
    assert {item.answer_index for item in choice_questions()} == {0, 1, 2, 3}
    assert all(len(set(item.choices)) == 4 for item in choice_questions())


def test_contained_means_whole_words_in_any_case() -> None:
    assert contained("4", "It is 4.")
    assert contained("new delhi", "New Delhi, India")
    assert not contained("4", "It is 40.")
