"""A bound on how many requests the gateway holds: more are told at once to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from service.error_map import RETRY_SECONDS, ApiError


class Admission:
    """Counts the requests held; single-threaded, as everything on the event loop is."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Waits until no request is held."""
        await self._idle.wait()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds one request while the block runs. Raises ApiError 429 when `most` are held."""
        if self.held >= self._most:
            message = f"the gateway holds {self._most} requests already; try again"
            raise ApiError(429, message, kind="rate_limit_error", code="overloaded", retry_after=RETRY_SECONDS)
        self.held += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.held -= 1
            if self.held == 0:
                self._idle.set()
