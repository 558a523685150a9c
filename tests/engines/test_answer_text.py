from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.local import AnswerText

TEXTS = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=2).map(tuple)


@given(TEXTS, STOPS)
def test_the_pieces_are_the_text_up_to_the_first_stop_string(text, stops):
    answer, pieces, ended = AnswerText(stops), [], False
    for length in range(len(text) + 1):
        piece, ended = answer.grown(text[:length])
        pieces.append(piece)
        if ended:
            break
    if not ended:
        pieces.append(answer.ended(text))
    found = [text.index(stop) for stop in stops if stop in text]
    said = "".join(pieces)
    assert text.startswith(said)
    assert ended == bool(found)
    # Another stop string may begin earlier and end later: what was said ends before the one that was complete first.
    assert not any(stop in said for stop in stops)
    if not found:
        assert said == text


def test_a_cut_character_is_held_back_until_it_is_whole():
    answer = AnswerText()
    assert answer.grown("a\ufffd") == ("a", False)
    assert answer.grown("aé") == ("é", False)


def test_a_cut_character_at_the_end_is_said_after_all():
    answer = AnswerText()
    answer.grown("a\ufffd")
    assert answer.ended("a\ufffd") == "\ufffd"
