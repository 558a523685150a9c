"""What llama.cpp has read of templates, kept so that each is read once and every request starts from the same state."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmops.engines.llamacpp_port import LlamaCppPort
from llmops.generation import Message
from llmops.hashing import content_hash
from llmops.processes import mark_owned

MOST_KEPT = 32
"""Templates whose state is kept; of a template of 600 tokens that is 14 MB with 135 million parameters, and 75 MB with
7 billion."""

Read = Callable[[Sequence[Message], int], None]


class Quiet:
    """Lets requests be decoded side by side, and a template be read while nothing else is: what is decoded beside it
    changes the order of its sums, and with that its state.

    is_taken: whether something is alone, or waits to be.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._decoding = 0
        self.is_taken = False

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """One request of several. Waits while something is alone, or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_taken)
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until what is decoded now has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_taken)
            self.is_taken = True
            self._changed.wait_for(lambda: not self._decoding)
        try:
            yield
        finally:
            with self._changed:
                self.is_taken = False
                self._changed.notify_all()


class TemplateStates:
    """States of slots, as files in a folder of their own.

    A state depends on the messages alone: they are read while nothing else is decoded, into a slot that takes nothing
    over from what it held.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llmops-states-")
        mark_owned(Path(self._folder.name))
        self._kept: OrderedDict[str, None] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    @property
    def folder(self) -> str:
        return f"{self._folder.name}/"

    def put(self, beginning: Sequence[Message], slot: int, port: LlamaCppPort, read: Read) -> None:
        """The slot holds what is kept of the beginning, which is read first where nothing is. Raises EngineError.

        read: reads messages into a slot, alone.
        """
        name = content_hash(list(beginning))
        with self._lock:  # held while a template is read, so that requests which come together wait for one reading
            if name not in self._kept:
                read(beginning, slot)
                port.save_slot(slot, name)
                self._kept[name] = None
                if len(self._kept) > MOST_KEPT:
                    oldest, _ = self._kept.popitem(last=False)
                    Path(self._folder.name, oldest).unlink(missing_ok=True)
            self._kept.move_to_end(name)
        port.restore_slot(slot, name)

    def remove(self) -> None:
        self._folder.cleanup()
