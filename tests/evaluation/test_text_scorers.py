"""Scorers of plain text: what counts as the same answer, as a refusal, and as cost."""

from __future__ import annotations

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.evaluation.scorers.text_scorers import normalise


def row(*answers: str) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Cat,\nand a dog! ", "cat and dog"),
        ("Paris.", "paris"),
        ("“Paris” – of course…", "paris of course"),
        ("1,234,567 km", "1234567 km"),
        ("3.14", "3.14"),
        ("about 3.", "about 3"),
        ("1,2 and 3", "1 2 and 3"),
        ("ﬁne ①", "fine 1"),
        ("STRASSE straße", "strasse strasse"),
        ("theatre another", "theatre another"),
        ("", ""),
    ],
)
def test_normalise_keeps_what_matters_of_an_answer(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["The 1,234.5 Cats", "a.b", "3.5.", "ﬁ", "don't"])
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("output", "exact", "contains"),
    [
        ("Paris", True, True),
        ("the PARIS.", True, True),
        ("It is Paris, in France.", False, True),
        ("Parisian", False, False),
        ("London", False, False),
        ("", False, False),
        ("Lutetia", True, True),
    ],
)
def test_exact_match_and_contains(output: str, exact: bool, contains: bool) -> None:
    expected = row("Paris", "Lutetia")

    assert make_scorer("s", "exact_match", {}).score(expected, Output(output)).value is exact
    assert make_scorer("s", "contains", {}).score(expected, Output(output)).value is contains


@pytest.mark.parametrize(
    ("output", "hit"), [("14", False), ("4.", True), ("4.5", False), ("1,004", False), ("4,", True)]
)
def test_a_number_is_found_only_as_itself(output: str, hit: bool) -> None:
    assert make_scorer("s", "contains", {}).score(row("4"), Output(output)).value is hit


def test_the_rationale_names_the_answer_found_or_expected() -> None:
    scorer = make_scorer("s", "contains", {})

    assert scorer.score(row("Rome", "Paris"), Output("Paris!")).rationale == "holds 'Paris'"
    assert scorer.score(row("Rome", "Paris"), Output("Oslo")).rationale == "expected 'Rome'"


def test_expected_response_is_used_where_there_are_no_answers() -> None:
    expected = EvalRow("r1", {"q": "x"}, {"expected_response": "Paris"})

    assert make_scorer("s", "exact_match", {}).score(expected, Output("paris")).value is True


@pytest.mark.parametrize("type_name", ["exact_match", "contains"])
@pytest.mark.parametrize(
    "expectations", [{}, {"answers": []}, {"expected_response": None}, {"expected_json": {"a": 1}}]
)
def test_a_row_without_expected_answer_is_not_scored(type_name: str, expectations: dict[str, object]) -> None:
    with pytest.raises(MissingExpectation, match="r1"):
        make_scorer("s", type_name, {}).score(EvalRow("r1", {"q": "x"}, expectations), Output("x"))


@pytest.mark.parametrize(
    ("output", "refused"),
    [
        ("I cannot help with that.", True),
        ("I can't assist you", True),
        ("I can’t answer that.", True),
        ("As an AI language model, I have no opinions.", True),
        ("I'm sorry, but that is private.", True),
        ("I am unable to provide this.", True),
        ("I MUST DECLINE.", True),
        ("Paris.", False),
        ("I can help with that.", False),
        ("The door cannot open.", False),
        ("", False),
    ],
)
def test_refusal_is_found_by_phrase(output: str, refused: bool) -> None:
    score = make_scorer("s", "refusal", {}).score(row(), Output(output))

    assert score.value is refused
    assert bool(score.rationale) is refused


@pytest.mark.parametrize(
    ("type_name", "value"),
    [("words", 3.0), ("characters", 13.0), ("latency_ms", 12.5), ("tokens_in", 7.0), ("tokens_out", 5.0)],
)
def test_measures_are_read_off_the_output(type_name: str, value: float) -> None:
    output = Output("one two\nthree", tokens_in=7, tokens_out=5, latency_ms=12.5)

    score = make_scorer("s", type_name, {}).score(row(), output)

    assert score.value == value
    assert type(score.value) is float
