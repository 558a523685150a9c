"""`llmops monitor ui`: the dashboard is brought up to date from runs and history, and is served on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.command_line import Run
from tests.monitoring.cli.test_monitor import SINCE, UNTIL, traffic

__all__ = ["traffic"]


def values(home: Path, tag: str) -> list[dict[str, Any]]:
    made = [json.loads(path.read_text()) for path in sorted((home / "evidently").glob("*/snapshots/*.json"))]
    return [snapshot["metric_results"] for snapshot in made if tag in snapshot["tags"]]


@pytest.mark.usefixtures("traffic")
def test_a_fresh_dashboard_is_filled_from_the_history_and_again_changes_nothing(llmops: Run, home: Path) -> None:
    for added in (1, 1):  # one day of traffic; the newest day is looked at again
        found = llmops("monitor", "ui", "--no-serve", "--json")
        assert found.code == 0
        assert found.json == {"workspace": str(home / "evidently"), "added": {"assistant": added}, "url": None}
        (levels,) = values(home, "levels")
        assert levels["assistant@2 output.refusal"]["value"] > 0.2
        assert levels["assistant@1 output.refusal"]["value"] == 0
        assert levels["app rows"]["value"] == pytest.approx(400 / 24, rel=1e-4)


@pytest.mark.usefixtures("traffic")
def test_a_run_is_a_point_of_the_dashboard_and_one_run_in_mlflow_however_often(llmops: Run, home: Path) -> None:
    ids = {
        llmops("monitor", "run", "--since", SINCE, "--until", UNTIL, "--json").json["run_id"] for _ in range(2)
    }  # fmt: skip
    assert len(ids) == 1
    (verdict,) = values(home, "verdict")
    assert verdict["app alarms"]["value"] >= 1
    assert verdict["app effect output.refusal"]["value"] > 0.2


def test_a_home_without_records_is_no_error(llmops: Run) -> None:
    found = llmops("monitor", "ui", "--no-serve", "--json")
    assert (found.code, found.json["added"]) == (0, {})


def test_a_port_that_is_taken_is_a_plain_error(llmops: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = llmops("monitor", "ui", "--port", str(taken.getsockname()[1]))
    assert found.code == 3
    assert "choose another with --port" in found.err


@pytest.mark.slow
@pytest.mark.usefixtures("traffic")
def test_the_interface_shows_the_app_and_ends_when_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "llmops.cli", "monitor", "ui", "--port", str(port)]
    with subprocess.Popen(arguments, env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
        try:
            projects = until_answered(process, f"http://127.0.0.1:{port}/api/projects").json()
            assert [project["name"] for project in projects] == ["assistant"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130, -signal.SIGINT)


def until_answered(process: subprocess.Popen[bytes], url: str) -> httpx.Response:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url, timeout=10)
        time.sleep(0.3)
    raise AssertionError(f"no answer from {url}")
