"""Ends the work for a request when its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from starlette.types import Receive


async def run_unless_gone(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Runs `work`, and cancels it when the client closes the connection. Raises what `work` raises.

    Returns when `work` has ended, also when that was by cancellation: its record is in the log by then. Call after
    the request's body was read: any further message means that the client has gone.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
