"""A gateway worker as a queue: one processor, which each request visits several times, and a log written in groups.

A worker is one event loop on one core. It computes on a request until that is sent to the upstream (`before`), at each
piece of a streamed answer (`piece`), after the last one until the record is handed to the log (`after`), and, once that
is durable, until the reply has ended (`end`). The log's thread writes all records that wait in one transaction: it
computes on the same core, then waits for the database. Visits are served in the order in which they become due.
Arrivals and the upstream's times are given, so nothing is assumed of them.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

Times = np.ndarray[Any, np.dtype[np.float64]]
"""Milliseconds, of shape (requests,)."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What a request costs, in milliseconds of the worker's core.

    A group of n records costs `commit` + n · `record`, and then `wait` (ms) of the database's time. background: what
    the worker does each second without any request. wake: what a visit costs more when the core was idle before it: the
    loop slept, and the caches are cold.
    """

    before: float
    after: float
    end: float
    commit: float
    record: float
    wait: float
    piece: float = 0.0
    background: float = 0.0
    wake: float = 0.0

    def least(self, pieces: int) -> float:
        """Of one request, where many are written together."""
        return self.before + pieces * self.piece + self.after + self.end + self.record


@dataclass(frozen=True, slots=True)
class Simulated:
    """added: to the upstream's time, of each request. busy: share of the time in which the core was used, until the
    last request `ended` (ms)."""

    added: Times
    busy: float
    ended: float


class _Visits:
    """What waits for the core, in the order in which it becomes due, and what has been done."""

    def __init__(self, worker: Worker, arrivals: Times, upstream: Times, pieces: int) -> None:
        self.worker, self.arrivals, self.upstream, self.pieces = worker, arrivals, upstream, pieces
        self.due: list[tuple[float, int, str, Any]] = []
        self.order, self.free, self.busy = itertools.count(), 0.0, 0.0
        self.unwritten: list[int] = []
        self.writing = False
        self.ended = np.zeros(len(arrivals))

    def add(self, at: float, kind: str, what: Any) -> None:
        heapq.heappush(self.due, (at, next(self.order), kind, what))

    def write(self, at: float) -> None:
        """Begins a transaction of all records that wait."""
        self.writing = bool(self.unwritten)
        if self.writing:
            self.add(at, "log", tuple(self.unwritten))
            self.unwritten.clear()

    def compute(self, at: float, kind: str, what: Any) -> None:
        """One visit, as soon as it is due and the core is free."""
        of_log = self.worker.commit + len(what) * self.worker.record if kind == "log" else 0.0
        cost = (of_log or getattr(self.worker, kind, 0.0)) + (self.worker.wake if at > self.free else 0.0)
        self.free, self.busy = max(self.free, at) + cost, self.busy + cost
        if kind == "before":
            for piece in range(self.pieces):
                self.add(self.free + self.upstream[what] * piece / self.pieces, "piece", what)
            self.add(self.free + self.upstream[what], "after", what)
        elif kind == "after":
            self.unwritten.append(what)
            if not self.writing:
                self.write(self.free)
        elif kind == "log":
            self.add(self.free + self.worker.wait, "written", what)
        elif kind == "end":
            self.ended[what] = self.free


def simulate(worker: Worker, arrivals: Times, upstream: Times, pieces: int) -> Simulated:
    """Serves requests that arrive at these times (ms), each answered by the upstream after so long (ms).

    pieces: of each answer, evenly spread over that time; 0 where it comes whole.
    """
    visits = _Visits(worker, arrivals, upstream, pieces)
    for number, at in enumerate(arrivals):
        visits.add(float(at), "before", number)
    for second in range(int(arrivals[-1] / 1000) + 1):
        visits.add(1000.0 * second, "background", None)
    while visits.due:
        at, _, kind, what = heapq.heappop(visits.due)
        if kind == "written":  # costs nothing: a wait for the database is over
            for number in what:
                visits.add(at, "end", number)
            visits.write(at)
        else:
            visits.compute(at, kind, what)
    return Simulated(visits.ended - arrivals - upstream, visits.busy / visits.free, visits.free)


def poisson(rate: float, count: int, seed: int) -> Times:
    """Times (ms) of so many requests that arrive at random, `rate` a second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1000 / rate, count))
