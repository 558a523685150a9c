"""What Prometheus scrapes: of one process, or, where several workers count together, the sum over all of them.

Workers count into files of one folder, a few for each process. The metrics library chooses its files when it is first
imported, by an environment variable that `service.serve` sets.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client import values as metric_values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from llmops.processes import ProcessLock
from llmops.production_log import PREDICT, LogRecord

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_WAIT_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)

MOST_TARGETS = 300
"""Releases and model versions counted by name; those beyond are counted together as `other`."""

REFRESH_SECONDS = 1.0

_TOLD_BESIDE = frozenset({"refusal", "reasoning", "tool_calls", "missing_answers", "off_format"})
_GENERATING = frozenset({"chat", "completions", "responses"})
_FOLDED = 0
"""In place of a process id: the file with what dead processes have counted."""


class Metrics:
    """Counters of one app, in a registry of their own: two apps in a process do not add up.

    A `target` is a release such as `assistant@3` or, where a request named none, a model version.

    in_flight: requests held, read when scraped.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, *, in_flight: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would tell nothing of use
        self._registry = registry = CollectorRegistry()
        self._shared = metric_values.ValueClass is not metric_values.MutexValue
        self._targets: dict[str, _Target] = {}
        self._watched: list[tuple[Gauge, Callable[[], float | None]]] = []
        self._queues: Callable[[], Mapping[str, tuple[int, int]]] = dict
        self._known_models: set[str] = set()

        def seconds(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, meaning, ["target"], buckets=buckets, registry=registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=registry)

        self._requests = counter("llmops_requests", "Requests that reached a model", "target", "outcome", "status")
        self.latency = seconds("llmops_request_seconds", "From arrival to end of generation", _SECONDS)
        self.first_token = seconds("llmops_first_token_seconds", "From arrival to first text", _SECONDS)
        self.per_token = seconds("llmops_output_token_seconds", "For each token after the first text", _TOKEN_SECONDS)
        self.waits = seconds("llmops_queue_seconds", "Spent waiting for a slot of the engine", _WAIT_SECONDS)
        self.tokens = counter("llmops_tokens", "Tokens read and made", "target", "direction")
        self._rows = counter("llmops_predicted_rows", "Rows that tabular models scored", "target")
        self._refused = counter("llmops_refused_requests", "Requests refused before they reached a model", "status")
        self._losses = counter("llmops_log_failures", "Records not logged when their reply was due")
        self._shadows = counter(
            "llmops_shadow_requests", "Copies sent to the challenger: done, dropped or failed", "outcome"
        )
        self._guards = counter("llmops_guard_actions", "What guards of releases did", "target", "action")
        beside = "Answers with a refusal, reasoning or tool calls, or without what was asked for: see `what`"
        self._beside = counter("llmops_answers_with", beside, "target", "what")
        self._queue_depth = Gauge(
            "llmops_engine_queue",
            "Requests at an engine: waiting for a slot, or running",
            ["model", "state"],
            multiprocess_mode="livemax",  # one engine serves all workers, and each reports the same
            registry=registry,
        )
        self.watch("llmops_in_flight", "Requests held now", in_flight, mode="livesum")

    def count(self, record: LogRecord) -> None:
        """Adds one finished request, under its release or, without one, its model."""
        target = self._target(record.release or record.model or "")
        self._requests.labels(target.name, record.outcome, str(record.status)).inc()
        if record.latency_ms is not None:
            target.latency.observe(record.latency_ms / 1000)
        if record.first_token_ms is not None:
            target.first_token.observe(record.first_token_ms / 1000)
            if record.tokens_out is not None and record.tokens_out > 1 and record.latency_ms is not None:
                later_ms = max(0.0, record.latency_ms - record.first_token_ms)
                target.per_token.observe(later_ms / 1000 / (record.tokens_out - 1))
        if (queue_ms := record.details.get("queue_ms")) is not None:
            target.waits.observe(queue_ms / 1000)
        if record.tokens_in:
            target.tokens_in.inc(record.tokens_in)
        if record.tokens_out:
            target.tokens_out.inc(record.tokens_out)
        if record.outcome == "ok":
            self._count_answer(record, target.name)

    def _count_answer(self, record: LogRecord, target: str) -> None:
        if record.route == PREDICT:
            self._rows.labels(target).inc(record.details["rows"])
        for what in _TOLD_BESIDE & record.details.keys():
            self._beside.labels(target, what).inc()
        if record.route in _GENERATING and None in (record.tokens_in, record.tokens_out):
            self._beside.labels(target, "unknown_tokens").inc()

    def count_loss(self) -> None:
        """Adds one record that the production log did not take."""
        self._losses.inc()

    def refused(self, status: int) -> None:
        """Adds one request that was refused before it reached a model (key, limit, body, queue …)."""
        self._refused.labels(str(status)).inc()

    def shadow(self, outcome: str) -> None:
        """Adds one shadow request: `done`, `dropped` or `failed`."""
        self._shadows.labels(outcome).inc()

    def guarded(self, target: str, action: str) -> None:
        """Adds one action of a guard, such as `redact_pii` or `block`."""
        self._guards.labels(self._target(target).name, action).inc()

    def watch(self, name: str, meaning: str, read: Callable[[], float | None], *, mode: str = "livemax") -> None:
        """A gauge that is read when scraped; None, for what is not known yet, is shown as infinite.

        mode: how the library puts the values of several workers together; by default the largest counts.
        """
        gauge = Gauge(name, meaning, multiprocess_mode=mode, registry=self._registry)  # type: ignore[arg-type]
        self._watched.append((gauge, read))

    def watch_queues(self, depths: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """Reads, when scraped, the engine's queues: model ref → requests (waiting, running)."""
        self._queues = depths

    async def keep_fresh(self, seconds: float = REFRESH_SECONDS) -> None:
        """For ever, every so many seconds: writes what is watched to where the other workers can read it."""
        while True:
            self.refresh()
            await asyncio.sleep(seconds)

    def refresh(self) -> None:
        """Reads everything that is watched, once."""
        for gauge, read in self._watched:
            value = read()
            gauge.set(math.inf if value is None else value)
        depths = self._queues()
        self._known_models.update(depths)
        for model in self._known_models:
            waiting, running = depths.get(model, (0, 0))
            self._queue_depth.labels(model, "waiting").set(waiting)
            self._queue_depth.labels(model, "running").set(running)

    def text(self) -> bytes:
        """The exposition format. With several workers it reads a few files of each, so call it off the event loop."""
        self.refresh()
        if not self._shared:
            return generate_latest(self._registry)
        everything = CollectorRegistry()
        _AllWorkers(everything)  # type: ignore[no-untyped-call]
        return generate_latest(everything)

    def _target(self, name: str) -> _Target:
        target = self._targets.get(name)
        if target is None:
            shown = name if len(self._targets) < MOST_TARGETS else "other"
            target = self._targets.get(shown) or _Target(self, shown)
            self._targets[shown] = target
        return target


class _Target:
    """What is counted of one target, looked up by its label once and not at every request."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name = name
        self.latency = metrics.latency.labels(name)
        self.first_token = metrics.first_token.labels(name)
        self.per_token = metrics.per_token.labels(name)
        self.waits = metrics.waits.labels(name)
        self.tokens_in = metrics.tokens.labels(name, "in")
        self.tokens_out = metrics.tokens.labels(name, "out")


class _AllWorkers(MultiProcessCollector):
    """Sums over the files of all workers.

    Those of dead workers are folded together first: what one has counted stays in every sum; what it measured of the
    moment (gauges) goes. A lock keeps other readers from folding meanwhile.
    """

    def collect(self) -> Iterable[Metric]:
        folder = Path(self._path)
        with ProcessLock(folder / "lock"):
            for path in folder.glob("*.db"):
                kind, _, process = path.stem.rpartition("_")
                if int(process) == _FOLDED or psutil.pid_exists(int(process)):
                    continue
                if not kind.startswith("gauge"):
                    files: Any = MmapedDict  # untyped
                    folded = files(str(folder / f"{kind}_{_FOLDED}.db"))
                    for key, value, _, _ in files.read_all_values_from_file(str(path)):
                        folded.write_value(key, folded.read_value(key)[0] + value, 0.0)
                    folded.close()
                path.unlink()
            return list(super().collect())  # type: ignore[no-untyped-call]
