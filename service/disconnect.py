"""Ends the work for a request when its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import cast

from starlette.types import Receive

UNWATCHED_SECONDS = 0.02
"""A request that ends sooner is never watched: little is left to cancel, and a watcher costs more than it saves."""


async def run_unless_gone(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Runs `work`, and cancels it when the client closes the connection. Raises what `work` raises.

    Returns when `work` has ended, also when that was by cancellation: its record is in the log by then. Call after
    the request's body was read: any further message means that the client has gone.
    """
    watch = _Watch(receive)
    try:
        await work
    except asyncio.CancelledError:
        if not watch.client_gone:
            raise
        watch.request.uncancel()
    finally:
        watch.end()


class _Watch:
    """Cancels the task that makes it when its client goes, until `end` is called."""

    def __init__(self, receive: Receive) -> None:
        self.request, self._receive = cast("asyncio.Task[object]", asyncio.current_task()), receive
        self.client_gone = False
        self._watcher: asyncio.Task[None] | None = None
        self._start = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, self._begin)

    def end(self) -> None:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        self.request.cancel()
