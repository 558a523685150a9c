"""What comes from an upstream comes through: the official client gets equal objects from the gateway and from the
upstream asked directly, field by field, but for ids, names and times."""

import json
import re
import subprocess
from pathlib import Path

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from llmops.engines.openai import OpenAIEngine
from tests.engines.upstream_server import serving
from tests.engines.upstream_shapes import BOTH, FAILURES, NO_IDS, ODD_TOOLS, SHAPES, TWO_ANSWERS, answer

OF_EACH = {"id", "model", "created"}


@pytest.fixture(scope="module")
def asked(serve_shared):
    """A client of the upstream, one of a gateway before it, and both of these."""
    with (
        serving(answer) as upstream,
        serve_shared(engine=lambda _: OpenAIEngine(upstream.url, "big")) as gateway,
        openai.OpenAI(base_url=upstream.url, api_key="x", max_retries=0) as direct,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as through,
    ):
        yield {"direct": direct, "through": through, "gateway": gateway, "upstream": upstream}


def told(value):
    """Every field with a value, but those that differ by nature."""
    if isinstance(value, dict):
        return {name: told(item) for name, item in value.items() if item is not None and name not in OF_EACH}
    return [told(item) for item in value] if isinstance(value, list) else value


def whole(client, shape):
    reply = client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": shape}])
    return reply.to_dict(warnings=False)


def streamed(client, shape, **fields):
    """All events put together as the client does it, and the fields around them."""
    state, around = ChatCompletionStreamState(), {}
    for chunk in client.chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": shape}], stream=True,
        stream_options={"include_usage": True}, **fields,
    ):  # fmt: skip
        around |= {name: value for name, value in chunk.to_dict(warnings=False).items() if value is not None}
        state.handle_chunk(chunk)
    return {**around, **state.current_completion_snapshot.to_dict(warnings=False)}


def forms_of(shapes):
    """Each shape whole and streamed, where it has that form."""
    forms = [(name, whole, shape.whole) for name, shape in shapes.items()]
    forms += [(name, streamed, shape.events) for name, shape in shapes.items()]
    return [pytest.param(name, form, id=f"{name}, {form.__name__}") for name, form, body in forms if body]


# Of the client, whose type for content is text.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("shape", "form"), forms_of(SHAPES))
def test_a_reply_of_any_shape_comes_through(asked, shape, form):
    assert told(form(asked["through"], shape)) == told(form(asked["direct"], shape))


@pytest.mark.parametrize("shape", TWO_ANSWERS)
def test_a_stream_of_two_answers_comes_through_in_its_order(asked, shape):
    assert told(streamed(asked["through"], shape, n=2)) == told(streamed(asked["direct"], shape, n=2))


@pytest.mark.slow
def test_the_official_npm_package_gets_equal_objects_too(asked, node_modules):
    forms = [json.dumps([name, "whole"]) for name, shape in SHAPES.items() if shape.whole is not None]
    forms += [json.dumps([name, "streamed"]) for name, shape in SHAPES.items() if shape.events]
    urls = (asked["upstream"].url, f"{asked['gateway'].url}/v1")
    command = ["node", str(Path(__file__).with_name("upstream_shapes.mjs")), str(node_modules), *urls, *forms]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["through"]) == set(forms)
    assert [form for form in forms if found["through"][form] != found["direct"][form]] == []


def calls(client, shape, form):
    (choice,) = form(client, shape)["choices"]
    return [
        {**told(call["function"]), "id": call["id"], "type": call["type"]} for call in choice["message"]["tool_calls"]
    ]


RIGHT = [{**call["function"], "type": "function"} for call in BOTH]


@pytest.mark.parametrize(("shape", "form"), forms_of({"tools": SHAPES["tools"], **ODD_TOOLS}))
def test_tool_calls_of_any_shape_are_numbered_named_logged_and_have_arguments_as_text(asked, shape, form):
    identified = [{**right, "id": call["id"]} for right, call in zip(RIGHT, BOTH, strict=True)]
    assert calls(asked["through"], shape, form) == identified
    record = asked["gateway"].records()[-1]
    logged = [{**call["function"], "type": call["type"], "id": call["id"]} for call in record.details["tool_calls"]]
    assert logged == identified
    assert record.first_token_ms is not None


@pytest.mark.parametrize(("shape", "form"), forms_of(NO_IDS))
def test_a_tool_call_without_an_id_gets_one_of_its_own(asked, shape, form):
    found = calls(asked["through"], shape, form)
    assert len({call.pop("id") for call in found}) == 2
    assert found == RIGHT


@pytest.mark.parametrize(("shape", "form"), forms_of(FAILURES))
def test_a_failure_of_any_shape_has_its_status_and_reason_and_is_logged_as_one(asked, shape, form):
    status, _, reason = shape.partition(": ")
    reason = "no room" if reason.startswith("error ") else reason
    with pytest.raises(openai.APIStatusError, match=re.escape(reason)) as caught:
        form(asked["through"].with_options(max_retries=0), shape)
    assert caught.value.status_code == int(status)
    record = asked["gateway"].records()[-1]
    assert (record.status, record.outcome) == (int(status), "error")
    assert reason in record.details["error"]
    assert record.input == shape


@pytest.fixture
def ask(asked):
    """Sends a body to the gateway, and returns the reply with the body that the upstream got."""
    gateway, upstream = asked["gateway"], asked["upstream"]

    def send(path="chat/completions", **fields):
        body = {"model": "tiny@1", **fields}
        reply = gateway.http.post(f"/v1/{path}", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json(), upstream.seen[-1].body

    return send


TEXT = {"role": "user", "content": "text"}
TURNS = [
    {"role": "assistant", "content": None, "refusal": "no"},
    {"role": "assistant", "content": "Well, ", "refusal": "no"},
    {"role": "assistant", "content": "42", "reasoning_content": "let me see"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "let me see"}], "closed": True},
            {"type": "text", "text": "42"},
        ],
    },
    {"role": "assistant", "content": "", "tool_calls": [{**BOTH[0], "extra_content": {"a": 1}}]},
    {"role": "assistant", "content": None, "tool_calls": [BOTH[0]]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_c", "type": "custom", "custom": {"name": "run", "input": "ls"}}],
    },
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": [{"type": "text", "text": "42", "annotations": [{"type": "url_citation"}]}]},
    {"role": "assistant", "content": [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "42"}]},
    {"role": "assistant", "content": "x", "audio": {"id": "audio_1"}},
    {"role": "user", "content": "hi", "name": "ann"},
]


@pytest.mark.parametrize("model", ["tiny@1", "assistant"])
def test_a_turn_of_history_reaches_an_upstream_as_it_is_and_refusal_parts_as_a_refusal(ask, model):
    named = {**TEXT, "name": "ann"}  # who survives the prompt of a release
    assert ask(model=model, messages=[named])[1]["messages"][-1] == named
    for turn in TURNS:
        assert ask(model=model, messages=[turn, TEXT])[1]["messages"][-2:] == [turn, TEXT]
    parts = [{"type": "text", "text": "Well, "}, {"type": "refusal", "refusal": "no"}]
    sent = ask(model=model, messages=[{"role": "assistant", "content": parts}, TEXT])[1]["messages"][-2]
    assert sent == {"role": "assistant", "content": "Well, ", "refusal": "no"}


def test_what_tools_said_follows_the_filled_template(asked, ask):
    called = {"role": "assistant", "content": None, "tool_calls": [BOTH[0]]}
    turns = [TEXT, called, {"role": "tool", "tool_call_id": BOTH[0]["id"], "content": "3"}]
    system, *others = ask(model="assistant", messages=turns, tools=PASSED_ON["tools"])[1]["messages"]
    assert (system["role"], others) == ("system", turns)
    assert asked["gateway"].records()[-1].input == TEXT["content"]


PASSED_ON = {
    "store": True, "service_tier": "flex", "metadata": {"a": "b"}, "user": "ann", "safety_identifier": "s",
    "prompt_cache_key": "p", "prompt_cache_retention": "24h", "reasoning_effort": "low", "verbosity": "low",
    "parallel_tool_calls": False, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "Hello"}, "web_search_options": {}, "logit_bias": {"7": 1.0},
    "tools": [{"type": "function", "function": {"name": "weather"}}], "logprobs": True, "top_logprobs": 2,
}  # fmt: skip


def test_what_a_request_asks_of_an_upstream_reaches_it(ask):
    # Also what is the default elsewhere: here it may not be.
    offered = {"tools": PASSED_ON["tools"], "tool_choice": "auto", "parallel_tool_calls": True}
    for sent in (PASSED_ON, offered):
        seen = ask(messages=[TEXT], **sent)[1]
        assert {name: seen.get(name) for name in sent} == sent
    for name in ("max_tokens", "max_completion_tokens"):  # by the name that the client used
        seen = ask(messages=[TEXT], **{name: 9})[1]
        assert {each: seen[each] for each in seen if each.startswith("max_")} == {name: 9}


def json_schema(schema, *, strict=True):
    return {"type": "json_schema", "json_schema": {"name": "a", "strict": strict, "schema": schema}}


def test_an_upstreams_answer_that_breaks_its_schema_comes_as_it_is_and_is_said(asked, ask):
    gateway, body = asked["gateway"], {"model": "tiny@1", "messages": [TEXT]}
    before = counted(gateway)
    for wanted, problem in (
        (json_schema({"type": "object"}), "it is not JSON"),
        (json_schema({"type": "object"}, strict=False), None),
        ({"type": "json_object"}, "it is not JSON"),
    ):
        reply = gateway.http.post("/v1/chat/completions", json={**body, "response_format": wanted})
        assert reply.json()["choices"][0]["message"]["content"] == "Hello"
        told = reply.headers.get("x-llmops-response-format"), gateway.records()[-1].details.get("off_format")
        assert told == (problem and "not-followed", problem)
    assert counted(gateway) == before + 2
    for shape in ("refusal", "tools", "cut off"):
        ask(messages=[{"role": "user", "content": shape}], response_format=json_schema({"type": "object"}))
        assert "off_format" not in gateway.records()[-1].details


def test_a_stream_that_breaks_its_schema_is_the_upstreams_own_and_is_logged(asked):
    wanted = {"response_format": json_schema({"type": "object"})}
    ours, theirs = (told(streamed(asked[client], "text", **wanted)) for client in ("through", "direct"))
    assert ours == theirs
    assert ours["choices"][0]["message"]["content"] == "Hello"
    assert asked["gateway"].records()[-1].details["off_format"] == "it is not JSON"


def counted(gateway):
    text = gateway.http.get("/metrics").text
    found = re.findall(r'^llmops_answers_with_total\{.*what="off_format".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def respond(ask, shape, **fields):
    return ask("responses", input=shape, **fields)[0]


@pytest.mark.parametrize("shape", ["reasoning_content", "reasoning", "thinking", "reasoning_details"])
def test_reasoning_by_any_name_is_a_reasoning_item_of_a_response(ask, shape):
    thought, said = respond(ask, shape)["output"]
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "let me see"}])
    assert said["content"][0]["text"] == "42"


def test_refusals_usage_details_citations_and_other_fields_are_in_a_response(ask):
    (item,) = respond(ask, "refusal")["output"]
    assert item["content"] == [{"type": "refusal", "refusal": "I can't do that"}]
    body = respond(ask, "fields of OpenRouter")
    assert body["usage"]["input_tokens_details"]["cached_tokens"] == 5
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == 3
    assert (body["usage"]["cost"], body["provider"]) == (0.25, "Someone")
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0, "end_index": 5}
    assert body["output"][0]["content"][0]["annotations"] == [citation]
    assert respond(ask, "usage null")["usage"] is None


@pytest.mark.parametrize("shape", ["refusal", "reasoning_content", "reasoning", "tools", "tools and text", "text"])
def test_a_streamed_response_adds_up_to_its_end(asked, shape):
    with asked["through"].responses.stream(model="assistant", input=shape) as events:
        kinds = [event.type for event in events]
        whole_one = events.get_final_response()
    again = asked["through"].responses.create(model="assistant", input=shape)
    assert contents(whole_one) == contents(again)
    assert kinds[-1] == "response.completed"


def contents(response):
    items = [item.to_dict(warnings=False) for item in response.output]
    kept = ("type", "content", "name", "arguments", "call_id")
    return [{name: told(item[name]) for name in kept if name in item} for item in items]


def test_what_a_response_said_can_be_sent_back_and_reaches_the_upstream(asked, ask):
    said = asked["through"].responses.create(model="assistant", input="reasoning_content").output
    back = [item.to_dict(warnings=False) for item in said]
    seen = ask("responses", input=[*back, {"role": "user", "content": "text"}])[1]
    assert seen["messages"][0] == {"role": "assistant", "content": "42", "reasoning_content": "let me see"}


SAID_BACK = {name: shape for name, shape in {**SHAPES, **ODD_TOOLS, **NO_IDS}.items() if shape.whole is not None}


@pytest.mark.parametrize("shape", SAID_BACK)
def test_what_a_server_said_can_be_sent_back_and_reaches_it_as_it_was(asked, ask, shape):
    said = whole(asked["through"], shape)["choices"][0]["message"]
    back = ask(messages=[{"role": "user", "content": "hi"}, said, TEXT])[1]["messages"][1]
    if shape == "content in parts":  # of text alone: every server takes that as one text
        said["content"] = "Hello"
    assert {**told(back), "annotations": []} == {**told(said), "annotations": []}
    assert back["content"] == said["content"]


@pytest.mark.parametrize("shape", SAID_BACK)
def test_what_a_response_of_any_shape_said_can_be_sent_back(asked, ask, shape):
    said = asked["through"].responses.create(model="tiny@1", input=shape).to_dict(warnings=False)["output"]
    assert ask("responses", input=[*said, {"role": "user", "content": "text"}])[0]["status"] == "completed"


def test_a_custom_call_of_a_response_and_its_result_reach_the_upstream(ask):
    call = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_c", "name": "run", "input": "ls"}
    result = {"type": "custom_tool_call_output", "call_id": "call_c", "output": "a.txt"}
    seen = ask("responses", input=[{"role": "user", "content": "text"}, call, result])[1]["messages"]
    assert seen[1]["tool_calls"] == [{"id": "call_c", "type": "custom", "custom": {"name": "run", "input": "ls"}}]
    assert seen[2] == {"role": "tool", "content": "a.txt", "tool_call_id": "call_c"}


def test_the_log_tells_refusal_reasoning_calls_usage_missing_answers_and_other_fields(asked, ask):
    def record(shape, **fields):
        ask(messages=[{"role": "user", "content": shape}], **fields)
        return asked["gateway"].records()[-1]

    assert record("refusal").details["refusal"] == "I can't do that"
    assert record("reasoning_details").details["reasoning"] == "let me see"
    assert [call["id"] for call in record("tools").details["tool_calls"]] == ["call_a", "call_b"]
    assert record("text").details["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    assert record("fields of OpenRouter").details["upstream"] == {"provider": "Someone", "system_fingerprint": "fp"}
    assert record("null finish").details["finish_reason"] is None
    partly = record("usage in part")
    assert (partly.tokens_in, partly.tokens_out) == (9, None)  # what nobody counted is null
    assert [choice["index"] for choice in ask(messages=[TEXT], n=3)[0]["choices"]] == [0]
    assert asked["gateway"].records()[-1].details["missing_answers"] == 2
    *events, _ = asked["gateway"].events(text="text", n=3)
    assert {choice["index"] for event in events for choice in event["choices"]} == {0}
