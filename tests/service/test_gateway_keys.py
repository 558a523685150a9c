"""Keys at a whole gateway: budgets are charged, scopes hold, refusals stay out of the log."""

from __future__ import annotations

from contextlib import contextmanager

import httpx
import pytest

from llmops.engines.fake import FakeEngine
from llmops.keys import KeyStore
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.app import create_app
from service.static_releases import StaticReleases
from tests.service.conftest import release, served, wait_until


@pytest.fixture
def store(tmp_path):
    opened = KeyStore(f"sqlite:///{tmp_path / 'log.db'}")
    yield opened
    opened.close()


@contextmanager
def gateway_with(store, tmp_path):
    """A real gateway that serves `assistant@1` to holders of keys."""
    log = ProductionLog(store.url)
    source = StaticReleases([release(1, "champion")])
    app = create_app(
        Settings(home=tmp_path, registry_poll=0.05), source, lambda model: FakeEngine(name=model.ref), log, keys=store
    )
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as http:
        wait_until(lambda: http.get("/readyz").status_code == 200)
        yield http, log
    log.close()


def chat(http, text, **fields):
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}], **fields}
    return http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {text}"})


@pytest.mark.parametrize("stream", [False, True])
def test_an_answers_tokens_use_up_the_budget_of_its_key(store, tmp_path, stream):
    _, text = store.create(tokens_per_day=1)
    with gateway_with(store, tmp_path) as (http, log):
        assert chat(http, text, stream=stream).status_code == 200
        reply = chat(http, text, stream=stream)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(reply.headers["retry-after"]) > 86_000
        assert reply.headers["x-request-id"]
        assert [record.outcome for record in log.read()] == ["ok"]


def test_a_key_of_one_app_reaches_no_other_and_no_bare_model(store, tmp_path):
    _, other = store.create(apps=["other"])
    key, own = store.create(apps=["assistant"])
    with gateway_with(store, tmp_path) as (http, log):
        assert chat(http, own).status_code == 200
        assert chat(http, other).status_code in {403, 404}
        for model in ("assistant@1", "assistant@champion"):
            assert chat(http, other, model=model).status_code in {403, 404}
        bare = log.read()[0].model
        assert chat(http, own, model=bare).status_code in {403, 404}
        assert len([record for record in log.read() if record.outcome == "ok"]) == 1
        assert key.id in str(log.read()[0].details)
