import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vaderSentiment import vaderSentiment

from monitoring.descriptors.sentiment import Vader, sentiment
from tests.monitoring.descriptors.corpus import TEXTS

THEIRS = vaderSentiment.SentimentIntensityAnalyzer()
OURS = Vader()
RULES = (
    *vaderSentiment.BOOSTER_DICT, *vaderSentiment.NEGATE,
    *" ".join(vaderSentiment.SPECIAL_CASES).split(), "no", "never", "so", "this",
    "without", "doubt", "but", "least", "at", "very", "or", "nor", "kind", "of", "sort", "just", "enough", "the",
    "NASA",
)  # fmt: skip
TOKENS = st.builds(
    lambda word, change, ending: change(word) + ending,
    st.one_of(st.sampled_from(sorted(THEIRS.lexicon)), st.sampled_from(RULES), st.sampled_from(sorted(THEIRS.emojis))),
    st.sampled_from([str, str, str.upper, str.title]),
    st.sampled_from(["", "", "!", "?", ".", "...", ",", "??", "!!!!!", "'"]),
)


def score(text):
    return THEIRS.polarity_scores(text)["compound"]


MADE_UP = st.builds(
    lambda tokens, between: between.join(tokens), st.lists(TOKENS, max_size=14), st.sampled_from([" ", "  ", "\n", ""])
)


@given(MADE_UP | st.text())
@settings(max_examples=200)
def test_made_up_and_any_other_texts_score_as_in_the_original(text):
    assert OURS.compound(text) == pytest.approx(score(text), abs=1e-4)


EACH_RULE = [
    "VADER is VERY SMART, uber handsome, and FRIGGIN FUNNY!!!",
    "At least it isn't a horrible book.",
    "The plot was good, but the characters are uncompelling and the dialog is not great.",
    "Catch utf-8 emoji such as 💘 and 💋 and 😁",
    "The book was only kind of good.",
    "It is the bomb and to die for.",
    "no good, no bad or good",
    "never so good, without doubt good",
    "good good but good bad bad",
]


def test_each_rule_of_the_original_holds_and_the_corpus_scores_as_in_it():
    texts = [*EACH_RULE, *(text for text in TEXTS if len(text) < 1000)]
    scores = [OURS.compound(text) for text in texts]
    assert scores == [score(text) for text in texts]
    assert all(scores[: len(EACH_RULE)])


def test_only_the_start_is_read():
    assert sentiment("I love this, it is wonderful!") > 0.6
    assert sentiment("This is terrible and I hate it.") < -0.6
    assert sentiment("x " * 1_000 + "I love this") == 0.0


def test_the_words_kept_stay_few():
    chance = random.Random(1)  # noqa: S311 (test data)
    small = Vader()
    for _ in range(120):
        small.compound(" ".join(str(chance.random()) for _ in range(1000)))
    assert len(small._words) < 102_000
