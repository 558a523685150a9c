from __future__ import annotations

import threading
from contextlib import aclosing

import pytest

from llmops.engines.local import from_thread

pytestmark = pytest.mark.anyio


def sending(*items):
    return lambda send, _: threading.Thread(target=lambda: [send(item) for item in items]).start()


async def test_items_come_in_order_until_none():
    assert [item async for item in from_thread(sending(1, 2, None, 3))] == [1, 2]


async def test_an_exception_that_is_sent_is_raised_after_the_items_before_it():
    stream = from_thread(sending(1, ValueError("broken")))
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)


async def test_whoever_works_is_told_when_the_stream_is_left():
    events = []

    def begin(send, cancelled):
        events.append(cancelled)
        send(1)

    async with aclosing(from_thread(begin)) as items:
        assert await anext(items) == 1
        assert not events[0].is_set()
    assert events[0].is_set()
