"""Keys at a whole gateway: budgets are charged, scopes hold, refusals stay out of the log."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable
from llmops.generation import UNKNOWN_USAGE, Chunk
from llmops.keys import KeyStore
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.app import create_app
from tests.service.conftest import release, served, wait_until
from tests.service.static_releases import StaticReleases


@pytest.fixture
def store(tmp_path):
    opened = KeyStore(f"sqlite:///{tmp_path / 'log.db'}")
    yield opened
    opened.close()


@contextmanager
def gateway_with(store, tmp_path, engine=FakeEngine):
    """A real gateway that serves `assistant@1` to holders of keys."""
    log = ProductionLog(store.url)
    source = StaticReleases([release(1, "champion")])
    app = create_app(
        Settings(home=tmp_path, registry_poll=0.05), source, lambda model: engine(name=model.ref), log, keys=store
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
        assert 0 < int(reply.headers["retry-after"]) <= 86_400
        assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
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


def test_a_days_budget_that_is_used_up_is_used_up_after_a_restart_too(store, tmp_path):
    _, text = store.create(tokens_per_day=1)
    with gateway_with(store, tmp_path) as (http, _):
        assert chat(http, text).status_code == 200
    with gateway_with(store, tmp_path) as (http, _):
        assert chat(http, text).status_code == 429


def test_streams_at_once_overdraw_a_budget_by_no_more_than_one_of_them(store, tmp_path):
    _, text = store.create(tokens_per_minute=400)
    engine = functools.partial(FakeEngine, lambda _: "word " * 50, slots=100)
    with gateway_with(store, tmp_path, engine) as (http, log), ThreadPoolExecutor(30) as threads:
        statuses = list(threads.map(lambda _: chat(http, text, stream=True, max_tokens=50).status_code, range(60)))
        used = [record.tokens_in + record.tokens_out for record in log.read()]
    assert set(statuses) == {200, 429}
    assert len(used) == statuses.count(200)
    assert 0 < sum(used) < 400 + max(used)


def test_a_refusal_tells_what_is_used_from_what_requests_under_way_hold(store, tmp_path):
    key, text = store.create(tokens_per_minute=400)
    with gateway_with(store, tmp_path) as (http, log):
        log.budgets.reserve(key.id, {"minute": 400}, 400, 60.0)
        reply = chat(http, text)
    message = reply.json()["error"]["message"]
    assert message == "this key's 400 tokens per minute are used up, but for 400 that requests under way may still take"
    assert reply.headers["retry-after"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_whose_tokens_nobody_counted_is_charged_by_an_estimate_that_says_so(store, tmp_path, stream):
    _, text = store.create(tokens_per_minute=20)

    def uncounted(_):
        return [Chunk("It is a long answer of many words."), Chunk("", "stop", UNKNOWN_USAGE)]

    engine = functools.partial(FakeEngine, script=uncounted)
    with gateway_with(store, tmp_path, engine) as (http, log):
        statuses = [chat(http, text, stream=stream).status_code for _ in range(4)]
        records = log.read()
    assert statuses == [200, 429, 429, 429]
    assert (records[0].tokens_in, records[0].tokens_out) == (None, None)
    assert records[0].details["estimated_tokens"] > 20


def test_a_request_that_fails_before_anything_came_costs_nothing(store, tmp_path):
    _, text = store.create(tokens_per_minute=1)
    engine = functools.partial(FakeEngine, failure=EngineUnavailable("away"))
    with gateway_with(store, tmp_path, engine) as (http, _):
        assert [chat(http, text).status_code for _ in range(3)] == [503, 503, 503]
