"""Starts the engine process, and starts it again when it dies."""

import asyncio
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from llmops.engine_host.client import ping
from llmops.errors import CannotRun, EngineError, UsageError
from llmops.processes import is_frozen, make_scratch_folder
from llmops.settings import Settings

logger = logging.getLogger("llmops.engine_host")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
GOOD_LIFE_SECONDS = 60.0
"""A process that lived so long gets the shortest pause again."""
STOP_SECONDS = 5.0
"""Beyond draining: how long closing the engines may take before the process is killed."""
PING_PAUSE_SECONDS = 5.0
HUNG_SECONDS = 60.0
"""A process that has answered no ping for so long is killed."""
LONGEST_SOCKET_PATH = 100
"""Bytes; the system's own limit is 108, or 104."""
POLL_SECONDS = 0.05
"""Pause between two looks whether the process lives."""
COMMAND = (sys.executable, "-m", "llmops.engine_host")


class EngineProcess:
    """The engine process of a gateway, run from the parent of its workers.

    The child gets the environment as it is, and with it the same settings. Its standard input is a pipe from here, so
    that it ends when this process dies, however that happens.

    socket_path: where it listens, in a private folder of its own, which `stop` removes.
    command: starts it; `--socket` and `--restarts` are added.
    restarts: how often it was started again. last_exit: why it ended last; None before the first time.
    """

    def __init__(self, settings: Settings, *, command: Sequence[str] = COMMAND) -> None:
        """Raises UsageError: the socket's path is longer than systems take."""
        self._settings, self._command = settings, tuple(command)
        self.socket_path = make_scratch_folder("engine") / "engine.sock"
        if len(str(self.socket_path).encode()) > LONGEST_SOCKET_PATH:
            raise UsageError(f"{self.socket_path}: too long for a socket; at most {LONGEST_SOCKET_PATH} bytes")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.last_exit: str | None = None

    @property
    def pid(self) -> int | None:
        """None while no process runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    def start(self) -> None:
        """Starts the process and watches over it; does not wait until it listens. Raises CannotRun."""
        self._thread = threading.Thread(target=self._watch, args=(self._spawn(),), name="engine process", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the process, after requests under way had their time to finish."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self.socket_path.parent, ignore_errors=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [*self._command, "--socket", str(self.socket_path), "--restarts", str(self.restarts)]
        try:
            # In a session of its own: a signal to the gateway's process group must not end it before its workers.
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            raise CannotRun(f"the engine process cannot be started: {error}") from error
        return self._child

    def _watch(self, child: subprocess.Popen[bytes] | None) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            lived = 0.0 if child is None else self._outlive(child)
            if self._stopping.is_set():
                return
            pause = FIRST_PAUSE_SECONDS if lived >= GOOD_LIFE_SECONDS else pause
            logger.error("the engine process ended: %s; it starts again in %g s", self.last_exit, pause)
            if self._stopping.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self.restarts += 1
            try:
                child = self._spawn()
            except CannotRun as error:
                child, self.last_exit = None, str(error)

    def _outlive(self, child: subprocess.Popen[bytes]) -> float:
        """Waits until the process has ended, and ends it when this one stops. Returns the seconds it lived."""
        born = asked = answered = time.monotonic()
        while child.poll() is None:
            if self._stopping.wait(POLL_SECONDS):
                self._end(child)
                break
            if time.monotonic() - asked >= PING_PAUSE_SECONDS:
                asked = time.monotonic()
                answered = asked if _answers(self.socket_path) else answered
            if time.monotonic() - answered > HUNG_SECONDS:
                logger.error("the engine process answers nothing for %g s and is killed", HUNG_SECONDS)
                child.kill()
                child.wait()
        if child.stdin is not None:
            child.stdin.close()
        code = child.returncode
        if code >= 0:
            self.last_exit = f"exit code {code}"
        else:
            names = {each.value: each.name for each in signal.Signals}  # a real-time signal has none
            self.last_exit = f"killed by {names.get(-code, f'signal {-code}')}"
        return time.monotonic() - born

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        deadline = time.monotonic() + self._settings.drain_seconds + STOP_SECONDS
        # A frozen process never hears that it should end.
        while child.poll() is None and time.monotonic() < deadline and not is_frozen(child.pid):
            time.sleep(POLL_SECONDS)
        if child.poll() is None:
            logger.error("the engine process did not end in time and is killed")
            child.kill()
            child.wait()


def _answers(socket_path: Path) -> bool:
    try:
        asyncio.run(ping(socket_path))
    except EngineError:
        return False
    return True
