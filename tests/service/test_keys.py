"""Keys over HTTP: what each opens on every route, with Idempotency-Key; token budgets and their leases."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable
from llmops.generation import UNKNOWN_USAGE, Chunk
from llmops.production_log.budgets import BudgetState
from llmops.production_log.tables import token_reservations
from service.error_map import ApiError
from service.key_limits import Budgets
from tests.service.conftest import ANSWERABLE, bearer, embed, release

MODEL = "all-minilm-l6-v2"
ROUTES = list(ANSWERABLE.items())


@pytest.fixture(scope="module")
def keys(shared_key_store):
    made = {"own": {"apps": ["assistant"]}, "other": {"apps": ["other"]}, "all": {}, "poor": {"tokens_per_day": 1}}
    return {name: shared_key_store.create(**scope)[1] for name, scope in made.items()}


@pytest.fixture(scope="module")
def ask(shared_key_store, keys, serve_shared):
    releases = release(1, "champion"), release(2), release(1, "champion", app="other")
    with serve_shared(*releases, keys=shared_key_store, embed=embed) as gateway:

        def call(key, path, body=None, **headers):
            sent = {**bearer(keys.get(key, key)), **headers}
            return gateway.http.request("GET" if body is None else "POST", path, json=body, headers=sent)

        call.gateway, call.log = gateway, gateway.log
        yield call


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_key_of_one_app_opens_it_and_nothing_else(ask, shared_key_store, path, body):
    assert ask("own", path, body).status_code == 200
    (record,) = ask.log.read(newest=True, limit=1)
    assert record.details["key"] == record.caller == shared_key_store.read()[0].id
    closed = [("own", "tiny@1"), *(("other", f"assistant{name}") for name in ("", "@1", "@champion"))]
    for key, model in closed:
        refused = ask(key, path, {**body, "model": model})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (403, "app_not_allowed", "model")
    unknown = ask("own", path, {**body, "model": "assistant@9"})
    assert (unknown.status_code, "tiny@1" in unknown.text) == (404, False)


def test_a_key_of_an_app_opens_no_pair_of_prompt_and_model_beside_its_releases(ask):
    prompt = {"id": "qa", "version": "1", "variables": {"question": "why?"}}
    assert ask("own", "/v1/responses", {"model": "assistant", "prompt": prompt}).status_code == 200
    pair = {"model": "assistant", "prompt": {**prompt, "version": "2"}}
    assert ask("own", "/v1/responses", pair).status_code == 403
    assert ask("all", "/v1/responses", pair).status_code == 200


def test_apps_and_prompts_of_others_are_not_named(ask):
    found = ask("own", "/v1/responses", {"prompt": {"id": "qa", "variables": {"question": "x"}}})
    unknown = ask("own", "/v1/responses", {"model": "assistant", "prompt": {"id": "nope"}, "input": "x"})
    assert (found.status_code, unknown.status_code) == (200, 404)
    assert "other" not in found.text + unknown.text


def test_the_document_has_keys_and_marks_what_needs_one_as_soon_as_a_key_exists(ask, serve):
    document, before = ask("wrong", "/openapi.json").json(), ask.log.count()
    (scheme,) = document["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    needing = {
        path: [each["security"] == [{scheme[0]: []}] for each in operations.values() if "security" in each]
        for path, operations in document["paths"].items()
    }
    for path, operations in document["paths"].items():
        status = [ask("wrong", path, {} if method == "post" else None).status_code for method in operations]
        assert needing[path] == [each == 401 for each in status if each == 401], path
    assert [needing[path] for path in (*ANSWERABLE, "/v1/embeddings", "/metrics")] == [[True]] * 5
    assert needing["/livez"] == []
    assert ask.log.count() == before
    with serve(release(1, "champion")) as without_keys:
        assert "securitySchemes" not in without_keys.http.get("/openapi.json").json()["components"]


def test_embeddings_need_a_key_of_all_apps_and_use_up_its_tokens(ask):
    body = {"model": MODEL, "input": "x"}
    assert ask("own", "/v1/embeddings", body).status_code == 403
    assert [ask("poor", "/v1/embeddings", body).status_code for _ in range(2)] == [200, 429]


def test_the_models_listed_are_those_that_the_key_opens(ask):
    listed = {key: {card["id"] for card in ask(key, "/v1/models").json()["data"]} for key in ("own", "all")}
    assert listed["own"] == {"assistant", "assistant@champion", "assistant@1", "assistant@2"}
    assert listed["all"] >= {*listed["own"], "other", "tiny@1", MODEL}
    assert ask("own", "/v1/models/assistant@2").status_code == 200
    assert ask("own", "/v1/models/tiny@1").status_code == 403


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_repeated_idempotency_key_gives_the_first_reply_again_and_generates_nothing(ask, path, body, stream):
    repeated, requests = {"idempotency-key": f"{path} {stream}"}, ask.gateway.engines["tiny@1"].requests
    before = len(requests), ask.log.count()
    first, again = (ask("own", path, {**body, "stream": stream}, **repeated) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert again.headers["x-llmops-release"] == "assistant@1"
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert again.headers["x-llmops-original-request-id"] == first.headers["x-request-id"]
    assert ask.log.read(newest=True, limit=1)[0].request_id == first.headers["x-request-id"]
    assert (len(requests), ask.log.count()) == (before[0] + 1, before[1] + 1)
    assert ask("own", path, {**body, "user": "another"}, **repeated).status_code == 422


def test_repeated_embeddings_are_made_and_logged_once(ask):
    body, repeated = {"model": MODEL, "input": "once"}, {"idempotency-key": "embed"}
    first, again = (ask("all", "/v1/embeddings", body, **repeated) for _ in range(2))
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers.get_list("x-llmops-model") == [MODEL]
    assert ask("all", "/v1/embeddings", {**body, "input": "twice"}, **repeated).status_code == 422
    assert [record.input for record in ask.log.read()].count("once") == 1


@pytest.fixture
def serve_holders(serve, key_store):
    """`with serve_holders(script=…) as gateway:` for holders of keys, with a fake engine made so."""
    return lambda **engine: serve(engine=lambda _: FakeEngine(**engine), keys=key_store)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answers_tokens_use_up_the_budget_of_its_key_also_after_a_restart(key_store, serve_holders, stream):
    headers = bearer(key_store.create(tokens_per_day=1)[1])
    with serve_holders() as gateway:
        assert gateway.chat(headers=headers, stream=stream).status_code == 200
    with serve_holders() as gateway:
        reply = gateway.chat(headers=headers, stream=stream)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 0 < int(reply.headers["retry-after"]) <= 86_400
        assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
        assert reply.headers["x-request-id"]
        assert [record.outcome for record in gateway.records()] == ["ok"]


def test_streams_at_once_overdraw_a_budget_by_no_more_than_one_of_them(key_store, serve_holders):
    asked = {"headers": bearer(key_store.create(tokens_per_minute=400)[1]), "stream": True, "max_tokens": 50}
    with serve_holders(answer=lambda _: "word " * 50, slots=100) as gateway, ThreadPoolExecutor(30) as threads:
        statuses = list(threads.map(lambda _: gateway.chat(**asked).status_code, range(60)))
        used = [record.tokens_in + record.tokens_out for record in gateway.records()]
    assert set(statuses) == {200, 429}
    assert len(used) == statuses.count(200)
    assert 0 < sum(used) < 400 + max(used)


def test_a_refusal_tells_what_is_used_from_what_requests_under_way_hold(key_store, serve_holders):
    key, text = key_store.create(tokens_per_minute=400)
    with serve_holders() as gateway:
        gateway.log.budgets.reserve(key.id, {"minute": 400}, 400, 60.0)
        reply = gateway.chat(headers=bearer(text))
    message = reply.json()["error"]["message"]
    assert message == "this key's 400 tokens per minute are used up, but for 400 that requests under way may still take"
    assert reply.headers["retry-after"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_whose_tokens_nobody_counted_is_charged_by_an_estimate_that_says_so(key_store, serve_holders, stream):
    headers = bearer(key_store.create(tokens_per_minute=20)[1])
    uncounted = [Chunk("It is a long answer of many words."), Chunk("", "stop", UNKNOWN_USAGE)]
    with serve_holders(script=lambda _: uncounted) as gateway:
        statuses = [gateway.chat(headers=headers, stream=stream).status_code for _ in range(4)]
        records = gateway.records()
    assert statuses == [200, 429, 429, 429]
    assert (records[0].tokens_in, records[0].tokens_out) == (None, None)
    assert records[0].details["estimated_tokens"] > 20


def test_a_request_that_fails_before_anything_came_costs_nothing(key_store, serve_holders):
    headers = bearer(key_store.create(tokens_per_minute=1)[1])
    with serve_holders(failure=EngineUnavailable("away")) as gateway:
        assert [gateway.chat(headers=headers).status_code for _ in range(3)] == [503, 503, 503]


LIMIT = 64_000
LARGE = {"minute": LIMIT}


def reserved(log):
    """Tokens of each reservation there is."""
    with log._database.reading() as connection:
        return list(connection.execute(sa.select(token_reservations.c.tokens)).scalars())


def left(log, limit=LIMIT):
    found = log.budgets.reserve("k", {"minute": limit}, 1, 60.0)
    if isinstance(found, BudgetState):
        return found.left
    log.budgets.settle(found, 0)
    return found.budgets[0].left


async def spend(budgets, tokens, limits=LARGE):
    """Uses tokens as one request; the reply's headers."""
    headers = []
    async with budgets.spending("k", limits, tokens, headers) as spending:
        spending.tokens = tokens
    return dict(headers)


def run(work, log, lease_seconds=60.0):
    async def main():
        budgets = Budgets(log.budgets, 60.0, lease_seconds)
        await work(budgets)
        await budgets.close()

    asyncio.run(main())


def test_requests_share_a_lease_while_much_is_left_then_another_and_it_is_settled_at_the_end(any_log):
    async def work(budgets):
        told = [await spend(budgets, 100) for _ in range(5)]
        assert [int(each[b"x-ratelimit-remaining-tokens"]) for each in told] == [LIMIT - 100 * n for n in range(5)]
        assert reserved(any_log) == [LIMIT // 64]
        for _ in range(20):
            await spend(budgets, 100)

    run(work, any_log)
    assert reserved(any_log) == []
    assert left(any_log) == LIMIT - 2500


def test_after_its_time_a_lease_keeps_only_what_requests_under_way_hold(any_log, eventually):
    async def work(budgets):
        async with budgets.spending("k", LARGE, 100, []) as spending:
            spending.tokens = 40
            await spend(budgets, 30)
            await eventually(lambda: reserved(any_log) == [100])
            assert left(any_log) == LIMIT - 100 - 30
        await eventually(lambda: reserved(any_log) == [])

    run(work, any_log, lease_seconds=0.05)
    assert left(any_log) == LIMIT - 70


def test_near_the_end_of_a_budget_each_request_has_a_reservation_of_its_own(any_log):
    small = {"minute": 1000}

    async def work(budgets):
        async with budgets.spending("k", small, 100, []), budgets.spending("k", small, 100, []):
            assert reserved(any_log) == [100, 100]
        await spend(budgets, 1000, small)
        with pytest.raises(ApiError, match="this key's 1000 tokens per minute are used up"):
            await spend(budgets, 1, small)

    run(work, any_log)


def test_requests_at_once_of_two_workers_overdraw_by_no_more_than_one_of_them(any_log):
    used = []

    async def ask(budgets, tokens):
        try:
            await spend(budgets, tokens)
        except ApiError:
            return
        used.append(tokens)

    async def work(budgets):
        other = Budgets(any_log.budgets, 60.0, 0.01)
        await asyncio.gather(*(ask(each, 99) for each in (budgets, other) for _ in range(15)))
        assert len(used) == 30
        await ask(budgets, LIMIT - 4000)
        await asyncio.gather(*(ask(each, 99) for each in (budgets, other) for _ in range(15)))
        await other.close()

    run(work, any_log, lease_seconds=0.01)
    assert LIMIT - 4000 < sum(used) < LIMIT + 99
    assert left(any_log) == max(0, LIMIT - sum(used))
