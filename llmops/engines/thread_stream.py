"""What an engine's own thread makes, as a stream for whoever waits for it in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

T = TypeVar("T")


async def from_thread(
    begin: Callable[[Callable[[T | Exception | None], None], threading.Event], None],
) -> AsyncGenerator[T, None]:
    """The items that are sent, until None. When the stream is left, the event is set and nothing more arrives.

    begin: hands the work to a thread; gets `send`, to be called there, and the event that says nobody waits any more.
    Raises whatever exception is sent.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[T | Exception | None] = asyncio.Queue()
    cancelled = threading.Event()

    def send(item: T | Exception | None) -> None:
        if not cancelled.is_set():
            with contextlib.suppress(RuntimeError):  # the caller's loop has ended: nobody is left to tell
                loop.call_soon_threadsafe(arrived.put_nowait, item)

    begin(send, cancelled)
    try:
        while (item := await arrived.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        cancelled.set()
