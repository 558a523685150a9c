"""Parameters, the fake engine, `generate`, and several engines behind one."""

import asyncio
import dataclasses
import json
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import EngineIdentity, ScoringEngine, generate
from llmops.engines.upstreams import ReplicatedEngine
from llmops.errors import EngineRejected, EngineTimeout, EngineUnavailable, UsageError
from llmops.generation import Chunk, GenerationParameters, Usage

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


def test_every_parameter_is_named_in_the_mapping_and_null_counts_as_none_given():
    names = {field.name for field in dataclasses.fields(GenerationParameters)}
    assert set(GenerationParameters().to_mapping()) == names
    for given_values in ({}, dict.fromkeys(names)):
        assert GenerationParameters.from_mapping(given_values) == GenerationParameters()


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


WHOLE, OBJECT = "must be a whole number", "must be an object whose type is text, json_object or json_schema"
TEXTS, SCHEMA_OBJECT = "must be a string or a list of strings, none empty", "json_schema.schema must be an object"
OUT_OF_RANGE = [
    *(("max_tokens", value, f"{WHOLE} of 1 or more") for value in (0, 1.0, True, "9")),
    *(("seed", value, WHOLE) for value in (1.5, False)),
    *(("temperature", value, "must be a number from 0 to 2") for value in (-0.1, 2.1, float("nan"), True, "0")),
    ("top_p", 1.1, "must be a number from 0 to 1"),
    *(("stop", value, TEXTS) for value in ("", ["a", ""], 3, b"a", {"a": 1})),
    *(("response_format", value, OBJECT) for value in ("json", {}, {"type": ["text"]})),
    *(
        ("response_format", {"type": "json_schema", **value}, SCHEMA_OBJECT)
        for value in ({}, {"json_schema": {"schema": 1}}, {"json_schema": []})
    ),
]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [*OUT_OF_RANGE, ("max_token", 3, "unknown parameter; known: max_tokens, response_format, seed")],
)
def test_a_value_out_of_range_names_its_parameter(name, value, problem):
    with pytest.raises(UsageError) as caught:
        GenerationParameters.from_mapping({name: value})
    assert str(caught.value).startswith(f"{name}: {problem}")


def test_stored_parameters_do_not_follow_later_changes_of_the_mapping():
    given_values = {"response_format": {"type": "json_object"}}
    parameters = GenerationParameters.from_mapping(given_values)
    given_values["response_format"]["type"] = "text"
    parameters.to_mapping()["response_format"]["type"] = "text"
    assert parameters.response_format == {"type": "json_object"}


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


async def test_generate_joins_the_chunks_and_times_the_first_and_the_whole(ask):
    engine = Scripted(0.05, Chunk("a "), Chunk("b"), 0.05, Chunk("", "length", Usage(3, 2)))
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason, answer.usage) == ("a b", "length", Usage(3, 2))
    assert 0.05 <= answer.first_token_s < answer.latency_s
    assert answer.latency_s >= 0.1
    empty = await generate(Scripted(), ask())
    assert (empty.text, empty.usage, empty.first_token_s) == ("", Usage(None, None), None)


async def test_an_error_after_text_passes_through_generate_and_cancelling_it_closes_the_stream_at_once(ask):
    engine = Scripted(Chunk("a"), EngineTimeout("late"))
    with pytest.raises(EngineTimeout, match="late"):
        await generate(engine, ask())
    assert engine.left
    engine = Scripted(Chunk("a"), 60, Chunk("b"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(generate(engine, ask()), 0.05)
    assert engine.left


@pytest.mark.parametrize(
    ("limit", "pieces", "reason"),
    [(2, ["a", " b", ""], "length"), (4, ["a", " b", " ", " c", ""], "stop"), (9, ["a", " b", " ", " c", ""], "stop")],
)
async def test_it_streams_word_by_word_up_to_max_tokens_and_ends_with_usage_only_in_the_last_chunk(
    ask, limit, pieces, reason
):
    chunks = [chunk async for chunk in FakeEngine(lambda _: "a b  c").stream(ask(max_tokens=limit))]
    assert [chunk.text for chunk in chunks] == pieces
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(pieces) - 1) + [reason]
    assert [chunk.usage for chunk in chunks] == [None] * (len(pieces) - 1) + [Usage(1, min(limit, 4))]


async def test_with_n_it_says_its_answer_so_often_and_only_the_last_chunk_has_usage(ask):
    request = dataclasses.replace(ask(), extras={"n": 2})
    chunks = [chunk async for chunk in FakeEngine(lambda _: "a b").stream(request)]
    assert [(chunk.text, chunk.index) for chunk in chunks] == [
        ("a", 0), (" b", 0), ("", 0), ("a", 1), (" b", 1), ("", 1),
    ]  # fmt: skip
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"] * 2
    assert [chunk.usage for chunk in chunks] == [*[None] * 5, Usage(1, 4)]


# ---- several engines behind one: a request goes to whichever is free


def fakes(number: int = 3, **settings) -> list[FakeEngine]:
    return [FakeEngine(**{"slots": 1, **settings}) for _ in range(number)]


async def test_its_identity_is_that_of_one_replica_and_its_slots_and_its_end_are_those_of_all():
    replicas = fakes(3, slots=2)
    engine = ReplicatedEngine(replicas)
    assert (engine.identity, engine.slots) == (EngineIdentity("fake", "1", {"slots": 2}), 6)
    await engine.close()
    assert all(replica.closed for replica in replicas)


async def test_requests_are_spread_over_all_replicas_and_none_takes_more_than_its_slots(ask):
    replicas = fakes(3, word_seconds=0.001)
    engine = ReplicatedEngine(replicas)
    made = await asyncio.gather(*(generate(engine, ask(str(i))) for i in range(12)))
    assert [generation.text for generation in made] == [f"You said: {i}" for i in range(12)]
    assert [replica.most_in_flight for replica in replicas] == [1, 1, 1]
    assert sum(len(replica.requests) for replica in replicas) == 12
    assert all(len(replica.requests) >= 2 for replica in replicas)


async def test_a_replica_that_is_free_is_not_kept_waiting_by_one_that_is_busy(ask):
    slow, quick = FakeEngine(slots=1, word_seconds=0.5), FakeEngine(slots=1)
    engine = ReplicatedEngine([slow, quick])
    busy = asyncio.create_task(generate(engine, ask("slow")))
    await asyncio.sleep(0)
    for i in range(5):
        await generate(engine, ask(str(i)))
    assert not busy.done()
    assert len(quick.requests) == 5
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy


async def test_leaving_a_stream_stops_the_replica_and_frees_it(ask):
    replica = FakeEngine(slots=1, word_seconds=0.001)
    engine = ReplicatedEngine([replica])
    async with aclosing(engine.stream(ask("one two three four"))) as chunks:
        async for _ in chunks:
            break
    assert (replica.cancelled, replica.in_flight) == (1, 0)
    assert (await asyncio.wait_for(generate(engine, ask("again")), 5)).text == "You said: again"


async def test_a_cancelled_request_that_waited_takes_no_replica_with_it(ask, eventually):
    replica = FakeEngine(slots=1, word_seconds=0.01)
    engine = ReplicatedEngine([replica])
    first = asyncio.create_task(generate(engine, ask("first")))
    await eventually(lambda: replica.in_flight)
    waiting = asyncio.create_task(generate(engine, ask("waiting")))
    await asyncio.sleep(0)
    waiting.cancel()
    await first
    assert (await asyncio.wait_for(generate(engine, ask("again")), 5)).text == "You said: again"
    assert [request.messages[-1]["content"] for request in replica.requests] == ["first", "again"]


async def test_a_failure_passes_through_and_frees_the_replica(ask):
    engine = ReplicatedEngine(fakes(1, failure=EngineUnavailable("gone", retry_after=3)))
    for _ in range(3):
        with pytest.raises(EngineUnavailable) as caught:
            await asyncio.wait_for(generate(engine, ask()), 5)
        assert caught.value.retry_after == 3


async def test_likelihoods_come_from_a_free_replica(ask):
    engine = ReplicatedEngine(fakes(2, answer=lambda _: "blue"))
    assert isinstance(engine, ScoringEngine)
    for _ in range(5):
        logprobs, usage = await engine.loglikelihoods(ask("sky?").messages, ["blue", "red"])
        assert logprobs == [-0.1, -4.0]
        assert usage.tokens_in == 1


async def test_replicas_without_likelihoods_reject_such_a_request(ask):
    replica = SimpleNamespace(identity=FakeEngine().identity, slots=1, supported_extras=frozenset())
    engine = ReplicatedEngine([replica])
    for _ in range(2):  # the replica is free again after the first
        with pytest.raises(EngineRejected, match="the fake engine gives no log-probabilities"):
            await asyncio.wait_for(engine.loglikelihoods(ask().messages, ["a", "b"]), 5)


async def test_priming_reaches_every_replica_that_can(ask):
    class Priming(FakeEngine):
        def __init__(self):
            super().__init__(slots=1)
            self.primed = []

        async def prime(self, messages):
            self.primed.append(tuple(messages))

    able = [Priming(), Priming()]
    await ReplicatedEngine([able[0], FakeEngine(slots=1), able[1]]).prime(ask("template").messages)
    assert [replica.primed for replica in able] == [[ask("template").messages]] * 2
