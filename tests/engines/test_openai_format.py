"""What upstreams send, read piece by piece: events, chunks of answers, errors. Nothing that they send breaks it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.openai_errors import error_message, refusal, retry_seconds
from llmops.engines.openai_format import AnswerReader, whole_answer
from llmops.engines.upstream_wire import EventParser, SentEvent
from llmops.errors import EngineError
from llmops.generation import Chunk

NAMES = st.sampled_from(
    ["choices", "delta", "message", "content", "index", "finish_reason", "usage", "prompt_tokens", "completion_tokens",
     "tool_calls", "logprobs", "error", "param", "code"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "stop", "text"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=20
)
FIELDS = dict.fromkeys(("index", "delta", "message", "finish_reason", "logprobs"), JSON)
CHOICES = st.lists(st.fixed_dictionaries({}, optional=FIELDS) | JSON, max_size=3)
EVENTS = st.fixed_dictionaries({}, optional={"choices": CHOICES, "usage": JSON, "error": JSON}) | JSON


def is_sound(chunk: Chunk) -> bool:
    return isinstance(chunk.text, str) and isinstance(chunk.index, int)


@given(st.lists(EVENTS, max_size=6))
def test_any_events_give_sound_chunks_or_an_engine_error(events):
    reader = AnswerReader()
    chunks: list[Chunk] = []
    try:
        for event in events:
            chunks.extend(reader.take(event))
        chunks.extend(reader.end())
    except EngineError:
        return
    assert all(is_sound(chunk) for chunk in chunks)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert isinstance(chunks[-1].finish_reason, str)


def one_of(*values):
    return st.sampled_from(values)


PIECES = st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries(
        {"index": one_of(0, 0, 1, True), "delta": st.fixed_dictionaries(
            {"content": one_of("more", "more", "", None, 3)}, optional={"role": one_of("assistant")})},
        optional={"finish_reason": one_of(None, "stop"), "logprobs": one_of(None, {}), "own": one_of(None, 1)}),
        min_size=1, max_size=2)},
    optional={"usage": one_of(None, {"prompt_tokens": 1}), "error": one_of(None, {"message": "m"}), "own": one_of(1)},
)  # fmt: skip


@given(PIECES)
def test_the_commonest_event_is_read_as_any_other(event):
    def outcome(way):
        reader = AnswerReader()
        reader.take({"choices": [{"index": 0, "delta": {"content": "said"}}]})
        try:
            return [*getattr(reader, way)(event), *reader.end()]
        except EngineError as error:
            return str(error)

    assert outcome("take") == outcome("_read")


@given(EVENTS)
def test_any_reply_gives_sound_chunks_or_an_engine_error(reply):
    try:
        chunks = whole_answer(reply)
    except EngineError:
        return
    assert all(is_sound(chunk) and isinstance(chunk.finish_reason, str) for chunk in chunks)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@given(st.integers(100, 599).filter(lambda status: status != 200), st.binary(max_size=40), st.text(max_size=12))
def test_any_refusal_is_an_engine_error(status, content, retry_after):
    assert isinstance(refusal(status, {"retry-after": retry_after}, content), EngineError)


@given(JSON)
def test_any_error_body_is_told_in_a_line(body):
    assert 0 < len(error_message(body)) <= 300


@pytest.mark.parametrize("body", [{"message": "no"}, {"detail": "no"}, {"error": "no"}, {"error": {"message": "no"}}])
def test_error_bodies_of_other_servers_are_understood(body):
    assert error_message(body) == "no"


def test_an_answer_that_is_missing_before_another_is_a_failure():
    answers = [{"index": index, "message": {"content": "x"}, "finish_reason": "stop"} for index in (2, 0)]
    with pytest.raises(EngineError, match="no answer of index 1"):
        whole_answer({"choices": answers}, 3)
    reader = AnswerReader(3)
    reader.take({"choices": [{**answer, "delta": answer["message"]} for answer in answers]})
    with pytest.raises(EngineError, match="no answer of index 1"):
        reader.end()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("", None), ("2", 2.0), ("0", 0.0), ("1.5", 1.5), ("-1", None), ("nan", None), ("inf", None),
     ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)  # fmt: skip
def test_seconds_to_wait_are_a_number_that_can_be_waited(text, seconds):
    assert retry_seconds(text) == seconds


def test_a_date_to_come_back_is_the_time_until_then():
    waits = [retry_seconds(f"Wed, 21 Oct 2099 07:28:00 {zone}") for zone in ("GMT", "-0000")]
    assert all(wait is not None and wait > 1e9 for wait in waits)


def test_a_refusal_that_is_no_json_by_the_letter_or_nested_too_deep_is_told_all_the_same():
    told = refusal(400, {}, b'\xef\xbb\xbf{"error": {"message": "no \\ud83d room"}}')
    assert str(told) == "upstream answered 400: no \ufffd room"
    assert len(str(refusal(400, {}, b'{"detail":' * 900 + b"1" + b"}" * 900))) < 400


# ---- server-sent events

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
    assert parsed(*(stream[place : place + 1] for place in range(len(stream)))) == by_the_book(stream)


def test_events_are_given_out_as_soon_as_their_last_byte_is_there_and_no_sooner():
    assert parsed(b"data: a\n") == parsed(b"data: a") == []
    parser = EventParser(LIMIT)
    assert parser.feed(b"data: a\r\n\r") == [SentEvent(b"", b"a")]
    assert parser.feed(b"\ndata: b\n\n") == [SentEvent(b"", b"b")]
    assert parser.feed(b'error: {"code": 400}\n\n') == [SentEvent(b"error", b'{"code": 400}')]


@pytest.mark.parametrize("size", [1, 7, 5000])
@pytest.mark.parametrize("end", [b"", b"\n\n"])
def test_an_event_beyond_the_limit_is_refused_complete_or_not(size, end):
    stream = b"data: fine\n\ndata: " + b"x" * 2000 + end
    with pytest.raises(EngineError, match="more than 1000 bytes"):
        parsed(*(stream[place : place + size] for place in range(0, len(stream), size)))


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_an_event_as_long_as_the_limit_is_fine_however_long_the_stream(size):
    stream = b"data: " + b"x" * (LIMIT - 6) + b"\n\n"
    pieces = [stream[place : place + size] for place in range(0, len(stream), size)]
    assert parsed(*pieces) == [(b"", b"x" * (LIMIT - 6))]
    assert len(parsed(b"data: abcdefgh\n\n" * 1000, limit=20)) == 1000
