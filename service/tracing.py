"""One OpenTelemetry span for each request, and W3C trace context from the client on to the upstream server.

Without an endpoint nothing of OpenTelemetry is loaded, and a client's trace context is handed on unchanged. Spans hold
versions, parameters, counts and times: never what was asked or answered. They are sent by a thread, off the request's
path; where the endpoint is slow or away, spans are dropped and requests are not delayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import llmops
from llmops.processes import run_blocking
from llmops.production_log import PREDICT, LogRecord
from llmops.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-[ -~]{0,200})?\Z")
_TRACESTATE = re.compile(rb"[ -~]{1,2048}\Z")
_OPERATIONS = {"chat": "chat", "responses": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_CLOSE_SECONDS = 3.0

Headers = Iterable[tuple[bytes, bytes]]


class RequestSpan:
    """One request; where nothing is traced, only what its client sent of a trace.

    headers: what to send to an upstream server with it.
    """

    __slots__ = ("_span", "headers")

    def __init__(self, headers: Mapping[str, str], span: Span | None = None) -> None:
        self.headers, self._span = headers, span

    def end(self, record: LogRecord | None = None, *, status: int = 500) -> None:
        """Ends the span with what the record says; with `status` alone where the request reached no model."""
        if (span := self._span) is None:
            return
        if span.is_recording():
            status = status if record is None else record.status
            span.set_attribute("http.response.status_code", status)
            if record is not None:
                span.set_attributes(_attributes(record))
            if status >= 500:
                from opentelemetry.trace import StatusCode

                # Of an error such as `EngineTimeout: no whole answer`, the class; its text may quote what was asked.
                kind = str(record.details.get("error", "") if record is not None else "").partition(":")[0]
                span.set_attribute("error.type", kind or str(status))
                span.set_status(StatusCode.ERROR)
        span.end()


class Tracing:
    """Where spans come from: OpenTelemetry's SDK, or nowhere.

    exporter: where they go; None: nothing is traced. sample: share of the traces that begin here; of others, those that
    the client's own trace context marks as sampled.
    """

    def __init__(self, exporter: SpanExporter | None = None, sample: float = 1.0) -> None:
        self._tracer: Tracer | None = None
        if exporter is None:
            return
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        resource = Resource.create({"service.name": "llmops-gateway", "service.version": llmops.__version__})
        sampler = ParentBased(TraceIdRatioBased(sample))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("llmops.gateway", llmops.__version__)

    def begin(self, scope_headers: Headers, name: str) -> RequestSpan:
        """A span for one request, the child of the one that its headers name. name: such as `POST /v1/embeddings`."""
        sent = trace_context(scope_headers)
        if self._tracer is None:
            return RequestSpan(sent)
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Never the context of the moment: what a request's parent is, its headers say.
        parent = TraceContextTextMapPropagator().extract(sent, Context())
        method, _, route = name.partition(" ")
        attributes = {"http.request.method": method, "http.route": route}
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        ours = span.get_span_context()
        headers = {"traceparent": f"00-{ours.trace_id:032x}-{ours.span_id:016x}-{ours.trace_flags:02x}"}
        if ours.trace_state:
            headers["tracestate"] = ours.trace_state.to_header()
        return RequestSpan(headers, span)

    async def close(self) -> None:
        """Sends what is waiting, for a few seconds at most."""
        if self._tracer is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await run_blocking(self._provider.shutdown, name="close tracing")


def open_tracing(settings: Settings) -> Tracing:
    """As `otel_endpoint` and `otel_sample` say."""
    if (url := settings.otel_url("traces")) is None:
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Tracing(OTLPSpanExporter(endpoint=url, timeout=10), settings.otel_sample)


def trace_context(scope_headers: Headers) -> dict[str, str]:
    """A request's `traceparent` and `tracestate`; neither when the first is missing or not as W3C wants it."""
    parent: bytes | None = None
    states: list[bytes] = []
    for name, value in scope_headers:
        if name == b"traceparent":
            parent = value
        elif name == b"tracestate":
            states.append(value)
    if parent is None or not _TRACEPARENT.match(parent):
        return {}
    context = {"traceparent": parent.decode("ascii")}
    state = b",".join(states)
    return {**context, "tracestate": state.decode("ascii")} if _TRACESTATE.match(state) else context


def _attributes(record: LogRecord) -> dict[str, Any]:
    """The record by OpenTelemetry's conventions for generative AI (`gen_ai.*`), and by ours."""
    details = record.details
    parameters = details.get("parameters") or {}
    prompt, _, prompt_version = (record.prompt or "").partition("@")
    attributes: dict[str, Any] = {"llmops.outcome": record.outcome, "llmops.request_id": record.request_id}
    if record.route == PREDICT:  # nothing generative
        attributes |= {"llmops.model": record.model, "llmops.rows": details.get("rows")}
        return {name: value for name, value in attributes.items() if value is not None}
    first_ms, reason = record.first_token_ms, details.get("finish_reason")
    attributes |= {
        "gen_ai.operation.name": _OPERATIONS.get(str(details.get("route")), "chat"),
        "gen_ai.provider.name": "llmops",
        "gen_ai.request.model": record.release or record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.request.max_tokens": parameters.get("max_tokens"),
        "gen_ai.request.temperature": parameters.get("temperature"),
        "gen_ai.request.top_p": parameters.get("top_p"),
        "gen_ai.request.seed": parameters.get("seed"),
        "gen_ai.request.stream": details.get("stream"),
        "gen_ai.usage.input_tokens": record.tokens_in,
        "gen_ai.usage.output_tokens": record.tokens_out,
        "gen_ai.response.finish_reasons": None if reason is None else [str(reason)],
        "gen_ai.response.time_to_first_chunk": None if first_ms is None else first_ms / 1000,
        "gen_ai.prompt.name": prompt or None,
        "llmops.prompt.version": prompt_version or None,
        "llmops.release": record.release,
    }
    return {name: value for name, value in attributes.items() if value is not None}
