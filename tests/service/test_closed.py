"""A worker whose log cannot be opened refuses, instead of leaving clients waiting."""

from __future__ import annotations

import httpx
import pytest

from llmops.errors import StoreUnavailable
from service import app as closed
from tests.service.small_server import running


@pytest.fixture
def http(monkeypatch):
    ended = []
    monkeypatch.setattr(closed.os, "kill", lambda *_: ended.append(True))
    monkeypatch.setattr(closed, "LOOK_AGAIN_SECONDS", 0.01)
    app = closed.closed_app(StoreUnavailable("/home/secret/log.db was taken away"))
    with running(app, lifespan="on") as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.ended = ended
        yield client


def test_everything_is_refused_without_a_word_of_why_and_the_worker_ends_to_look_again(http, wait_until):
    chat = http.post("/v1/chat/completions", json={})
    assert (chat.status_code, chat.json()["error"]["code"], chat.headers["retry-after"]) == (
        503, "store_unavailable", "1")  # fmt: skip
    assert http.get("/livez").status_code == 200
    for path in ("/readyz", "/metrics", "/v1/models", "/"):
        reply = http.get(path)
        assert reply.status_code == 503
        assert "secret" not in reply.text
    wait_until(lambda: http.ended)
