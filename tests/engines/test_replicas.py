"""Several engines behind one: a request goes to whichever is free."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import ScoringEngine, generate
from llmops.engines.upstreams import ReplicatedEngine
from llmops.errors import EngineRejected, EngineUnavailable

pytestmark = pytest.mark.anyio


def fakes(number: int = 3, **settings) -> list[FakeEngine]:
    return [FakeEngine(**{"slots": 1, **settings}) for _ in range(number)]


async def test_its_identity_is_that_of_one_replica_and_its_slots_are_those_of_all():
    engine = ReplicatedEngine(fakes(3, slots=2))
    assert engine.identity == FakeEngine(slots=2).identity
    assert engine.slots == 6


async def test_answers_are_the_replicas(ask):
    engine = ReplicatedEngine(fakes())
    texts = [f"question {i}" for i in range(9)]
    made = await asyncio.gather(*(generate(engine, ask(text)) for text in texts))
    assert [generation.text for generation in made] == [f"You said: {text}" for text in texts]


async def test_requests_are_spread_over_all_replicas_and_none_takes_more_than_its_slots(ask):
    replicas = fakes(3, word_seconds=0.001)
    engine = ReplicatedEngine(replicas)
    await asyncio.gather(*(generate(engine, ask(str(i))) for i in range(12)))
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
    class TextOnly:
        def __init__(self):
            fake = FakeEngine(slots=1)
            self.identity, self.slots, self.honours, self.stream = fake.identity, 1, fake.honours, fake.stream

        async def close(self):
            """Nothing to free."""

    engine = ReplicatedEngine([TextOnly()])
    for _ in range(2):  # the replica is free again after the first
        with pytest.raises(EngineRejected, match="the fake engine gives no log-probabilities"):
            await asyncio.wait_for(engine.loglikelihoods(ask().messages, ["a", "b"]), 5)


async def test_closing_closes_every_replica():
    replicas = fakes()
    await ReplicatedEngine(replicas).close()
    assert all(replica.closed for replica in replicas)


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
