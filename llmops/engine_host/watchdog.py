"""Finds an engine that is stuck: a schema can keep llama.cpp's one decoding loop busy for ever, and everybody waits.

Nothing stops such an engine from outside. The process that holds it ends, and its supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import aclosing

from llmops.engines.protocol import Engine
from llmops.errors import EngineError
from llmops.generation import GenerationParameters, GenerationRequest, Message

logger = logging.getLogger("llmops.engine_host")

STALL_SECONDS = 60.0
"""So long an engine with work may give no piece of any answer before it is asked whether it lives; and so long again
it may take to answer that."""

STUCK_EXIT = 70

_SMALL = GenerationRequest((Message(role="user", content="."),), GenerationParameters(max_tokens=1))


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
