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
from service.guards import GuardBook
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
        return Exchange(arrival, request, target, GuardBook().guards_for(target.release), "champion")

    return make


def take(exchange, *chunks):
    for chunk in chunks:
        exchange.take(chunk, chunk)


def test_answers_are_kept_apart_and_the_first_is_the_records(exchange):
    made = exchange(extras={"n": 2})
    take(made, Chunk("b", index=1), Chunk("a"), Chunk("", "stop"), Chunk("!", "length", Usage(3, 4), index=1))
    record = made.record(200, "ok")
    assert [(answer.text, answer.finish_reason) for answer in made.answers] == [("a", "stop"), ("b!", "length")]
    assert (record.output, record.tokens_in, record.tokens_out) == ("a", 3, 4)
    assert record.details["other_answers"] == [{"output": "b!", "finish_reason": "length"}]
    assert 0 < record.first_token_ms <= record.latency_ms


def test_the_record_names_the_callers_key_and_nothing_it_does_not_know(exchange):
    details = exchange().record(200, "ok").details
    assert (details["key"], details["arm"], details["route"]) == ("key_1", "champion", "chat")
    assert not {"error", "user", "metadata", "extras", "tool_calls", "other_answers", "guards"} & details.keys()


@pytest.mark.parametrize("index", [-1, 16, 10**9])
def test_an_engine_cannot_make_up_answers(exchange, index):
    with pytest.raises(EngineError, match="answer number"):
        take(exchange(), Chunk("x", index=index))


@pytest.mark.parametrize("index", [-1, 128, "0", None])
def test_an_engine_cannot_make_up_tool_calls(exchange, index):
    with pytest.raises(EngineError, match="tool call number"):
        take(exchange(), Chunk("", tool_calls=({"index": index, "function": {}},)))


def test_tool_calls_are_put_together_from_their_pieces(exchange):
    made = exchange()
    begin = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"a"', ": 1}")]
    take(made, Chunk("", tool_calls=(begin,)), *(Chunk("", tool_calls=(piece,)) for piece in more))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert made.answers[0].tool_calls == [call]
    assert made.record(200, "ok").details["tool_calls"] == [call]


def test_sent_parameters_replace_the_releases_and_wrong_ones_are_named(exchange):
    request = exchange(sent={"max_tokens": 3, "stop": "X"}).prepare()
    assert (request.parameters.max_tokens, request.parameters.stop) == (3, ("X",))
    assert request.parameters.temperature == 0.5
    with pytest.raises(ApiError) as refused:
        exchange(sent={"max_tokens": 0}).prepare()
    assert refused.value.param == "max_tokens"


def test_what_was_charged_for_is_what_was_counted_and_an_estimate_until_then(exchange):
    made = exchange()
    take(made, Chunk("a"), Chunk("b"))
    assert made.tokens_used > 2
    take(made, Chunk("", "stop", Usage(10, 2)))
    assert made.tokens_used == 12


def test_a_bare_model_takes_no_prompt_variables(exchange):
    assert exchange(bare=True).prepare().messages == (USER,)
    with pytest.raises(ApiError, match="only a release"):
        exchange(bare=True, prompt_variables={"a": "b"}).prepare()


def test_turns_of_tools_stay_behind_the_filled_template(exchange):
    asked = Message(role="assistant", content="", tool_calls=[{"id": "c"}])
    said = Message(role="tool", content="3", tool_call_id="c")
    messages = exchange(USER, asked, said).prepare().messages
    assert messages[-2:] == (asked, said)
    assert messages[-3]["content"] == "hi"
    with pytest.raises(ApiError, match="last message must be the user's"):
        exchange(said).prepare()


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
