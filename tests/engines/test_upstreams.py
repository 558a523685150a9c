import asyncio
import dataclasses
from collections import Counter
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import EngineIdentity, generate
from llmops.engines.upstreams import LONGEST_REST_SECONDS, Upstream, UpstreamsEngine
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest
from tests.engines.upstream_server import UpstreamServer, answer, delta, drop, reply, silence, sse, stream

pytestmark = pytest.mark.anyio

DOWN = EngineUnavailable("connection refused")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scripted(FakeEngine):
    """Waits at its gate, if it has one, and raises what `error` holds; with `after`, after a piece of the answer."""

    def __init__(self, error: EngineError | None = None, *, after: bool = False) -> None:
        super().__init__(lambda _: "fine")
        self.error, self.after, self.asked = error, after, 0
        self.gate: asyncio.Event | None = None

    async def stream(self, request):
        self.asked += 1
        if self.error is not None and self.after:
            yield Chunk("fi")
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        async with aclosing(super().stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk


@pytest.fixture
def clock():
    return Clock()


def build(clock, *engines, weights=None):
    weights = weights or [1] * len(engines)
    pairs = enumerate(zip(engines, weights, strict=True))
    return UpstreamsEngine(
        [Upstream(engine, f"http://{number}", weight) for number, (engine, weight) in pairs], clock=clock
    )


# ---- choice


@pytest.mark.parametrize("order", ["ab", "aaba", "aabacaa", "aabaa"])
async def test_requests_are_shared_by_weight_exactly_and_well_mixed(clock, ask, order):
    names = sorted(set(order))
    weights = [order.count(name) for name in names]
    engines = [Scripted() for _ in names]
    both = build(clock, *engines, weights=weights)
    asked = ""
    for _ in range(2 * len(order)):
        before = [engine.asked for engine in engines]
        await generate(both, ask())
        asked += "".join(name for name, engine, n in zip(names, engines, before, strict=True) if engine.asked > n)
    assert asked == 2 * order


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.data())
def test_shares_hold_among_those_that_are_healthy(weights, data):
    resting = data.draw(st.integers(0, len(weights) - 1))
    clock = Clock()
    engines = [Scripted() for _ in weights]
    both = build(clock, *engines, weights=weights)
    engines[resting].error = EngineUnavailable("busy", retry_after=50)
    expected = [weight if number != resting else 0 for number, weight in enumerate(weights)]

    async def work(ask):
        while engines[resting].asked == 0:
            await generate(both, ask)
        for engine in engines:
            engine.asked = 0
        for _ in range(sum(expected) * 20):
            await generate(both, ask)

    asyncio.run(work(GenerationRequest(({"role": "user", "content": "hello"},))))
    counts = [engine.asked for engine in engines]
    assert counts[resting] == 0
    assert all(abs(count - 20 * weight) <= sum(weights) for count, weight in zip(counts, expected, strict=True))


# ---- replacement


@pytest.mark.parametrize("error", [EngineRejected("bad", param="seed"), ContextTooLong("long")], ids=str)
async def test_a_request_that_is_wrong_itself_is_told_so_at_once(clock, ask, error):
    strict, other = Scripted(error), Scripted()
    both = build(clock, strict, other, weights=[100, 1])
    for _ in range(20):
        with pytest.raises(type(error)) as caught:
            await generate(both, ask())
        assert caught.value is error
    assert (strict.asked, other.asked) == (20, 0)
    assert both.problems() == []


async def test_every_upstream_is_tried_once_at_most(clock, ask):
    engines = [Scripted(DOWN) for _ in range(4)]
    both = build(clock, *engines, weights=[9, 1, 5, 2])
    with pytest.raises(EngineUnavailable, match="no upstream answers: connection refused; connection refused"):
        await generate(both, ask())
    assert [engine.asked for engine in engines] == [1, 1, 1, 1]
    with pytest.raises(EngineTimeout):  # all were too slow
        await generate(build(clock, Scripted(EngineTimeout("slow")), Scripted(EngineTimeout("slow too"))), ask())


async def test_when_all_are_down_the_earliest_return_is_told(clock, ask):
    engines = [Scripted(EngineUnavailable("busy", retry_after=seconds)) for seconds in (30, 7, 20)]
    both = build(clock, *engines)
    for passed, message, left in ((0, "", 7), (3, r"http://1: busy \(tried again in 4 s\)", 4)):
        clock.now += passed
        with pytest.raises(EngineUnavailable, match=message or "busy") as caught:
            await generate(both, ask())
        assert caught.value.retry_after == left
        assert len(both.problems()) == 3
    assert [engine.asked for engine in engines] == [1, 1, 1]  # those that rest are not asked


# ---- health


async def fail_until_resting(both, ask):
    for _ in range(100):
        if both.problems():
            return
        await generate(both, ask())
    raise AssertionError("never rests")


async def test_three_failures_in_a_row_give_a_rest_and_a_success_in_between_does_not(clock, ask):
    shaky, good = Scripted(), Scripted()
    both = build(clock, shaky, good)
    for error in [DOWN, DOWN, None, DOWN, DOWN, None]:
        shaky.error, before = error, shaky.asked
        while shaky.asked == before:
            await generate(both, ask())
        assert both.problems() == []
    shaky.error = DOWN
    await fail_until_resting(both, ask)
    assert shaky.asked == 9
    [problem] = both.problems()
    assert problem.startswith("http://0: connection refused (tried again in 1 s)")
    for _ in range(10):
        await generate(both, ask())
    assert shaky.asked == 9


async def test_breaking_in_the_middle_again_and_again_gives_a_rest_too(clock, ask):
    bad, good = Scripted(EngineUnavailable("lost"), after=True), Scripted()
    both = build(clock, bad, good)
    lost = 0
    for _ in range(20):
        try:
            await generate(both, ask())
        except EngineUnavailable:
            lost += 1
    assert lost == 3  # after the first byte nothing is tried again
    assert both.problems() == ["http://0: lost (tried again in 1 s)"]


@pytest.mark.parametrize("error", [EngineUnavailable("401", lasting=True), EngineUnavailable("429", retry_after=1)])
async def test_a_refused_key_and_a_named_time_give_a_rest_at_once(clock, ask, error):
    bad = Scripted(error)
    both = build(clock, bad, Scripted(), weights=[100, 1])
    await generate(both, ask())
    assert len(both.problems()) == 1


async def test_rests_grow_with_every_failed_trial_up_to_a_limit_and_end_with_a_success(clock, ask):
    bad = Scripted(DOWN)
    both = build(clock, bad, Scripted())
    await fail_until_resting(both, ask)
    rests = []
    for _ in range(10):
        begin, before = clock.now, bad.asked
        while bad.asked == before:
            clock.now += 0.1
            await generate(both, ask())
        rests.append(clock.now - begin)
    assert rests == sorted(rests)
    assert rests[0] < 1.5 < rests[1] < 3 < rests[2] < 6
    assert rests[-1] <= LONGEST_REST_SECONDS + 1
    bad.error = None
    clock.now += LONGEST_REST_SECONDS
    for _ in range(4):
        await generate(both, ask())
    assert both.problems() == []
    bad.error = DOWN
    await fail_until_resting(both, ask)
    assert "tried again in 1 s" in both.problems()[0]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_after_a_rest_one_request_tries_and_the_others_go_elsewhere_until_it_ends(
    clock, ask, eventually, cancelled
):
    bad, good = Scripted(DOWN), Scripted()
    both = build(clock, bad, good, weights=[100, 1])
    await fail_until_resting(both, ask)
    clock.now += 2
    bad.error, bad.gate, before = None, asyncio.Event(), bad.asked
    trial = asyncio.create_task(generate(both, ask()))
    await eventually(lambda: bad.asked == before + 1)
    for _ in range(5):
        await generate(both, ask())
    assert bad.asked == before + 1
    assert len(both.problems()) == 1
    if cancelled:
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)
        bad.gate.set()
        await generate(both, ask())  # the next one tries
        assert bad.asked == before + 2
    else:
        bad.gate.set()
        assert (await trial).text == "fine"
    assert both.problems() == []


async def test_many_failures_at_the_same_time_are_one(clock, ask):
    bad = Scripted(DOWN, after=True)
    bad.gate = asyncio.Event()
    both = build(clock, bad, Scripted(), weights=[100, 1])
    tasks = [asyncio.create_task(generate(both, ask())) for _ in range(50)]
    await asyncio.sleep(0)
    bad.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert both.problems() == ["http://0: connection refused (tried again in 1 s)"]


# ---- as an engine


async def test_the_identity_names_every_upstream_and_closing_closes_all(clock):
    engines = [Scripted(), Scripted()]
    both = build(clock, *engines)
    identity = engines[0].identity
    assert both.identity == EngineIdentity(identity.name, "http://0, http://1", identity.settings)
    assert (both.slots, both.supported_extras) == (8, engines[0].supported_extras)
    await both.close()
    assert all(engine.closed for engine in engines)


# ---- real servers


@pytest.fixture
async def servers(server):
    async with UpstreamServer() as second:
        yield server, second


@pytest.fixture
def engine(servers, connect):
    limits = {"connect_timeout": 1, "first_byte_timeout": 0.3, "timeout": 0.6}
    return UpstreamsEngine([Upstream(connect(one.url, **limits), one.url) for one in servers])


BAD = {
    "rate limited": reply(429, {"error": {"message": "slow down"}}, "retry-after: 9\r\n"),
    "unavailable": reply(503, {"error": {"message": "loading"}}),
    "failing": reply(500, {"error": {"message": "boom"}}),
    "key refused": reply(401, {"error": {"message": "no such key"}}),
    "silent": silence,
    "dropping": drop,
    "garbage": reply(200, b"{"),
}


@pytest.mark.parametrize("behave", BAD.values(), ids=BAD)
@pytest.mark.parametrize("whole", [True, False])
async def test_no_request_fails_while_one_server_is_well(servers, engine, ask, behave, whole):
    servers[0].behave = behave
    for _ in range(6):
        assert (await generate(engine, dataclasses.replace(ask(), whole=whole))).text == "Hello"
    assert 1 <= len(servers[0].seen) <= 6
    assert len(servers[1].seen) == 6


async def test_a_server_that_goes_and_comes_back_costs_no_request(servers, engine, ask, eventually, monkeypatch):
    monkeypatch.setattr("llmops.engines.upstreams.FIRST_REST_SECONDS", 0.05)
    await servers[0].stop()
    texts = Counter([(await generate(engine, ask())).text for _ in range(10)])
    assert texts == {"Hello": 10}
    await servers[0].start()
    deadline = asyncio.get_running_loop().time() + 60
    while not servers[0].seen:
        assert asyncio.get_running_loop().time() < deadline
        assert (await generate(engine, ask())).text == "Hello"
        await asyncio.sleep(0.01)


async def test_leaving_closes_the_connection_of_the_server_that_answers(servers, engine, ask, eventually):
    for server in servers:
        server.behave = stream(sse(delta("Hel")), 60)
    async with aclosing(engine.stream(ask())) as chunks:
        await anext(chunks)
    await eventually(lambda: sum(server.left for server in servers) == 1)
    for server in servers:
        server.behave = answer
    await generate(engine, ask())
