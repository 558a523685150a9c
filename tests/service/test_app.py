from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import service.app
from llmops.settings import Settings


def test_models_lists_every_name_that_can_be_asked_for(serve, release):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        cards = gateway.http.get("/v1/models").json()["data"]
        names = [card["id"] for card in cards]
        assert names == [
            "assistant", "assistant@1", "assistant@2", "assistant@challenger", "assistant@champion", "tiny@1", "tiny@2",
        ]  # fmt: skip
        assert {card["owned_by"] for card in cards} == {"llmops"}
        assert gateway.http.get("/v1/models/assistant@2").json()["id"] == "assistant@2"
        assert gateway.http.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nowhere", 404, "not_found"), ("GET", "/v1/chat/completions", 405, "method_not_allowed")],
)
def test_routing_errors_have_openais_shape_and_a_request_id(shared_gateway, method, path, status, code):
    reply = shared_gateway.http.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["code"] == code
    assert reply.headers["x-request-id"]


def test_docs_are_served(shared_gateway):
    assert shared_gateway.http.get("/docs").status_code == 200
    paths = shared_gateway.http.get("/openapi.json").json()["paths"]
    assert "prompt_variables" in str(paths) or "ChatRequest" in str(paths["/v1/chat/completions"])


def test_metrics_count_requests_latency_and_tokens(gateway, wait_until):
    gateway.chat()
    gateway.events()
    wait_until(lambda: gateway.app.state.gateway.admission.held == 0)
    text = gateway.http.get("/metrics").text
    assert 'llmops_requests_total{outcome="ok",status="200",target="assistant@1"} 2.0' in text
    assert 'llmops_request_seconds_count{target="assistant@1"} 2.0' in text
    assert 'llmops_first_token_seconds_count{target="assistant@1"} 2.0' in text
    assert 'llmops_tokens_total{direction="out",target="assistant@1"} 8.0' in text
    assert "llmops_in_flight 0.0" in text
    assert "llmops_log_failures_total 0.0" in text


def test_making_an_app_starts_nothing(tmp_path):
    app = service.app.create_app(Settings(home=tmp_path), None, None, type("Log", (), {"append": None})())
    assert app.state.gateway.keeper.age is None
    assert service.app.__all__ == ["create_app"]


def test_the_gateway_imports_nothing_heavy():
    code = "import sys, service.app, service.server; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"mlflow", "torch", "evidently", "ragas", "pandas", "monitoring"} & set(loaded.stdout.split())
