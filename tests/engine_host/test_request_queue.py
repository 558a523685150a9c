import asyncio
from contextlib import ExitStack, aclosing

import pytest

from llmops.engine_host.request_queue import Heartbeat, RequestQueue, lives
from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import generate
from llmops.errors import EngineError
from tests.engine_host.conftest import ask

pytestmark = pytest.mark.anyio


async def test_as_many_are_inside_as_there_are_slots_and_the_next_comes_first():
    line = RequestQueue(most_waiting=10, slots=2)
    places = [line.place() for _ in range(4)]
    entered = [place.__enter__() for place in places]
    assert [place.turn.is_set() for place in entered] == [True, True, False, False]
    assert (line.running, line.waiting) == (2, 2)
    places[1].__exit__(None, None, None)
    assert [place.turn.is_set() for place in entered[2:]] == [True, False]


async def test_nobody_is_inside_before_the_engine_is_loaded_and_one_that_leaves_while_waiting_is_gone_at_once():
    line = RequestQueue(most_waiting=10)
    with line.place() as first:
        assert not first.turn.is_set()
        line.open(1)
        second = asyncio.create_task(first.turn.wait())
        with line.place(), line.place():
            assert line.waiting == 2
        assert line.waiting == 0
        await second


async def test_a_wide_one_waits_for_all_its_slots_and_is_not_overtaken():
    line = RequestQueue(most_waiting=10, slots=3)
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(line.place(2))
        wide, narrow = stack.enter_context(line.place(9)), stack.enter_context(line.place(1))
        assert not wide.turn.is_set()
        assert not narrow.turn.is_set()
        first.close()
        assert wide.slots == 3
        assert wide.turn.is_set()
        assert not narrow.turn.is_set()


FOREVER = 3600.0


@pytest.fixture
def stuck(monkeypatch):
    """The models whose engines gave no sign of life for a moment: for them the process would end."""
    models = []
    monkeypatch.setattr("llmops.engine_host.host.STALL_SECONDS", 0.2)
    monkeypatch.setattr("llmops.engine_host.host.end_process", models.append)
    return models


async def test_an_engine_that_gives_no_sign_of_life_is_named_also_when_its_client_has_left(hosting, eventually, stuck):
    async with hosting(word_seconds=FOREVER) as running:
        engine = await running.open()
        async with aclosing(engine.stream(ask())) as chunks:
            waiting = asyncio.ensure_future(anext(chunks))
            await eventually(lambda: running.host.report()["tiny@1"]["running"] == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await eventually(lambda: stuck)
        assert set(stuck) == {"tiny@1"}


async def test_a_slow_engine_that_answers_is_left_alone(hosting, stuck):
    async with hosting(word_seconds=0.05) as running:
        engine = await running.open()
        await generate(engine, ask("one two three four five six seven eight"))
        await asyncio.sleep(0.3)
        assert stuck == []


async def test_a_request_given_up_on_a_sound_engine_costs_one_question(hosting, eventually, stuck):
    async with hosting(word_seconds=0.0) as running:
        engine = await running.open()
        await generate(engine, ask())
        running.host._served_for(engine._model).heartbeat.left()
        asked = len(running.engines["tiny@1"].requests)
        await eventually(lambda: len(running.engines["tiny@1"].requests) == asked + 1)
        await asyncio.sleep(0.3)
        assert len(running.engines["tiny@1"].requests) == asked + 1
        assert stuck == []


async def test_an_error_is_an_answer_and_silence_is_none():
    answering, failing = FakeEngine(), FakeEngine(failure=EngineError("no"))
    assert await lives(answering, 5) is await lives(failing, 5) is True
    assert not await lives(FakeEngine(word_seconds=FOREVER), 0.1)


def test_an_engine_without_work_may_be_silent_for_ever():
    pulse = Heartbeat()
    assert not pulse.stalled(0.0, running=0)
    assert pulse.stalled(0.0, running=1)
    pulse.left()
    assert pulse.stalled(0.0, running=0)
    pulse.beats()
    assert not pulse.stalled(0.0, running=0)
