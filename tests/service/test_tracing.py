"""Spans as a real OTLP/HTTP receiver gets them, and trace context handed on."""

import asyncio
import dataclasses
import gzip
import logging
import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from llmops.production_log import LogRecord
from llmops.settings import Settings
from service.json_route import read_body
from service.tracing import Tracing, open_tracing, trace_context
from tests.service.conftest import listening, release
from tests.service.tabular_models import Hours, row, version

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = [(b"host", b"x"), (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()), (b"tracestate", b"a=1"),
           (b"tracestate", b"b=2")]  # fmt: skip
NOT_SAMPLED = [(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())]
NAME = "POST /v1/chat/completions"


class Receiver:
    """An OTLP/HTTP trace receiver, an ASGI app; `spans` are protobuf messages."""

    def __init__(self):
        self.url = ""
        self.spans = []
        self.paths = []
        self.bodies = []

    async def __call__(self, scope, receive, send):
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

        body = await read_body(receive) or b""
        if (b"content-encoding", b"gzip") in scope["headers"]:
            body = gzip.decompress(body)
        self.paths.append(scope["path"])
        self.bodies.append(body)
        for resource in otlp.ExportTraceServiceRequest.FromString(body).resource_spans:
            for spans in resource.scope_spans:
                self.spans += spans.spans
        answer = otlp.ExportTraceServiceResponse().SerializeToString()
        await Response(answer, media_type="application/x-protobuf")(scope, receive, send)


@pytest.fixture
def receiver():
    made = Receiver()
    with listening(made, lifespan="off") as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


@pytest.fixture
def trace(receiver):
    """`trace(*requests)`: begins each request, given by its headers, ends it as said, and gives the spans begun."""

    def send(*requests, **values):
        tracing = open_tracing(Settings(otel_endpoint=receiver.url, **values))
        begun = [tracing.begin(headers, NAME) for headers, _ in requests]
        for span, (_, ending) in zip(reversed(begun), reversed(requests), strict=True):
            span.end(**ending)
        asyncio.run(tracing.close())
        return begun

    return send


def record(**values):
    made = LogRecord(
        "req_1", datetime.now(UTC), 200, "ok", input="secret question", output="secret answer", release="assistant@3",
        prompt="qa@2", model="tiny@1", tokens_in=7, tokens_out=5, first_token_ms=120.0,
        details={"route": "chat", "finish_reason": "stop", "stream": True, "parameters": {"max_tokens": 64}},
    )  # fmt: skip
    return dataclasses.replace(made, **values)


def attributes(span):
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_request_is_one_span_with_versions_tokens_and_times_but_no_words(receiver, trace):
    (span,) = trace((SAMPLED, {"record": record()}))
    (sent,) = receiver.spans
    # An upstream server is told of our span.
    assert span.headers == {"traceparent": f"00-{TRACE}-{sent.span_id.hex()}-01", "tracestate": "a=1,b=2"}
    assert receiver.paths == ["/v1/traces"]
    assert sent.name == NAME
    assert (sent.trace_id.hex(), sent.parent_span_id.hex(), sent.trace_state) == (TRACE, SPAN, "a=1,b=2")
    assert sent.kind == 2  # server
    found = attributes(sent)
    reasons = found.pop("gen_ai.response.finish_reasons")
    assert [value.string_value for value in reasons.values] == ["stop"]
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llmops",
        "gen_ai.request.model": "assistant@3",
        "gen_ai.response.model": "tiny@1",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.time_to_first_chunk": 0.12,
        "gen_ai.prompt.name": "qa",
        "llmops.prompt.version": "2",
        "llmops.release": "assistant@3",
        "llmops.outcome": "ok",
        "llmops.request_id": "req_1",
    }
    assert b"secret" not in receiver.bodies[0]


def test_a_failure_is_marked_by_its_class_and_not_by_its_text(receiver, trace):
    failed = record(status=504, outcome="error", details={"error": "EngineTimeout: secret question took too long"})
    trace(([], {}), ([], {"status": 429}), ([], {"record": failed}))
    slow, refused, broken = receiver.spans
    # Requests that run at the same time are no children of each other.
    assert {span.parent_span_id for span in receiver.spans} == {b""}
    assert len({span.trace_id for span in receiver.spans}) == 3
    assert attributes(slow)["error.type"] == "EngineTimeout"
    assert slow.status.code == 2
    assert (attributes(refused)["http.response.status_code"], refused.status.code) == (429, 0)
    assert attributes(broken)["error.type"] == "500"
    assert b"secret" not in b"".join(receiver.bodies)


def test_each_request_to_the_gateway_is_a_span(serve, receiver):
    models = {"tabular": [version(2, "champion")], "open_tabular": lambda _: Hours()}
    with serve(release(1, "champion"), otel_endpoint=receiver.url, **models) as running:
        running.chat(stream=True)
        running.chat(model="nothing@1")
        running.http.post("/v1/predict/bike", json={"rows": [row(), row()]}, headers={"x-request-id": "mine"})
    answered, refused, predicted = receiver.spans
    found = attributes(answered)
    assert (found["llmops.release"], found["http.response.status_code"]) == ("assistant@1", 200)
    assert attributes(refused)["http.response.status_code"] == 404
    assert predicted.name == "POST /v1/predict/…"
    found = {name: value for name, value in attributes(predicted).items() if not name.startswith("http.")}
    known = {"llmops.model": "bike@2", "llmops.rows": 2, "llmops.outcome": "ok", "llmops.request_id": "mine"}
    assert found == known
    assert not [said for said in (b"hello world", b"clear") if said in b"".join(receiver.bodies)]


def test_the_client_decides_whether_its_trace_is_sampled_and_the_share_decides_on_others(receiver, trace):
    _, unsampled, _ = trace(*((headers, {}) for headers in ([], NOT_SAMPLED, SAMPLED)), otel_sample=0.0)
    assert [span.trace_id.hex() for span in receiver.spans] == [TRACE]
    assert unsampled.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert unsampled.headers["traceparent"].endswith("-00")


def test_an_endpoint_that_is_away_delays_neither_requests_nor_the_end(caplog):
    tracing = open_tracing(Settings(otel_endpoint="http://127.0.0.1:9"))
    caplog.set_level(logging.CRITICAL)
    start = time.monotonic()
    for _ in range(100):
        tracing.begin([], NAME).end(record())
    assert time.monotonic() - start < 5
    asyncio.run(tracing.close())
    assert time.monotonic() - start < 12


def test_without_an_endpoint_trace_context_is_handed_on_unchanged():
    span = open_tracing(Settings()).begin(SAMPLED, NAME)
    span.end(record())
    assert span.headers == {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1,b=2"}
    assert open_tracing(Settings()).begin([(b"tracestate", b"a=1")], NAME).headers == {}


def test_without_an_endpoint_tracing_costs_next_to_nothing():
    tracing, best = Tracing(), math.inf
    headers = [*SAMPLED, *[(b"x-other", b"1")] * 8]
    for _ in range(5):
        start = time.thread_time()
        for _ in range(1000):
            tracing.begin(headers, NAME).end()
        best = min(best, (time.thread_time() - start) / 1000)
    assert best < 20e-6


def test_what_is_no_trace_context_is_not_handed_on():
    short, upper = f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01"
    for value in ("", "00", "00-x", short, upper, f"{short}-01\r\nx: y"):
        assert trace_context([(b"traceparent", value.encode())]) == {}


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_header_is_read_without_failing_and_handed_on_only_in_plain_ascii(parent, state):
    found = trace_context([(b"traceparent", parent), SAMPLED[1], (b"tracestate", state)])
    assert all(value.isascii() and value.isprintable() for value in found.values())
