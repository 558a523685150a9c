"""Starting Ray where its processes die, without Ray."""

import signal
import subprocess
import sys

import pytest

from llmops.errors import CannotRun
from llmops.ray_cluster import RayCluster, started


class DyingStart:
    """Starts a process and then fails, so many times; afterwards it works."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> str:
        if len(self.processes) == self.failures:
            return "started"
        self.processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        raise TimeoutError("the node timed out\nduring startup")


def test_a_start_that_fails_is_tried_again_and_what_it_left_is_ended():
    start = DyingStart(1)
    assert started(start, 2) == "started"
    assert [process.wait(60) for process in start.processes] == [-signal.SIGKILL]


def test_a_start_that_always_fails_is_an_error_that_says_why():
    start = DyingStart(2)
    with pytest.raises(CannotRun, match=r"^Ray cannot be started \(2 attempts\): the node timed out$"):
        started(start, 2)
    assert [process.wait(60) for process in start.processes] == [-signal.SIGKILL] * 2


@pytest.mark.slow  # Ray is installed for these alone
def test_a_connection_that_is_lost_is_an_error_that_says_so():
    import ray

    cluster = RayCluster("ray://127.0.0.1:1")
    vars(cluster)["ray"] = ray  # as when it is connected
    lost = "^the connection to the Ray cluster was lost: cleaned up$"
    with pytest.raises(CannotRun, match=lost), cluster.failures_translated():
        raise ConnectionError("cleaned up\nlong ago")
