import inspect
import json

import pytest

from llmops import errors
from llmops.engines.fake import FakeEngine
from service.error_map import ApiError, api_error
from tests.service.conftest import assert_refused

USER = {"role": "user", "content": "hi"}


CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}

CUSTOM_CALL = {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": "ls"}}
ASKED_AN_UPSTREAM = {"role": "assistant", "content": None}


TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def plain_gateway(serve_shared):
    """A gateway whose engine honours none of the extra fields."""
    with serve_shared(engine=lambda _: FakeEngine(supported_extras=frozenset())) as running:
        yield running


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("tools", [TOOL]),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name_and_logged(plain_gateway, field, value):
    assert_refused(plain_gateway.chat(**{field: value}), field, "tiny@1")
    record = plain_gateway.records()[-1]
    assert (record.status, record.details["extras"]) == (400, {field: value})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"functions": []}, "functions"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_all": True}}, "stream_options.include_all"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": "x"}}, "response_format.json_schema"),
        ({"prompt_variables": {"tone": 1}}, "prompt_variables.tone"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 257}, "messages"),
        ({"n": True}, "n"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "absent"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"word": 1}}, "logit_bias.word"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"modalities": ["smell"]}, "modalities[0]"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_a_wrong_field_is_refused_by_path(shared_gateway, fields, param):
    reply = shared_gateway.chat(**fields)
    assert_refused(reply, param)
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "pydantic" not in reply.text


SAID = {"role": "assistant", "content": "x"}
FUNCTION_OF_NOTHING = {"id": "a", "type": "function"}
ANNOTATED = {"type": "text", "text": "x", "annotations": []}
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}


@pytest.mark.parametrize(
    ("turns", "param"),
    [
        ([USER, {"role": "tool", "content": "x"}], "messages[1].tool_call_id"),
        ([{**USER, "tool_call_id": "x"}], "messages[0].tool_call_id"),
        ([{**USER, "tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([USER, {"role": "function", "content": "x", "name": "f"}], "messages[1].role"),
        ([{"role": "user", "content": [{"type": "thinking", "thinking": "hm"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [ANNOTATED]}], "messages[0].content[0].annotations"),
        ([{"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]}], "messages[0].content[1]"),
        ([{**ASKED_AN_UPSTREAM, "tool_calls": [CUSTOM_CALL]}, USER], "messages"),
        ([{**ASKED_AN_UPSTREAM, "content": [{"type": "reference", "ids": [1]}]}, USER], "messages"),
        ([{**ASKED_AN_UPSTREAM, "audio": {"id": "audio_1"}}, USER], "messages"),
        ([{**ASKED_AN_UPSTREAM, "tool_calls": [FUNCTION_OF_NOTHING]}, USER], "messages[0].tool_calls[0].function"),
        ([{**SAID, "sent_content": []}, USER, {**USER, "sent_content": 1}], "messages[2].sent_content"),
        ([{**SAID, "sent_content": [1]}, USER], "messages[0].sent_content"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{**USER, "reasoning_content": "x"}], "messages[0].reasoning_content"),
        ([{**USER, "refusal": "x"}], "messages[0].refusal"),
        ([{**SAID, "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
    ],
)
def test_a_wrong_turn_is_refused_by_path(shared_gateway, turns, param):
    assert_refused(shared_gateway.chat(messages=turns), param)


def test_fields_that_change_nothing_are_accepted(shared_gateway):
    reply = shared_gateway.chat(
        user="u", metadata={"a": "b"}, stream_options=None, store=True, n=1, prompt_cache_key="p",
        safety_identifier="s", logprobs=False, top_logprobs=None,
        tools=[], tool_choice="auto", presence_penalty=0, frequency_penalty=0.0, parallel_tool_calls=True,
        service_tier="auto", logit_bias={}, modalities=["text"], temperature=0, top_p=1,
    )  # fmt: skip
    assert reply.status_code == 200, reply.text


def test_an_assistant_turn_may_come_back_as_clients_keep_it_or_empty_and_text_parts_are_joined(shared_gateway):
    answer = shared_gateway.chat().json()["choices"][0]["message"]
    kept = {**answer, "tool_calls": None, "function_call": None, "audio": None, "annotations": []}
    parts = {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}
    for turn in (kept, {"role": "assistant", "content": None}):
        reply = shared_gateway.chat(messages=[USER, turn, parts])
        assert reply.json()["choices"][0]["message"]["content"] == "You said: hello"


def test_a_body_is_told_what_it_should_be(shared_gateway):
    def message(content, **headers):
        reply = shared_gateway.http.post("/v1/chat/completions", content=content, headers=headers)
        assert reply.status_code == 400
        return reply.json()["error"]["message"]

    good = json.dumps({"model": "assistant", "messages": [USER]})
    assert "content-type" in message(good)
    for number in ("NaN", "Infinity"):
        odd = f'{good[:-1]}, "metadata": {{"a": {number}}}}}'
        assert "not JSON" in message(odd, **{"content-type": "application/json"})


KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.LlmopsError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_tree_has_an_answer_and_server_faults_hide_their_text(kind):
    error = kind("/secret", "x") if kind in (errors.BadFile, errors.IncompatibleStore) else kind("/secret")
    answer = api_error(error)
    assert 400 <= answer.status < 600
    # What is wrong with an answer's format was written for clients.
    assert answer.status < 500 or kind is errors.SchemaNotFollowed or "secret" not in answer.message


def test_an_error_is_answered_as_its_nearest_known_ancestor_with_its_reason_for_clients():
    class Odd(errors.ContextTooLong):
        pass

    assert api_error(Odd("x")).code == "context_length_exceeded"
    assert api_error(KeyError("x")).status == 500
    answer = api_error(errors.EngineError("/secret", reason="the upstream sent no answer"))
    assert (answer.status, answer.message) == (502, "the model failed on this request: the upstream sent no answer")
    # Whole seconds, and at least one.
    waits = [ApiError(503, "x", retry_after=after).response().headers.get("retry-after") for after in (0.2, 2.1, None)]
    assert waits == ["1", "3", None]
