"""Results of eval runs as a real OTLP/HTTP receiver gets them."""

import dataclasses
import gzip
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmops.hashing import content_hash
from llmops.recording import EvalRecorder, record_calibration
from llmops.registry import Store
from tests.http_server import serving
from tests.recording.conftest import report

JUDGE = {"type": "rubric", "judge": {"base_url": "http://127.0.0.1:1/v1", "model": "judge-1"}}


@pytest.fixture
def received():
    """Events that arrive: `(path, name, attributes)`; the address is in `url`."""

    class Received(list[Any]):
        url = ""

    events = Received()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as otlp

            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
            for resource in otlp.ExportLogsServiceRequest.FromString(body).resource_logs:
                for scope in resource.scope_logs:
                    for event in scope.log_records:
                        events.append((self.path, event.event_name, {a.key: _value(a.value) for a in event.attributes}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with serving(Receiver) as events.url:
        yield events


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def recorder_to(desk: Any, url: str) -> EvalRecorder:
    return EvalRecorder(Store(dataclasses.replace(desk.store.settings, otel_endpoint=url)))


def test_each_scorer_of_a_run_is_an_event_with_its_interval_its_judge_and_the_eval_sets(desk, received):
    cell = desk.cell()
    cell = dataclasses.replace(cell, content={**cell.content, "judges": {"judge": JUDGE}})
    kappa = {"kappa": 0.8, "kappa_low": 0.6, "kappa_high": 0.9, "n": 50, "n_failed": 0, "accuracy": 0.9}
    record_calibration(desk.store, "judge", kappa, content_hash(JUDGE))
    run = recorder_to(desk, received.url).record(cell, report(4))

    assert [event[:2] for event in received] == [("/v1/logs", "gen_ai.evaluation.result")] * 2
    correct, judged = (event[2] for event in received)
    common = {
        "llmops.suite": "sums",
        "llmops.prompt": "qa@1",
        "gen_ai.request.model": "tiny@1",
        "llmops.run_id": run.run_id,
        "llmops.eval_sets": [f"sums-rows@{content_hash('sums-rows')}"],
    }
    assert correct == {
        **common,
        "gen_ai.evaluation.name": "correct",
        "gen_ai.evaluation.score.value": 0.5,
        "llmops.evaluation.scored_rows": 4,
        "llmops.evaluation.failed_rows": 0,
        "llmops.evaluation.ci95.low": 0.25,
        "llmops.evaluation.ci95.high": 0.75,
    }
    assert judged == {
        **common,
        "gen_ai.evaluation.name": "judge",
        "llmops.evaluation.scored_rows": 0,
        "llmops.evaluation.failed_rows": 4,
        "llmops.judge": content_hash(JUDGE),
        "llmops.judge.model": "judge-1",
        "llmops.judge.kappa": 0.8,
        "llmops.judge.kappa_low": 0.6,
        "llmops.judge.kappa_high": 0.9,
    }


def test_a_receiver_of_traces_gets_the_results_beside_them(desk, received):
    recorder_to(desk, f"{received.url}/v1/traces").record(desk.cell(), report(2))
    assert {path for path, _, _ in received} == {"/v1/logs"}


def test_a_receiver_that_is_away_costs_a_warning_and_no_result(desk, received, caplog):
    away = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{away.server_port}"
    away.server_close()
    with caplog.at_level(logging.WARNING):
        run = recorder_to(desk, url).record(desk.cell(), report(2))
    assert recorder_to(desk, received.url).get(run.run_id).rows == 2
    assert "opentelemetry" in " ".join(record.name for record in caplog.records)
    assert received == []  # reading a run sends nothing
