"""Servers under test: started, waited for, measured by the CPU that they and their children use, and stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx
import psutil

START_SECONDS = 120
STOP_SECONDS = 60


def free_port() -> int:
    """A port of this machine's loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ServerFailed(Exception):
    """A server did not start, or ended by itself."""


class Server:
    """A server process and its descendants; a context manager.

    ready: the address that answers below 400 once it can be used. Its output goes to `log`.
    """

    def __init__(
        self, command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command, self._ready, self._log = list(command), ready, log
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Server:
        self.start()
        return self

    def start(self) -> None:
        """Starts it and waits until it is ready. Raises ServerFailed with the end of its output."""
        with self._log.open("ab") as log:
            self.process = psutil.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(f"{self._command[:4]}:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(self._ready, timeout=5, trust_env=False).status_code < 400
        except httpx.HTTPError:
            return False

    def cpu_seconds(self) -> float:
        """CPU used so far by the process and its living descendants."""
        return sum(_cpu(process) for process in self._all())

    def memory_bytes(self) -> int:
        """Resident memory of the process and its living descendants."""
        return sum(process.memory_info().rss for process in self._all())

    def _all(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def kill_all(self) -> None:
        """`kill -9` for every process of it, as when the machine loses its power."""
        for process in self._all():
            process.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and after a minute `kill -9`."""
        family = self._all() if self.process.is_running() else []
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for process in family:
            if process.is_running():
                process.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def python(*arguments: str) -> list[str]:
    """A command of this environment's Python."""
    return [sys.executable, "-m", *arguments]
