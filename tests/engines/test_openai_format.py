from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.openai_errors import error_message, refusal, retry_seconds
from llmops.engines.openai_format import AnswerReader, chat_body, whole_answer
from llmops.errors import EngineError
from llmops.generation import Chunk, Usage

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


def test_a_body_that_is_not_streamed_asks_for_no_stream(ask):
    body = chat_body(ask(), stream=False)
    assert not {"stream", "stream_options"} & set(body)
    assert {**body, "stream": True, "stream_options": {"include_usage": True}} == chat_body(ask())


def test_extras_are_in_the_body_as_the_client_sent_them(ask):
    extras = {"n": 2, "tools": [], "presence_penalty": 0.5}
    assert chat_body(dataclasses.replace(ask(), extras=extras)) == {**chat_body(ask()), **extras}


def test_an_answer_that_is_missing_before_another_is_a_failure():
    answers = [{"index": index, "message": {"content": "x"}, "finish_reason": "stop"} for index in (2, 0)]
    with pytest.raises(EngineError, match="no answer of index 1"):
        whole_answer({"choices": answers}, 3)
    reader = AnswerReader(3)
    reader.take({"choices": [{**answer, "delta": answer["message"]} for answer in answers]})
    with pytest.raises(EngineError, match="no answer of index 1"):
        reader.end()


def test_counts_that_come_with_every_event_are_not_added_up():
    reader = AnswerReader()
    for number in (1, 2):
        event = {"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 5, "completion_tokens": number}}
        reader.take(event)
    reader.take({"choices": [{"finish_reason": "stop"}]})
    assert reader.end()[-1].usage == Usage(5, 2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("", None), ("2", 2.0), ("0", 0.0), ("1.5", 1.5), ("-1", None), ("nan", None), ("inf", None),
     ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)  # fmt: skip
def test_seconds_to_wait_are_a_number_that_can_be_waited(text, seconds):
    assert retry_seconds(text) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_a_date_to_come_back_is_the_time_until_then(zone):
    waited = retry_seconds(f"Wed, 21 Oct 2099 07:28:00 {zone}")
    assert waited is not None
    assert waited > 1e9


def test_a_refusal_that_is_no_json_by_the_letter_or_nested_too_deep_is_told_all_the_same():
    told = refusal(400, {}, b'\xef\xbb\xbf{"error": {"message": "no \\ud83d room"}}')
    assert str(told) == "upstream answered 400: no \ufffd room"
    assert len(str(refusal(400, {}, b'{"detail":' * 900 + b"1" + b"}" * 900))) < 400
