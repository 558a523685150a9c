from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime

import pytest

from llmops.errors import EngineError
from llmops.generation import Chunk, Message, Usage
from llmops.production_log import hidden_user
from llmops.traffic_policy import TrafficPolicy
from service.access import Caller
from service.error_map import ApiError
from service.exchange import AnswerRequest, Arrival, Exchange
from service.guards import guards_for
from service.snapshot import Target
from tests.service.conftest import embed

USER = Message(role="user", content="hi")
CALLER = Caller("key_1", "team", frozenset({"assistant"}))


@pytest.fixture
def exchange(release):
    def make(*messages, made=None, caller=CALLER, bare=False, **asked):
        made = made or release(1, "champion", temperature=0.5)
        arrival = Arrival("req_1", datetime.now(UTC), time.perf_counter(), caller)
        target = Target(made.model) if bare else Target(made.model, made)
        request = AnswerRequest(route="chat", model="assistant", messages=messages or (USER,), **asked)
        return Exchange(arrival, request, target, guards_for(target.release), "champion")

    return make


def take(exchange, *chunks):
    for chunk in chunks:
        exchange.take(chunk, chunk)


def test_answers_are_kept_apart_and_the_record_knows_the_first_the_callers_key_and_nothing_else(exchange):
    made = exchange(extras={"n": 2})
    details = made.record(200, "ok").details
    assert (details["key"], details["arm"], details["route"]) == ("key_1", "champion", "chat")
    assert not {"error", "user", "metadata", "tool_calls", "other_answers", "guards"} & details.keys()
    take(made, Chunk("b", index=1), Chunk("a"), Chunk("", "stop"))
    assert made.tokens_used > 2  # an estimate, until it is counted
    take(made, Chunk("!", "length", Usage(3, 4), index=1))
    record = made.record(200, "ok")
    assert [(answer.text, answer.finish_reason) for answer in made.answers] == [("a", "stop"), ("b!", "length")]
    assert (record.output, record.tokens_in, record.tokens_out, made.tokens_used) == ("a", 3, 4, 7)
    assert record.details["other_answers"] == [{"output": "b!", "finish_reason": "length"}]
    assert 0 < record.first_token_ms <= record.latency_ms


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        *((Chunk("x", index=index), "answer number") for index in (-1, 16, 10**9)),
        *((Chunk("", tool_calls=({"index": i, "function": {}},)), "tool call number") for i in (-1, 128, "0", None)),
    ],
)
def test_an_engine_cannot_make_up_answers_and_tool_calls(exchange, chunk, problem):
    with pytest.raises(EngineError, match=problem):
        take(exchange(), chunk)


def test_a_request_that_cannot_be_prepared_names_what_is_wrong(exchange):
    with pytest.raises(ApiError) as refused:
        exchange(sent={"max_tokens": 0}).prepare()
    assert refused.value.param == "max_tokens"
    with pytest.raises(ApiError, match="only a release"):
        exchange(bare=True, prompt_variables={"a": "b"}).prepare()
    with pytest.raises(ApiError, match="last message must be the user's"):
        exchange(Message(role="tool", content="3", tool_call_id="c")).prepare()


def test_what_postgresql_cannot_store_is_replaced(exchange):
    made = exchange(Message(role="user", content="a\0b"))
    take(made, Chunk("c\0", "stop", Usage(1, 1)))
    record = made.record(200, "ok")
    assert (record.input, record.output) == ("a\ufffdb", "c\ufffd")


def test_a_guarded_record_holds_no_personal_data_wherever_it_stands(exchange, release):
    made = dataclasses.replace(release(1, "champion", tone="x"), guards={"redact_log": True})
    mail = "jo@example.org"
    call = {"index": 0, "id": "c", "function": {"name": "send", "arguments": f'{{"to": "{mail}"}}'}}
    sent = exchange(Message(role="user", content=mail), made=made, prompt_variables={"tone": mail}, user=mail)
    sent.prepare()
    take(sent, Chunk(mail, tool_calls=(call,)), Chunk(mail, "stop", Usage(1, 1), index=1))
    assert mail not in str(sent.record(200, "ok", f"failed at {mail}"))


MAIL = "jo@example.org"


def test_every_route_says_itself_and_the_user(serve, release):
    bodies = {
        "chat": ("chat/completions", {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}),
        "completions": ("completions", {"model": "assistant", "prompt": "hi"}),
        "responses": ("responses", {"model": "assistant", "input": "hi"}),
        "embeddings": ("embeddings", {"model": "all-minilm-l6-v2", "input": "hi"}),
    }
    with serve(release(1, "champion"), embed=embed) as gateway:
        for path, body in bodies.values():
            assert gateway.http.post(f"/v1/{path}", json={**body, "user": "anna"}).status_code == 200
        records = gateway.records()
    assert [(record.route, record.user, record.caller) for record in records] == [(r, "anna", None) for r in bodies]
    assert [record.details["route"] for record in records] == list(bodies)


def test_a_failed_request_and_a_shadow_request_say_them_too(serve, release, wait_until):
    guarded = dataclasses.replace(release(1, "champion"), guards={"block": ["bomb"]})
    with serve(guarded, release(2, "challenger")) as gateway:
        assert gateway.chat(text="bomb", user="anna").status_code == 400
        gateway.source.set_policy("assistant", TrafficPolicy(shadow=1.0))
        wait_until(lambda: gateway.app.state.gateway.keeper.snapshot.splits)
        wait_until(lambda: gateway.app.state.gateway.pool.is_loaded(release(2).model))
        gateway.chat(user="anna")
        wait_until(lambda: gateway.log.count(shadow=True) == 3)
        records = list(gateway.log.iterate(shadow=True))
    assert {(each.route, each.user) for each in records} == {("chat", "anna")}
    assert sorted(each.status for each in records) == [200, 200, 400]


def test_a_user_with_personal_data_is_hidden_where_a_guard_redacts_the_log(serve, release):
    with serve(dataclasses.replace(release(1, "champion"), guards={"redact_log": True})) as gateway:
        for user in (MAIL, "anna", None):
            gateway.chat(user=user)
        records = gateway.records()
    assert [record.user for record in records] == [hidden_user(MAIL), "anna", None]
    assert MAIL not in str(records)
