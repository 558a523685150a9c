""""""

from __future__ import annotations

import threading
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.local import AnswerText, check_gguf, from_thread
from llmops.errors import Corrupted

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


def test_a_gguf_file_passes(tiny_gguf):
    check_gguf(tiny_gguf)


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04GGUF"])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(Corrupted, match=r"model\.gguf: not a GGUF file"):
        check_gguf(path)


pytestmark = pytest.mark.anyio


def sending(*items):
    return lambda send, _: threading.Thread(target=lambda: [send(item) for item in items]).start()


async def test_items_come_in_order_until_none():
    assert [item async for item in from_thread(sending(1, 2, None, 3))] == [1, 2]


async def test_an_exception_that_is_sent_is_raised_after_the_items_before_it():
    stream = from_thread(sending(1, ValueError("broken")))
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)


async def test_whoever_works_is_told_when_the_stream_is_left():
    events = []

    def begin(send, cancelled):
        events.append(cancelled)
        send(1)

    async with aclosing(from_thread(begin)) as items:
        assert await anext(items) == 1
        assert not events[0].is_set()
    assert events[0].is_set()
