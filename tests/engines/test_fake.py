from __future__ import annotations

import asyncio
import dataclasses
from contextlib import aclosing

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import EngineIdentity, generate
from llmops.errors import EngineUnavailable
from llmops.generation import Chunk, GenerationRequest, Usage

pytestmark = pytest.mark.anyio


async def test_it_echoes_the_last_message_by_default():
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello world"})
    answer = await generate(FakeEngine(), GenerationRequest(messages))
    assert answer.text == "You said: hello world"
    assert answer.usage == Usage(4, 4)
    assert answer.finish_reason == "stop"


async def test_it_streams_word_by_word_and_ends_with_usage_only_in_the_last_chunk(ask):
    chunks = [chunk async for chunk in FakeEngine(lambda _: "a b  c").stream(ask())]
    assert [chunk.text for chunk in chunks] == ["a", " b", " ", " c", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 4 + ["stop"]
    assert [chunk.usage is None for chunk in chunks] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("limit", "text", "reason"), [(2, "a b", "length"), (3, "a b c", "stop"), (9, "a b c", "stop")]
)
async def test_it_ends_at_max_tokens(ask, limit, text, reason):
    answer = await generate(FakeEngine(lambda _: "a b c"), ask(max_tokens=limit))
    assert (answer.text, answer.finish_reason, answer.usage.tokens_out) == (text, reason, min(limit, 3))


async def test_a_failure_is_raised_in_place_of_an_answer(ask):
    engine = FakeEngine(failure=EngineUnavailable("down"))
    with pytest.raises(EngineUnavailable, match="down"):
        await generate(engine, ask())
    assert (len(engine.requests), engine.in_flight) == (1, 0)


async def test_it_keeps_requests_and_counts_those_in_flight(ask):
    engine = FakeEngine(word_seconds=0.01)
    requests = [ask("one"), ask("two"), ask("three")]
    await asyncio.gather(*(generate(engine, request) for request in requests))
    assert engine.requests == requests
    assert (engine.most_in_flight, engine.in_flight, engine.cancelled) == (3, 0, 0)


async def test_a_stream_closed_early_counts_as_cancelled(ask):
    engine = FakeEngine(lambda _: "a b c", word_seconds=0.01)
    async with aclosing(engine.stream(ask())) as chunks:
        await anext(chunks)
    assert (engine.cancelled, engine.in_flight) == (1, 0)


async def test_a_cancelled_task_counts_as_cancelled(ask):
    engine = FakeEngine(word_seconds=60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(generate(engine, ask()), 0.05)
    assert (engine.cancelled, engine.in_flight) == (1, 0)


async def test_it_knows_that_it_was_closed():
    engine = FakeEngine()
    assert not engine.closed
    await engine.close()
    assert engine.closed


def test_its_identity_names_slots_and_name():
    engine = FakeEngine(slots=3, name="fake-b")
    assert engine.slots == 3
    assert engine.identity == EngineIdentity("fake-b", "1", {"slots": 3})


async def test_with_n_it_says_its_answer_so_often_and_only_the_last_chunk_has_usage(ask):
    request = dataclasses.replace(ask(), extras={"n": 2})
    chunks = [chunk async for chunk in FakeEngine(lambda _: "a b").stream(request)]
    assert [(chunk.text, chunk.index) for chunk in chunks] == [
        ("a", 0), (" b", 0), ("", 0), ("a", 1), (" b", 1), ("", 1),
    ]  # fmt: skip
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"] * 2
    assert [chunk.usage for chunk in chunks] == [*[None] * 5, Usage(1, 4)]


async def test_a_script_is_streamed_in_place_of_an_answer(ask):
    script = [Chunk("", tool_calls=({"index": 0},)), Chunk("", "tool_calls", Usage(1, 1))]
    engine = FakeEngine(script=lambda _: script, honours=frozenset({"tools"}))
    assert [chunk async for chunk in engine.stream(ask())] == script
    assert (engine.honours, engine.cancelled) == ({"tools"}, 0)
