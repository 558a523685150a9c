"""The queue before one engine: first come, first served, as many inside as it has slots."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from llmops.errors import EngineBusy

BUSY_RETRY_SECONDS = 1.0


class QueuedRequest:
    """A request's place in a line. width: how many slots it wants."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.slots = 0
        self._came = time.monotonic()
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def turn(self) -> None:
        """Waits until the request has its slots."""
        await self._turn

    @property
    def age(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self._came

    def grant(self, slots: int) -> None:
        self.slots = slots
        if not self._turn.done():
            self._turn.set_result(None)


class RequestQueue:
    """Requests wait here and not in the engine, because here one whose client has left is gone at once.

    most_waiting: beyond it a request is turned away.
    """

    def __init__(self, most_waiting: int, slots: int = 0) -> None:
        self._most_waiting, self._slots = most_waiting, slots
        self._waiting: deque[QueuedRequest] = deque()
        self._inside: set[QueuedRequest] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._inside)

    @property
    def slots(self) -> int:
        """The engine's; 0 until it was loaded for the first time."""
        return self._slots

    def open(self, slots: int) -> None:
        """The engine is loaded and has so many slots."""
        self._slots = slots
        self._admit()

    @contextmanager
    def place(self, width: int = 1) -> Iterator[QueuedRequest]:
        """A place at the end of the line, left when the block ends. One wider than the engine takes all its slots.

        Raises:
            EngineBusy: too many wait already.
        """
        place = QueuedRequest(width)
        self._waiting.append(place)
        self._admit()
        if len(self._waiting) > self._most_waiting:
            self._waiting.pop()
            problem = f"the engine is busy: {self.running} requests run and {self._most_waiting} wait"
            raise EngineBusy(problem, retry_after=BUSY_RETRY_SECONDS)
        try:
            yield place
        finally:
            self._leave(place)

    def _leave(self, place: QueuedRequest) -> None:
        if place in self._inside:
            self._inside.remove(place)
        else:
            self._waiting.remove(place)
        self._admit()

    def _admit(self) -> None:
        free = self._slots - sum(place.slots for place in self._inside)
        while self._waiting and free >= (slots := min(self._waiting[0].width, self._slots)) > 0:
            place = self._waiting.popleft()
            place.grant(slots)
            self._inside.add(place)
            free -= slots
