""""""

from __future__ import annotations

import asyncio
import dataclasses
import json
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import EngineIdentity, generate
from llmops.errors import EngineTimeout, EngineUnavailable, UsageError
from llmops.generation import Chunk, GenerationParameters, GenerationRequest, Usage

SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
PARAMETERS = st.builds(
    GenerationParameters,
    max_tokens=st.integers(1, 10**6),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    stop=st.lists(st.text(min_size=1), max_size=4).map(tuple),
    seed=st.none() | st.integers(),
    response_format=st.sampled_from([None, {"type": "json_object"}, SCHEMA]),
)


@given(PARAMETERS)
def test_parameters_survive_json(parameters):
    assert GenerationParameters.from_mapping(json.loads(json.dumps(parameters.to_mapping()))) == parameters


def test_every_parameter_is_named_in_the_mapping():
    names = {field.name for field in dataclasses.fields(GenerationParameters)}
    assert set(GenerationParameters().to_mapping()) == names


def test_no_values_give_the_defaults_and_null_counts_as_none_given():
    assert GenerationParameters.from_mapping({}) == GenerationParameters()
    names = GenerationParameters().to_mapping()
    assert GenerationParameters.from_mapping(dict.fromkeys(names)) == GenerationParameters()


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ({"stop": "\n"}, {"stop": ("\n",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"top_p": 0}, {"top_p": 0.0}),
        ({"seed": -1}, {"seed": -1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": SCHEMA}, {"response_format": SCHEMA}),
    ],
)
def test_values_are_taken_in_their_usual_forms(given_values, expected):
    assert GenerationParameters.from_mapping(given_values) == GenerationParameters(**expected)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("max_tokens", 0, "must be a whole number of 1 or more"),
        ("max_tokens", 1.0, "must be a whole number of 1 or more"),
        ("max_tokens", True, "must be a whole number of 1 or more"),
        ("max_tokens", "9", "must be a whole number of 1 or more"),
        ("seed", 1.5, "must be a whole number"),
        ("seed", False, "must be a whole number"),
        ("temperature", -0.1, "must be a number from 0 to 2"),
        ("temperature", 2.1, "must be a number from 0 to 2"),
        ("temperature", float("nan"), "must be a number from 0 to 2"),
        ("temperature", True, "must be a number from 0 to 2"),
        ("temperature", "0", "must be a number from 0 to 2"),
        ("top_p", 1.1, "must be a number from 0 to 1"),
        ("stop", "", "must be a string or a list of strings, none empty"),
        ("stop", ["a", ""], "must be a string or a list of strings, none empty"),
        ("stop", 3, "must be a string or a list of strings, none empty"),
        ("stop", b"a", "must be a string or a list of strings, none empty"),
        ("stop", {"a": 1}, "must be a string or a list of strings, none empty"),
        ("response_format", "json", "must be an object whose type is text, json_object or json_schema"),
        ("response_format", {}, "must be an object whose type is text, json_object or json_schema"),
        ("response_format", {"type": ["text"]}, "must be an object whose type is text, json_object or json_schema"),
        ("response_format", {"type": "json_schema"}, "json_schema.schema must be an object"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": 1}}, "json_schema.schema must be"),
        ("response_format", {"type": "json_schema", "json_schema": []}, "json_schema.schema must be an object"),
    ],
)
def test_a_value_out_of_range_names_its_parameter(name, value, problem):
    with pytest.raises(UsageError) as caught:
        GenerationParameters.from_mapping({name: value})
    assert str(caught.value).startswith(f"{name}: {problem}")


def test_an_unknown_parameter_names_the_known_ones():
    with pytest.raises(UsageError, match=r"^max_token: unknown parameter; known: max_tokens, response_format, seed"):
        GenerationParameters.from_mapping({"max_token": 3})


def test_stored_parameters_do_not_follow_later_changes_of_the_mapping():
    given_values = {"response_format": {"type": "json_object"}}
    parameters = GenerationParameters.from_mapping(given_values)
    given_values["response_format"]["type"] = "text"
    parameters.to_mapping()["response_format"]["type"] = "text"
    assert parameters.response_format == {"type": "json_object"}


def test_an_identity_is_plain_json():
    identity = EngineIdentity("fake", "1", {"slots": 4})
    assert json.loads(json.dumps(identity.to_mapping())) == {"name": "fake", "build": "1", "settings": {"slots": 4}}


class Scripted(FakeEngine):
    """Plays chunks, numbers (seconds to sleep) and exceptions."""

    def __init__(self, *script):
        super().__init__()
        self.script = script
        self.left = False

    async def stream(self, request):
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Chunk):
                    yield item
                else:
                    await asyncio.sleep(item)
        finally:
            self.left = True


pytestmark = pytest.mark.anyio


async def test_generate_joins_the_chunks_and_takes_the_last_ones_end(ask):
    engine = Scripted(Chunk("a "), Chunk("b"), Chunk("", "length", Usage(3, 2)))
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason, answer.usage) == ("a b", "length", Usage(3, 2))


async def test_generate_times_the_first_chunk_and_the_whole(ask):
    engine = Scripted(0.05, Chunk("a"), 0.05, Chunk("", "stop", Usage(1, 1)))
    answer = await generate(engine, ask())
    assert 0.05 <= answer.first_token_s < answer.latency_s
    assert answer.latency_s >= 0.1


async def test_generate_of_an_empty_stream_is_an_empty_answer(ask):
    answer = await generate(Scripted(), ask())
    assert (answer.text, answer.usage) == ("", Usage(None, None))
    assert answer.first_token_s is None


async def test_generate_passes_an_error_on_that_comes_after_text(ask):
    engine = Scripted(Chunk("a"), EngineTimeout("late"))
    with pytest.raises(EngineTimeout, match="late"):
        await generate(engine, ask())
    assert engine.left


async def test_cancelling_generate_closes_the_stream_at_once(ask):
    engine = Scripted(Chunk("a"), 60, Chunk("b"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(generate(engine, ask()), 0.05)
    assert engine.left


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
