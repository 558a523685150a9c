from __future__ import annotations

import asyncio

import pytest

from service.answering import UNWATCHED_SECONDS, run_unless_gone

pytestmark = pytest.mark.anyio


def client(leaves_after=None):
    """What a server's `receive` says of a client that leaves after so many seconds, or never."""

    async def receive():
        await (asyncio.sleep(leaves_after) if leaves_after is not None else asyncio.Event().wait())
        return {"type": "http.disconnect"}

    return receive


async def test_work_that_ends_is_left_alone():
    done = []

    async def work():
        done.append(1)

    await run_unless_gone(client(0), work())
    assert done == [1]


async def test_work_is_cancelled_when_the_client_goes_and_ends_in_peace():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what it still has to write
            ended.append(1)

    async with asyncio.timeout(5):
        await run_unless_gone(client(UNWATCHED_SECONDS), work())
    assert ended == [1]
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # nothing is left that would be cancelled later


async def test_errors_of_the_work_come_through():
    async def work():
        await asyncio.sleep(UNWATCHED_SECONDS * 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_unless_gone(client(), work())


async def test_cancelling_from_outside_is_not_swallowed():
    async def work():
        await asyncio.Event().wait()

    task = asyncio.create_task(run_unless_gone(client(), work()))
    await asyncio.sleep(UNWATCHED_SECONDS * 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_watcher_is_left_behind():
    before = len(asyncio.all_tasks())

    async def work():
        await asyncio.sleep(UNWATCHED_SECONDS * 2)

    await run_unless_gone(client(), work())
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
