"""Recording through a tracking server: the same run, over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from llmops.settings import Settings

ROWS = 230


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def wait_until_healthy(uri: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(uri)


@pytest.fixture
def server(tmp_path):
    """A tracking server of its own on loopback."""
    uri = f"http://127.0.0.1:{(port := free_port())}"
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "files"),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *store], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_healthy(uri, process)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the server and its workers; the group is our own
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_tracking_server_holds_the_same_run(server, tmp_path, open_desk, report, row):
    desk = open_desk(Settings(home=tmp_path, tracking_uri=server))
    cell = desk.cell()
    start = time.monotonic()
    run = desk.recorder.record(cell, report(ROWS), "bulk")
    per_row = 1000 * (time.monotonic() - start) / ROWS
    print(f"\nbulk over HTTP: {per_row:.1f} ms a row")  # noqa: T201 - the measurement
    assert per_row < 500
    assert list(desk.recorder.rows(run)) == [row(i) for i in range(ROWS)]
    traces = desk.traces(run.run_id)
    assert traces.keys() == {f"row-{i}" for i in range(ROWS)}
    assert traces["row-1"].data.spans[0].outputs == row(1).output.text
    assert desk.recorder.find(cell.suite, cell.hash) == run
    few = desk.recorder.record(desk.cell(), report(5), "evaluate")
    assert desk.traces(few.run_id).keys() == {f"row-{i}" for i in range(5)}
