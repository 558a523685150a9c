"""A lock between processes, on a file: the kernel wakes the next one, and lets go when its holder ends, killed too."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from types import TracebackType


class ProcessLock:
    """The lock of one file: `with lock:` waits for it and holds it.

    It belongs to the process: threads that share the object need a lock of their own beside it. file: the descriptor,
    for what the file holds besides. Closing lets go.
    """

    def __init__(self, path: str | Path) -> None:
        """path: of the file, which is made when absent and stays. Raises OSError."""
        self.file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._close = weakref.finalize(self, os.close, self.file)

    def acquire(self, *, wait: bool = True) -> bool:
        """Takes the lock; whether it has it, which without `wait` another process may prevent."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Lets the next one have it."""
        fcntl.flock(self.file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Lets go for good."""
        self._close()

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
