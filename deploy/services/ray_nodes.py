"""A Ray cluster of several nodes on this machine, for tests, benchmarks and to try one out: each node is a raylet with
workers of its own, which can be killed.

    python -m deploy.services.ray_nodes 2       # a head and two nodes of one CPU; until standard input ends
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from llmops.ray_cluster import keep_on_loopback, started

ATTEMPTS = 5
"""To start a node."""


class RayNodes:
    """A running cluster. address: for RAY_ADDRESS. raylets: process ids, by the order of the nodes."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address = str(cluster.address)
        self.raylets: list[int] = []

    def add(self) -> None:
        """Starts a node of one CPU."""
        node = started(lambda: self._cluster.add_node(num_cpus=1, **_LOOPBACK), ATTEMPTS)
        self.raylets.append(node.all_processes["raylet"][0].process.pid)

    def kill(self, number: int) -> None:
        """SIGKILL for a node's raylet and all its workers, as when its machine goes away."""
        raylet = psutil.Process(self.raylets[number])
        for process in (raylet, *raylet.children(recursive=True)):
            process.send_signal(signal.SIGKILL)


_LOOPBACK = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 1024 * 1024}


@contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """A head without a CPU, and so many nodes with one. From the main thread only."""
    keep_on_loopback()
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, **_LOOPBACK}
    cluster = started(lambda: Cluster(initialize_head=True, head_node_args=head), ATTEMPTS)
    try:
        nodes = RayNodes(cluster)
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    with ray_nodes(int(sys.argv[1])) as running:
        sys.stdout.write(f"RAY_ADDRESS={running.address}  # raylets: {running.raylets}\n")
        sys.stdout.flush()
        sys.stdin.read()
