from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.upstream_wire import EventParser, SentEvent
from llmops.errors import EngineError

LIMIT = 1000


def parsed(*pieces: bytes, limit: int = LIMIT) -> list[tuple[bytes, bytes]]:
    parser = EventParser(limit)
    return [tuple(event) for piece in pieces for event in parser.feed(piece)]


def by_the_book(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's algorithm, line after line, on a whole stream: slow, and plainly right."""
    events, name, data = [], b"", []
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines[:-1]:  # what no line ending follows is no line yet
        if line == b"":
            if b"\n".join(data):
                events.append((name, b"\n".join(data)))
            name, data = b"", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return events


pieces_of_events = st.sampled_from(
    [b"data: a", b"data:b", b"data: ", b"data", b"data: [DONE]", b": ping", b"event: error", b"event:x", b"id: 3",
     b"data: {\"a\": 1}", "data: €".encode(), b"\n", b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"\xef\xbb\xbf", b" ",
     b"retry: 5", b"nonsense"]
)  # fmt: skip
streams = st.lists(pieces_of_events, max_size=30).map(b"".join) | st.binary(max_size=60)


@given(streams, st.data())
def test_events_are_the_standards_however_the_bytes_are_cut(stream, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parsed(*pieces) == by_the_book(stream)


@given(streams)
def test_events_are_the_same_byte_by_byte(stream):
    assert parsed(*(stream[place : place + 1] for place in range(len(stream)))) == by_the_book(stream)


@given(st.lists(st.tuples(st.sampled_from([b"", b"error"]), st.text("ab €\n", min_size=1, max_size=20)), max_size=8))
def test_what_a_server_sends_comes_back(sent):
    stream, expected = b"", []
    for name, text in sent:
        stream += b"event: " + name + b"\n" if name else b""
        stream += b"".join(b"data: " + line + b"\n" for line in text.encode().split(b"\n")) + b"\n"
        expected.append((name, text.encode()))
    assert parsed(stream) == expected


def test_an_event_without_its_blank_line_is_none():
    assert parsed(b"data: a\n") == parsed(b"data: a") == []


def test_events_are_given_out_as_soon_as_their_last_byte_is_there():
    parser = EventParser(LIMIT)
    assert parser.feed(b"data: a\r\n\r") == [SentEvent(b"", b"a")]
    assert parser.feed(b"\ndata: b\n\n") == [SentEvent(b"", b"b")]


@pytest.mark.parametrize("size", [1, 7, 5000])
@pytest.mark.parametrize("end", [b"", b"\n\n"])
def test_an_event_beyond_the_limit_is_refused_complete_or_not(size, end):
    stream = b"data: fine\n\ndata: " + b"x" * 2000 + end
    with pytest.raises(EngineError, match="more than 1000 bytes"):
        parsed(*(stream[place : place + size] for place in range(0, len(stream), size)))


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_an_event_as_long_as_the_limit_is_fine(size):
    stream = b"data: " + b"x" * (LIMIT - 6) + b"\n\n"
    pieces = [stream[place : place + size] for place in range(0, len(stream), size)]
    assert parsed(*pieces) == [(b"", b"x" * (LIMIT - 6))]


def test_the_limit_is_of_an_event_and_not_of_a_stream():
    assert len(parsed(b"data: abcdefgh\n\n" * 1000, limit=20)) == 1000


def test_a_field_named_error_is_an_event_of_that_name():
    assert EventParser(100).feed(b'error: {"code": 400}\n\n') == [SentEvent(b"error", b'{"code": 400}')]
