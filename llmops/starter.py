"""A process that must not outlive the one that started it, killed or not: its standard input is a pipe whose other end
nobody else holds."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable


def when_starter_ends(act: Callable[[], object]) -> None:
    """Calls `act` once, from a thread of its own, when standard input ends."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            continue
        act()

    threading.Thread(target=watch, name="watch starter", daemon=True).start()
