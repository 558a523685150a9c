"""The queue before one engine: first come, first served, as many inside as it has slots."""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from llmops.engines.protocol import Engine
from llmops.errors import EngineBusy, EngineError
from llmops.generation import GenerationParameters, GenerationRequest, Message

logger = logging.getLogger("llmops.engine_host")

BUSY_RETRY_SECONDS = 1.0
STALL_SECONDS = 60.0
"""So long an engine with work may give no piece of any answer before it is asked whether it lives; and so long again
it may take to answer that."""
STUCK_EXIT = 70
_SMALL = GenerationRequest((Message(role="user", content="."),), GenerationParameters(max_tokens=1))


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """A request's place in a line. width, slots: how many slots it wants, and has. turn: set once it has them."""

    width: int
    slots: int = 0
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    came: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self.came


class RequestQueue:
    """Requests wait here and not in the engine, because here one whose client has left is gone at once.

    most_waiting: beyond it a request is turned away. slots: the engine's; 0 until it was loaded for the first time.
    """

    def __init__(self, most_waiting: int, slots: int = 0) -> None:
        self._most_waiting, self.slots = most_waiting, slots
        self._waiting: deque[QueuedRequest] = deque()
        self._inside: set[QueuedRequest] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._inside)

    def open(self, slots: int) -> None:
        """The engine is loaded and has so many slots."""
        self.slots = slots
        self._admit()

    @contextmanager
    def place(self, width: int = 1) -> Iterator[QueuedRequest]:
        """A place at the end of the line, left when the block ends. One wider than the engine takes all its slots.
        Raises EngineBusy: too many wait already."""
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
            if place in self._inside:
                self._inside.remove(place)
            else:
                self._waiting.remove(place)
            self._admit()

    def _admit(self) -> None:
        free = self.slots - sum(place.slots for place in self._inside)
        while self._waiting and free >= (slots := min(self._waiting[0].width, self.slots)) > 0:
            place = self._waiting.popleft()
            place.slots = slots
            place.turn.set()
            self._inside.add(place)
            free -= slots


# Finds an engine that is stuck: a schema can keep llama.cpp's one decoding loop busy for ever, and everybody waits.
#
# Nothing stops such an engine from outside. The process that holds it ends, and its supervisor starts it again.


class Heartbeat:
    """Signs of life of one model's engine, on the event loop's thread."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._left = False

    def begins(self, *, alone: bool) -> None:
        """A request got its slot. alone: nothing else is decoded, so that the engine owed nothing before."""
        if alone and not self._left:
            self._last = time.monotonic()

    def beats(self) -> None:
        """The engine gave a piece of an answer."""
        self._last, self._left = time.monotonic(), False

    def left(self) -> None:
        """A request was given up; the engine may be busy with it all the same."""
        self._left = True

    def stalled(self, seconds: float, running: int) -> bool:
        """Whether an engine that has something to do has been silent for so long."""
        return (running > 0 or self._left) and time.monotonic() - self._last > seconds


async def lives(engine: Engine, seconds: float) -> bool:
    """Whether the engine answers the smallest of requests in time; an error is an answer."""
    try:
        async with asyncio.timeout(seconds), aclosing(engine.stream(_SMALL)) as chunks:
            async for _ in chunks:
                return True
    except TimeoutError:
        return False
    except EngineError:
        return True
    return True


def end_process(model: str) -> None:
    """Ends this process at once: a stuck engine would hold up any other way of ending it."""
    logger.critical("the engine of %s is stuck: this process ends, to be started again", model)
    logging.shutdown()
    os._exit(STUCK_EXIT)
