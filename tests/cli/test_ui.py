"""`llmops ui` as a process: MLflow's server ends with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.monitoring.cli.test_monitor import until_answered


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mlflows_server_ends_with_the_command_and_its_port_is_free_again(home: Path, number: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "llmops.cli", "ui", "--port", str(port)]
    # The server's processes hold this pipe too: it ends when the last of them has.
    with subprocess.Popen(arguments, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            assert until_answered(process, f"http://127.0.0.1:{port}/health").status_code == 200
        finally:
            process.send_signal(number)
        process.stdout.read()
        assert process.wait() == (0 if number == signal.SIGTERM else -number)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
