from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from llmops.engine_host.request_queue import RequestQueue
from llmops.errors import EngineBusy

pytestmark = pytest.mark.anyio


async def has_turn(place) -> bool:
    try:
        await asyncio.wait_for(asyncio.shield(place._turn), 0.01)
    except TimeoutError:
        return False
    return True


async def test_as_many_are_inside_as_there_are_slots_and_the_next_comes_first():
    line = RequestQueue(most_waiting=10, slots=2)
    places = [line.place() for _ in range(4)]
    entered = [place.__enter__() for place in places]
    assert [await has_turn(place) for place in entered] == [True, True, False, False]
    assert (line.running, line.waiting) == (2, 2)
    places[1].__exit__(None, None, None)
    assert [await has_turn(place) for place in entered[2:]] == [True, False]


async def test_one_too_many_is_turned_away_and_leaves_no_trace():
    line = RequestQueue(most_waiting=1, slots=1)
    with line.place(), line.place():
        with pytest.raises(EngineBusy, match="1 requests run and 1 wait") as caught, line.place():
            pass
        assert caught.value.retry_after
        assert (line.running, line.waiting) == (1, 1)
    assert (line.running, line.waiting) == (0, 0)
    with line.place() as place:
        assert await has_turn(place)


async def test_nobody_is_inside_before_the_engine_is_loaded():
    line = RequestQueue(most_waiting=10)
    with line.place() as place:
        assert not await has_turn(place)
        line.open(1)
        assert await has_turn(place)


async def test_one_that_leaves_while_waiting_is_gone_at_once():
    line = RequestQueue(most_waiting=10, slots=1)
    with line.place() as first:
        second = asyncio.create_task(first.turn())
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
        assert not await has_turn(wide)
        assert not await has_turn(narrow)
        first.close()
        assert wide.slots == 3
        assert await has_turn(wide)
        assert not await has_turn(narrow)
