"""Blocking calls, kept off the event loop and out of the way of a shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_blocking(work: Callable[[], T], *, name: str) -> T:
    """Runs `work` in a daemon thread of its own and returns what it returns, or raises what it raises.

    Not an executor's thread: those are joined when the process ends, so that a store which hangs, or weights that
    load for a minute, would hold up a shutdown.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001  handed to the waiter, who raises it
            error = raised
        # A loop that has closed in the meantime has no waiter left.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=call, name=name, daemon=True).start()
    return await future
