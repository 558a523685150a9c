"""Keys and Idempotency-Key on every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llmops.keys import KeyStore
from tests.service.conftest import bearer, embed, release

MODEL = "all-minilm-l6-v2"
ROUTES = [
    ("/v1/chat/completions", {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]}),
    ("/v1/completions", {"model": "assistant", "prompt": "hello"}),
    ("/v1/responses", {"model": "assistant", "input": "hello"}),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[KeyStore]:
    opened = KeyStore(f"sqlite:///{tmp_path_factory.mktemp('keys') / 'log.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def keys(store) -> dict[str, str]:
    made = {"own": {"apps": ["assistant"]}, "other": {"apps": ["other"]}, "all": {}, "poor": {"tokens_per_day": 1}}
    return {name: store.create(**scope)[1] for name, scope in made.items()}


@pytest.fixture(scope="module")
def ask(store, keys, serve_shared) -> Iterator[Any]:
    releases = release(1, "champion"), release(2), release(1, "champion", app="other")
    with serve_shared(*releases, keys=store, embed=embed) as gateway:

        def call(key: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
            sent = {**bearer(keys.get(key, key)), **headers}
            return gateway.http.request("GET" if body is None else "POST", path, json=body, headers=sent)

        call.log = gateway.log
        yield call


@pytest.mark.parametrize(("path", "body"), [*ROUTES, ("/v1/embeddings", {"model": MODEL, "input": "x"})])
def test_without_a_key_nothing_is_answered_or_logged(ask, path, body):
    before = ask.log.count()
    reply = ask("wrong", path, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert ask.log.count() == before


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_key_of_one_app_opens_it_and_nothing_else(ask, store, path, body):
    assert ask("own", path, body).status_code == 200
    (record,) = ask.log.read(newest=True, limit=1)
    assert record.details["key"] == record.caller == store.read()[0].id
    assert ask("own", path, {**body, "model": "tiny@1"}).status_code == 403
    for model in ("assistant", "assistant@1", "assistant@champion"):
        assert ask("other", path, {**body, "model": model}).status_code == 403
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
    document = ask("wrong", "/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    needing = {
        path: [each["security"] == [{scheme[0]: []}] for each in operations.values() if "security" in each]
        for path, operations in document["paths"].items()
    }
    for path, operations in document["paths"].items():
        status = [ask("wrong", path, {} if method == "post" else None).status_code for method in operations]
        assert needing[path] == [each == 401 for each in status if each == 401], path
    assert needing["/v1/chat/completions"] == needing["/metrics"] == [True]
    assert needing["/livez"] == []
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
def test_a_repeated_idempotency_key_gives_the_first_reply_again(ask, path, body, stream):
    repeated = {"idempotency-key": f"{path} {stream}"}
    first, again = (ask("own", path, {**body, "stream": stream}, **repeated) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert ask("own", path, {**body, "user": "another"}, **repeated).status_code == 422


def test_repeated_embeddings_are_made_and_logged_once(ask):
    body, repeated = {"model": MODEL, "input": "once"}, {"idempotency-key": "embed"}
    first, again = (ask("all", "/v1/embeddings", body, **repeated) for _ in range(2))
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers.get_list("x-llmops-model") == [MODEL]
    assert ask("all", "/v1/embeddings", {**body, "input": "twice"}, **repeated).status_code == 422
    assert [record.input for record in ask.log.read()].count("once") == 1
