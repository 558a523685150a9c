from __future__ import annotations

import asyncio
import threading

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.opening import EnginePool
from llmops.errors import EngineUnavailable
from llmops.versions import ModelVersion

pytestmark = pytest.mark.anyio


class Opener:
    """Opens fake engines; remembers them, waits for `gate`, and fails while `failure` is set."""

    def __init__(self):
        self.opened = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure = None

    def __call__(self, model):
        self.opened.append(model.ref)
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return FakeEngine(name=model.ref)


@pytest.fixture
def opener():
    return Opener()


@pytest.fixture
def model_version():
    def make(name="tiny", version=1, sha256=None):
        return ModelVersion(name, version, "file:none", "gguf", sha256 or f"sha-{name}-{version}")

    return make


async def use(pool, model):
    async with pool.lease(model) as engine:
        return engine


async def test_many_waiters_share_one_load(opener, model_version):
    pool = EnginePool(opener)
    opener.gate.clear()
    waiters = [asyncio.create_task(use(pool, model_version())) for _ in range(20)]
    await asyncio.sleep(0.02)
    waiters.pop().cancel()
    opener.gate.set()
    engines = await asyncio.gather(*waiters)
    assert len(set(map(id, engines))) == 1
    assert opener.opened == ["tiny@1"]
    await pool.close()
    assert engines[0].closed


async def test_two_names_of_the_same_weights_share_an_engine(opener, model_version):
    pool = EnginePool(opener)
    same = [model_version("a", sha256="s"), model_version("b", sha256="s")]
    assert await use(pool, same[0]) is await use(pool, same[1])


async def test_the_least_recently_used_idle_engine_is_closed(opener, model_version):
    pool = EnginePool(opener, most_idle=2)
    first, second, third = (model_version(version=number) for number in (1, 2, 3))
    engines = [await use(pool, first), await use(pool, second)]
    await use(pool, first)
    await use(pool, third)
    await asyncio.sleep(0)
    assert [engine.closed for engine in engines] == [False, True]
    assert pool.loaded == ["tiny@1", "tiny@3"]


async def test_an_engine_in_use_or_pinned_is_never_closed(opener, model_version):
    pool = EnginePool(opener, most_idle=0)
    pinned, used, other = (model_version(version=number) for number in (1, 2, 3))
    pool.pin([pinned])
    await use(pool, pinned)
    async with pool.lease(used) as engine:
        await use(pool, other)
        assert pool.loaded == ["tiny@1", "tiny@2"]
    await asyncio.sleep(0)
    assert engine.closed
    pool.pin([])
    assert pool.loaded == []


@pytest.mark.parametrize("failure", [EngineUnavailable("no weights"), ZeroDivisionError("a bug")])
async def test_a_failed_load_is_tried_again_by_the_next_request(opener, model_version, failure):
    pool = EnginePool(opener)
    opener.failure = failure
    with pytest.raises(EngineUnavailable) as raised:
        await use(pool, model_version())
    assert raised.value.retry_after
    assert list(pool.failures) == ["tiny@1"]
    opener.failure = None
    assert (await use(pool, model_version())).identity.name == "tiny@1"
    assert pool.failures == {}


async def test_preloading_tells_when_it_ended_and_pauses_after_a_failure(opener, model_version):
    ended = asyncio.Event()
    pool = EnginePool(opener, on_load=ended.set)
    opener.failure = EngineUnavailable("no weights")
    pool.preload(model_version())
    pool.preload(model_version())
    await asyncio.wait_for(ended.wait(), 5)
    pool.preload(model_version())
    assert opener.opened == ["tiny@1"]
    assert not pool.is_loaded(model_version())


async def test_closing_gives_up_a_load_under_way(opener, model_version):
    pool = EnginePool(opener)
    opener.gate.clear()
    pool.preload(model_version())
    await asyncio.sleep(0)
    await asyncio.wait_for(pool.close(), 5)
    opener.gate.set()
    assert pool.loaded == []
