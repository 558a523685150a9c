"""A gateway worker as a queue: one server, which a request visits twice, and a wait for the model in between.

A worker is one event loop: it reads, checks and passes on a request (the first visit), and after the model's answer
logs and replies (the second). Whoever comes while it computes waits, first come first served. Requests arrive at random
(Poisson); the model's time is drawn from what is given. An M/G/1 queue with feedback, simulated event by event.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator], float]


@dataclass(frozen=True, slots=True)
class Worker:
    """before, after: milliseconds of CPU of the two visits. between: draws the wait in between, in milliseconds."""

    before: float
    after: float
    between: Draw


def simulate(worker: Worker, rate: float, seconds: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The latencies, in milliseconds, of all requests that arrive within so many seconds at `rate` a second."""
    chance = np.random.default_rng(seed)
    arrivals = np.cumsum(chance.exponential(1000 / rate, int(rate * seconds)))
    # (when it comes to the worker, number, visit); the worker takes them in the order of coming.
    coming = [(float(at), number, 0) for number, at in enumerate(arrivals)]
    heapq.heapify(coming)
    free, latencies = 0.0, np.empty(len(arrivals))
    while coming:
        at, number, visit = heapq.heappop(coming)
        free = max(free, at) + (worker.after if visit else worker.before)
        if visit:
            latencies[number] = free - arrivals[number]
        else:
            heapq.heappush(coming, (free + worker.between(chance), number, 1))
    return latencies


def highest_rate(worker: Worker, most_added: float, seed: int = 1) -> float:
    """Requests a second at which the 99th percentile is `most_added` milliseconds above that of an idle worker."""
    idle = float(np.percentile(simulate(worker, 1, 2000, seed), 99))
    low, high = 1.0, 1000 / (worker.before + worker.after)
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        added = float(np.percentile(simulate(worker, middle, 20_000 / middle, seed), 99)) - idle
        low, high = (middle, high) if added <= most_added else (low, middle)
    return low
