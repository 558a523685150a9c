"""Measures are read off an output: length, readability, repetition, time, tokens, cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.measures import automated_readability_index, count_sentences, repeated_share

ROW = EvalRow("r1", {"q": "x"})


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("words", 3.0),
        ("characters", 13.0),
        ("sentences", 2.0),
        ("repetition", 0.0),
        ("latency_ms", 12.5),
        ("first_token_ms", 4.5),
        ("tokens_in", 7.0),
        ("tokens_out", 5.0),
    ],
)
def test_measures_are_read_off_the_output(type_name: str, value: float) -> None:
    output = Output("one two\nthree", tokens_in=7, tokens_out=5, latency_ms=12.5, first_token_ms=4.5)
    score = make_scorer("s", type_name, {}).score(ROW, output)
    assert score.value == value
    assert type(score.value) is float


@pytest.mark.parametrize(
    ("type_name", "parameters"),
    [
        ("latency_ms", {}), ("first_token_ms", {}), ("tokens_in", {}), ("tokens_out", {}),
        ("cost", {"per_million_in": 1, "per_million_out": 1}),
    ],
)  # fmt: skip
def test_what_nobody_counted_or_measured_is_a_row_without_a_score_and_never_0(
    type_name: str, parameters: dict[str, float]
) -> None:
    score = make_scorer("s", type_name, parameters).score(ROW, Output("an answer"))
    assert score.value is None
    assert score.error is not None


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("...", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("It costs 3.50. Fine.", 2),
        ("Really?! Yes...", 2),
        ('He said "go." Then left.', 2),
        ("- one\n- two\n\n- three", 3),
        ("一。二！三", 3),
        ("see llmops.errors for more", 1),
    ],
)
def test_sentences_end_at_marks_before_white_space_and_at_lines(text: str, n: int) -> None:
    assert count_sentences(text) == n


def test_readability_is_the_formula() -> None:
    # 7 words of 26 letters in 2 sentences.
    text = "The cat sat on the mat. Wonderful!"
    expected = 4.71 * 26 / 7 + 0.5 * 7 / 2 - 21.43
    assert automated_readability_index(text) == pytest.approx(expected)
    assert make_scorer("s", "readability", {}).score(ROW, Output(text)).value == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "...", " – "])
def test_a_text_without_words_has_no_readability(text: str) -> None:
    assert make_scorer("s", "readability", {}).score(ROW, Output(text)) == Score(error="the output holds no words")


@given(st.text())
def test_readability_is_there_exactly_where_words_are(text: str) -> None:
    assert (automated_readability_index(text) is None) is (count_sentences(text) == 0)


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b", 2, 1 / 3),
        ("a a a a", 1, 0.75),
        ("A a", 1, 0.5),
        ("a b c", 4, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_seen_before(text: str, n: int, share: float) -> None:
    assert repeated_share(text, n) == pytest.approx(share)
    assert make_scorer("s", "repetition", {"n": n}).score(ROW, Output(text)).value == pytest.approx(share)


def test_cost_is_tokens_by_price_of_a_million() -> None:
    scorer = make_scorer("s", "cost", {"per_million_in": 2.0, "per_million_out": 10})
    assert scorer.score(ROW, Output("x", tokens_in=1000, tokens_out=50)).value == pytest.approx(0.0025)
    assert (scorer.higher_is_better, scorer.worst) == (False, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [("one two", 2), ("我喜欢茶。", 4), ("one - two", 3), ("Я люблю чай", 3), ("ชา", 2), ("AI は 便利", 4), ("", 0)],
)
def test_words_of_a_script_without_spaces_are_its_letters(text: str, words: int) -> None:
    assert make_scorer("s", "words", {}).score(ROW, Output(text)).value == words
