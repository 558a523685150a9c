"""What engines that decode in this process share: streams from a thread, stop strings, a look at GGUF files."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from llmops.errors import Corrupted
from llmops.generation import Chunk, GenerationRequest

T = TypeVar("T")
_CUT_CHARACTER = "\ufffd"  # what a tokenizer shows for the bytes of a character that is not complete yet


async def from_thread(
    begin: Callable[[Callable[[T | Exception | None], None], threading.Event], object],
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


class AnswerText:
    """Takes the whole text so far, again and again; gives what is new and certain.

    A cut multi-byte character, or the head of a stop string, is held back until more is known.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._stops = stops
        self._said = 0

    def grown(self, text: str) -> tuple[str, bool]:
        """The piece that can be said now, and whether a stop string ended the answer."""
        ends = [found for stop in self._stops if (found := text.find(stop)) >= 0]
        if ends:
            return self._say(text[: min(ends)]), True
        begun = [size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
        held = max(text.endswith(_CUT_CHARACTER), *begun, 0)
        return self._say(text[: len(text) - held]), False

    def ended(self, text: str) -> str:
        """The rest of an answer that no stop string ended."""
        return self._say(text)

    def _say(self, text: str) -> str:
        piece = text[self._said :]
        self._said = max(self._said, len(text))
        return piece


Send = Callable[[Chunk | Exception | None], None]
"""Sends what `from_thread` gives on; None is the end."""


@dataclass(eq=False)
class RequestUnderWay:
    """One request in the hands of an engine's thread. tokens: decoded so far."""

    request: GenerationRequest
    send: Send
    cancelled: threading.Event
    tokens: list[int] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        self.text = AnswerText(self.request.parameters.stop)


def check_gguf(path: Path) -> None:
    """Raises Corrupted where the file does not begin as GGUF does."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise Corrupted(f"{path}: not a GGUF file")
