"""Route, caller and user of every record."""

from __future__ import annotations

import dataclasses

import pytest

from llmops.production_log import hidden_user
from llmops.traffic_policy import TrafficPolicy

MAIL = "jo@example.org"


async def embed(texts):
    return [[0.0] * 384 for _ in texts], 1


@pytest.mark.parametrize(
    ("path", "body", "route"),
    [
        ("/v1/chat/completions", {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}, "chat"),
        ("/v1/completions", {"model": "assistant", "prompt": "hi"}, "completions"),
        ("/v1/responses", {"model": "assistant", "input": "hi"}, "responses"),
        ("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "hi"}, "embeddings"),
    ],
)
def test_every_route_says_itself_and_the_user(serve, release, path, body, route):
    with serve(release(1, "champion"), embed=embed) as gateway:
        assert gateway.http.post(path, json={**body, "user": "anna"}).status_code == 200
        (record,) = gateway.records()
    assert (record.route, record.user, record.caller) == (route, "anna", None)
    assert record.details["route"] == route


def test_a_failed_request_says_them_too(serve, release):
    with serve(dataclasses.replace(release(1, "champion"), guards={"block": ["bomb"]})) as gateway:
        assert gateway.chat(text="bomb", user="anna").status_code == 400
        (record,) = gateway.records()
    assert (record.status, record.route, record.user) == (400, "chat", "anna")


def test_a_shadow_request_says_them_too(serve, release, wait_until):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(shadow=1.0))
        wait_until(lambda: gateway.app.state.gateway.keeper.snapshot.splits)
        wait_until(lambda: gateway.app.state.gateway.pool.is_loaded(release(2).model))
        gateway.chat(user="anna")
        wait_until(lambda: gateway.log.count(shadow=True) == 2)
        assert [(each.route, each.user) for each in gateway.log.iterate(shadow=True)] == [("chat", "anna")] * 2


def test_a_user_with_personal_data_is_hidden_where_a_guard_redacts_the_log(serve, release):
    with serve(dataclasses.replace(release(1, "champion"), guards={"redact_log": True})) as gateway:
        for user in (MAIL, "anna", None):
            gateway.chat(user=user)
        records = gateway.records()
    assert [record.user for record in records] == [hidden_user(MAIL), "anna", None]
    assert MAIL not in str(records)
