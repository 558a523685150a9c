"""Near duplicates are found among many texts, and only true ones are told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from llmops.evaluation.near_duplicates import folded, near_duplicates


def sentence(chance: random.Random, words: int = 9) -> str:
    return " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(words))


def test_a_changed_character_is_a_near_duplicate_and_another_question_is_not() -> None:
    texts = ["Who designed the footbridge?", "Where do the children swim?", "Who designed the foot bridge?"]
    [(left, right, similarity)] = near_duplicates(texts, 0.9)
    assert (left, right) == (0, 2)
    assert similarity == pytest.approx(fuzz.ratio(*(folded(texts[i]) for i in (0, 2))) / 100)


def test_case_and_white_space_do_not_count() -> None:
    assert list(near_duplicates(["Who  IS it?\n", "who is it?"], 1.0)) == [(0, 1, 1.0)]


def test_planted_edits_among_thousands_of_texts_are_found() -> None:
    chance = random.Random(0)  # noqa: S311 - no secret
    texts = [sentence(chance) for _ in range(3000)]
    edited = [text[:10] + "zz" + text[12:] for text in texts[:300]]
    pairs = list(near_duplicates([*texts, *edited], 0.9))
    assert len({(left, right) for left, right, _ in pairs if right == left + 3000}) >= 297
    assert len(pairs) <= 310


def test_many_texts_of_one_pattern_hang_together_without_every_pair() -> None:
    texts = [f"Please translate the number {number} into French, and say nothing else." for number in range(2000)]
    pairs = list(near_duplicates(texts, 0.9))
    reached = {0}
    for left, right, _ in sorted(pairs):
        if left in reached or right in reached:
            reached |= {left, right}
    assert len(reached) > 1900
    assert len(pairs) < 2000 * 100


@pytest.mark.parametrize("texts", [[], ["alone"], ["", ""], ["a", "b"], ["日本語の質問です", "日本語の質問ですか"]])
def test_few_and_short_texts_are_no_trouble(texts: list[str]) -> None:
    for left, right, similarity in near_duplicates(texts, 0.9):
        assert similarity == pytest.approx(fuzz.ratio(folded(texts[left]), folded(texts[right])) / 100)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=12), st.sampled_from([0.7, 0.9, 1.0]))
def test_every_pair_told_reaches_the_limit_and_equal_texts_are_always_told(texts: list[str], least: float) -> None:
    pairs = list(near_duplicates(texts, least))
    for left, right, similarity in pairs:
        assert left < right
        assert similarity >= least - 1e-9
    told = {(left, right) for left, right, _ in pairs}
    first: dict[str, int] = {}
    for position, text in enumerate(map(folded, texts)):
        if text and text in first:
            assert (first[text], position) in told
        first.setdefault(text, position)
