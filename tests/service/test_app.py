from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

import service.app
from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable, StoreUnavailable
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from tests.service.conftest import embed, listening


def test_models_lists_every_name_that_can_be_asked_for(serve, release):
    dated = dataclasses.replace(release(1, "champion"), created_at=1_790_000_000.7)
    with serve(dated, release(2, "challenger"), embed=embed) as gateway:
        cards = gateway.http.get("/v1/models").json()["data"]
        for card in cards:
            assert gateway.http.get(f"/v1/models/{card['id']}").json() == card
        unknown = gateway.http.get("/v1/models/nobody")
    assert [card["id"] for card in cards] == [
        "all-minilm-l6-v2", "assistant", "assistant@1", "assistant@2", "assistant@challenger", "assistant@champion",
        "tiny@1", "tiny@2",
    ]  # fmt: skip
    assert {card["owned_by"] for card in cards} == {"llmops"}
    assert [card["created"] for card in cards] == [0, 1_790_000_000, 1_790_000_000, 0, 0, 1_790_000_000, 0, 0]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert "assistant@champion" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        *(("GET", path, 404, "not_found") for path in ("/v1/models/", "/v1/chat/completions/", "/livez/")),
    ],
)
def test_routing_errors_have_openais_shape_and_a_request_id_and_send_nobody_on(
    shared_gateway, method, path, status, code
):
    reply = shared_gateway.http.request(method, path, headers={"host": "elsewhere"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.headers["x-request-id"]
    assert "location" not in reply.headers


def test_metrics_count_requests_latency_and_tokens_and_what_was_refused_before_it_reached_a_model(gateway, wait_until):
    gateway.chat()
    gateway.events()
    gateway.chat("nobody")
    gateway.chat(temperature=9)
    gateway.chat(tools=[{"type": "function", "function": {"name": "f"}}])  # this one reaches a model, and is logged
    gateway.http.get("/nowhere")
    wait_until(lambda: gateway.app.state.gateway.admission.held == 0)
    lines = gateway.http.get("/metrics").text.splitlines()
    assert {
        'llmops_requests_total{outcome="ok",status="200",target="assistant@1"} 2.0',
        'llmops_requests_total{outcome="error",status="400",target="assistant@1"} 1.0',
        'llmops_first_token_seconds_count{target="assistant@1"} 2.0',
        'llmops_request_seconds_count{target="assistant@1"} 3.0',
        'llmops_tokens_total{direction="out",target="assistant@1"} 8.0',
        'llmops_refused_requests_total{status="404"} 1.0',
        'llmops_refused_requests_total{status="400"} 1.0',
        "llmops_in_flight 0.0",
        "llmops_log_failures_total 0.0",
    } <= set(lines)


def test_making_an_app_starts_nothing(tmp_path):
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    before = threading.active_count()
    app = service.app.create_app(Settings(home=tmp_path), None, None, log)
    log.close()
    assert app.state.gateway.keeper.age is None
    assert threading.active_count() == before
    assert service.app.__all__ == ["create_app"]


def test_the_gateway_imports_nothing_heavy():
    code = "import sys, service.app, service.server; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"mlflow", "torch", "evidently", "ragas", "pandas", "monitoring"} & set(loaded.stdout.split())


def test_the_reference_loads_nothing_from_elsewhere(shared_gateway):
    page = shared_gateway.http.get("/docs")
    assert page.status_code == 200
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert found
    for address in found:
        assert address.startswith("/"), address
        assert shared_gateway.http.get(address).status_code == 200, address
    paths = shared_gateway.http.get("/openapi.json").json()["paths"]
    assert "ChatRequest" in str(paths["/v1/chat/completions"])


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v1/models", "/metrics", "/docs", "/", "/v1/nowhere", "/v1/chat/completions"]
)
def test_head_is_answered_as_get_without_the_body(shared_gateway, path):
    got, head = shared_gateway.http.get(path), shared_gateway.http.head(path)
    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert shared_gateway.http.get("/livez").status_code == 200  # the connection is in step


def test_a_load_failure_over_http_is_503_with_retry_after(serve, wait_until):
    failures = [EngineUnavailable("weights in /secret are missing")]

    def open_engine(model):
        if failures:
            raise failures[0]
        return FakeEngine(name=model.ref)

    with serve(engine=open_engine, until_ready=False) as gateway:
        wait_until(lambda: gateway.http.get("/readyz").json()["engines"]["failures"])
        reply = gateway.chat()
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert "/secret" not in reply.text
        assert "/secret" in gateway.records()[0].details["error"]
        failures.clear()
        assert gateway.chat().status_code == 200
        wait_until(gateway.ready)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        *((sane, True) for sane in (b"abc", b"a b~!", b"x" * 128)),
        *((odd, False) for odd in (b"", b"x" * 129, b"caf\xc3\xa9", b"a\tb")),
    ],
)
def test_a_sane_request_id_is_echoed_and_any_other_replaced(shared_gateway, sent, kept):
    echoed = shared_gateway.http.get("/livez", headers={b"x-request-id": sent}).headers["x-request-id"]
    assert echoed == sent.decode() if kept else echoed.startswith("req_")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(serve, chunked):
    body = b'{"model": "assistant", "messages": [{"role": "user", "content": "%s"}]}' % (b"x" * 5000)
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    with serve(max_body_bytes=2000) as gateway, httpx.Client(base_url=gateway.url) as http:
        headers = {"content-type": "application/json"}
        reply = http.post("/v1/chat/completions", content=pieces if chunked else body, headers=headers)
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "body_too_large"
        assert reply.headers["x-request-id"]
        assert gateway.chat().status_code == 200
        assert len(gateway.records()) == 1


def test_a_closed_app_refuses_everything_without_a_word_of_why_and_ends_to_look_again(monkeypatch, wait_until):
    ended = []
    monkeypatch.setattr(service.app.os, "kill", lambda *_: ended.append(True))
    monkeypatch.setattr(service.app, "LOOK_AGAIN_SECONDS", 0.01)
    app = service.app.closed_app(StoreUnavailable("/home/secret/log.db was taken away"))
    with listening(app, lifespan="on") as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        chat = http.post("/v1/chat/completions", json={})
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, "store_unavailable")
        assert chat.headers["retry-after"] == "1"
        assert http.get("/livez").status_code == 200
        for path in ("/readyz", "/metrics", "/v1/models", "/"):
            reply = http.get(path)
            assert (reply.status_code, "secret" in reply.text) == (503, False)
        wait_until(lambda: ended)
