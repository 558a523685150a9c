"""Processes that must not outlive the one that started them, killed or not: standard input is a pipe whose other end
nobody else holds.

Programs that are not ours do not watch it, so `python -m llmops.parent_process COMMAND …` does it for them: it runs the
command in a session of its own, and ends it and all that it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

TERMINATE_SECONDS = 10.0
"""How long a program has between SIGTERM and SIGKILL."""

_POLL_SECONDS = 0.05
NOT_STARTED = 127
"""Exit code, as a shell's, of a command that cannot be started; standard error says why."""


def when_parent_ends(act: Callable[[], object]) -> None:
    """Calls `act` once, from a thread of its own, when standard input ends."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            continue
        act()

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program of somebody else's as a process. It ends, and what it started with it, when the block does, or this
    process, however that ends.

    Its standard input is empty. options: as `subprocess.Popen` takes them.
    """
    # In a session of its own: Ctrl-C reaches this process, which then ends the block.
    watched = [sys.executable, "-m", __name__, *command]
    with subprocess.Popen(watched, stdin=subprocess.PIPE, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()


def _run(command: Sequence[str]) -> int:
    """Runs the command until it ends or has to; returns its exit code, as a shell would."""
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: cannot be started: {error.strerror}\n")
        return NOT_STARTED
    over, told_to_end = threading.Event(), threading.Event()

    def end() -> None:
        told_to_end.set()
        over.set()

    def outlive() -> None:
        program.wait()
        over.set()

    signal.signal(signal.SIGTERM, lambda *_: end())
    when_parent_ends(end)
    threading.Thread(target=outlive, name="outlive", daemon=True).start()
    over.wait()
    if told_to_end.is_set():
        _end_group(program.pid)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _end_group(group: int) -> None:
    deadline = time.monotonic() + TERMINATE_SECONDS
    number = signal.SIGTERM
    try:
        while True:
            os.killpg(group, number)
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(_POLL_SECONDS)
            number, deadline = signal.SIGKILL, time.monotonic() + TERMINATE_SECONDS
    except ProcessLookupError:  # all of them have ended
        return


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
