"""A gateway of one's own, as a process: for the demo, the labs and their tests. It ends with who started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmops.errors import CannotRun
from llmops.processes import when_parent_ends
from llmops.settings import Settings

_START_SECONDS = 120


@contextmanager
def running_gateway(settings: Settings) -> Iterator[str]:
    """The URL of a gateway process on a free port, ready to answer; it ends with the block.

    Its lines go to `gateway.log` in the home. Raises CannotRun when it does not start.
    """
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings.home.mkdir(parents=True, exist_ok=True)
    log_path = settings.home / "gateway.log"
    arguments = [sys.executable, "-m", __name__, "serve", "--port", str(port)]
    environment = {**os.environ, "LLMOPS_HOME": str(settings.home)}
    with log_path.open("w") as log:
        process = subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _ready(httpx, url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"the gateway did not start; read {log_path}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
        if process.stdin is not None:
            process.stdin.close()


def _ready(httpx: Any, url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/readyz", timeout=2).status_code == 200)
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    from llmops.cli import main

    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    main()
