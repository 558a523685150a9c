"""What Prometheus scrapes from one gateway process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmops.production_log import LogRecord

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one app, in a registry of their own: two apps in a process do not add up.

    in_flight: requests held, read when scraped.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, *, in_flight: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "llmops_requests", "Chat requests that reached a model", ["target", "outcome", "status"], registry=registry
        )
        self._latency = Histogram(
            "llmops_request_seconds",
            "From arrival to end of generation",
            ["target"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "llmops_first_token_seconds", "From arrival to first text", ["target"], buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter("llmops_tokens", "Tokens read and made", ["target", "direction"], registry=registry)
        Gauge("llmops_in_flight", "Chat requests held now", registry=registry).set_function(in_flight)
        self._losses = Counter("llmops_log_failures", "Records not logged when their reply was due", registry=registry)

    def count(self, record: LogRecord) -> None:
        """Adds one finished request, under its release or, without one, its model."""
        target = record.release or record.model or ""
        self._requests.labels(target, record.outcome, str(record.status)).inc()
        self._latency.labels(target).observe(record.latency_ms / 1000)
        if record.first_token_ms is not None:
            self._first_token.labels(target).observe(record.first_token_ms / 1000)
        self._tokens.labels(target, "in").inc(record.tokens_in)
        self._tokens.labels(target, "out").inc(record.tokens_out)

    def count_loss(self) -> None:
        """Adds one record that the production log did not take."""
        self._losses.inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
