"""Calls that run at the same time, and waiting for what comes of them."""

import threading
import time
from collections.abc import Callable


def at_once(*calls: Callable[[], object]) -> None:
    """Makes each call in a thread of its own, begun at the same moment, and waits for all of them."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for a condition. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
