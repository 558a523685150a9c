import json

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import ContextTooLong, EngineError, EngineRejected
from llmops.generation import EXTRAS, Chunk, Usage
from llmops.traffic_policy import TrafficPolicy
from tests.at_once import wait_until
from tests.service.conftest import assert_refused, events_of, release


def respond(gateway, **fields):
    return gateway.http.post("/v1/responses", json={"model": "assistant", **fields})


def text_of(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["output"][0]["content"][0]["text"]


def seen(gateway, model="tiny@1"):
    return [(m["role"], m["content"]) for m in gateway.engines[model].requests[-1].messages]


def events(reply):
    names = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
    data = events_of(reply)
    assert [item["type"] for item in data] == names
    return data


def test_text_in_text_out(shared_gateway):
    reply = respond(shared_gateway, input="hello world", metadata={"k": "v"}, user="u")
    body = reply.json()
    assert text_of(reply) == "You said: hello world"
    assert reply.headers["x-llmops-release"] == "assistant@1"
    assert (body["metadata"], body["user"], body["store"]) == ({"k": "v"}, "u", False)


def test_items_are_the_conversation_and_instructions_a_system_message(shared_gateway):
    turns = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "fi"}, {"type": "input_text", "text": "rst"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "yes?", "annotations": [], "logprobs": []}]},
        {"role": "user", "content": "second"},
    ]  # fmt: skip
    assert text_of(respond(shared_gateway, model="tiny@1", input=turns, instructions="Be brief.")) == "You said: second"
    assert seen(shared_gateway) == [
        ("system", "Be brief."), ("system", "Be kind."), ("user", "first"), ("assistant", "yes?"), ("user", "second"),
    ]  # fmt: skip


def test_parameters_reach_the_engine(serve):
    schema = {"type": "object", "properties": {"a": {"const": None}}}
    asked = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    with serve(engine=lambda _: FakeEngine(lambda _: '{"a": null}')) as gateway:
        reply = respond(gateway, input="x", max_output_tokens=7, top_p=0.5, text={"format": asked})
        parameters = gateway.engines["tiny@1"].requests[-1].parameters
    assert (parameters.max_tokens, parameters.top_p) == (7, 0.5)
    assert parameters.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    assert reply.json()["text"]["format"] == asked


def test_what_an_engine_refuses_is_told_of_its_place_in_this_body(serve):
    place = "schema.properties.a.uniqueItems"
    refusal = EngineRejected(f"response_format.json_schema.{place}: no", param=f"response_format.json_schema.{place}")
    asked = {"type": "json_schema", "name": "answer", "schema": {"properties": {"a": {"uniqueItems": True}}}}
    failures = iter([refusal, ContextTooLong("too long"), ContextTooLong("too long")])

    def fail(_):
        raise next(failures)

    with serve(engine=lambda _: FakeEngine(script=fail)) as gateway:
        error = respond(gateway, input="x", text={"format": asked}).json()["error"]
        assert (error["param"], error["message"]) == (f"text.format.{place}", f"text.format.{place}: no")
        for stream in (False, True):
            error = respond(gateway, input="x", stream=stream).json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_a_cut_answer_is_incomplete(shared_gateway):
    body = respond(shared_gateway, input="hello world", max_output_tokens=2).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert events(respond(shared_gateway, input="x", max_output_tokens=2, stream=True))[-1]["type"] == (
        "response.incomplete"
    )


def test_a_stream_is_of_named_events_and_has_no_other_end(shared_gateway):
    reply = respond(shared_gateway, input="hello world", stream=True, stream_options={"include_obfuscation": False})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert events(reply)[-1]["type"] == "response.completed"
    assert "[DONE]" not in reply.text


# Registered prompts


@pytest.fixture(scope="module")
def prompts(serve_shared):
    """qa@1 and qa@3 in releases of their own, qa@2 in the champion."""
    releases = [release(1), release(2, "champion", temperature=0.5), release(3, tone="polite")]
    with serve_shared(*releases) as gateway:
        yield gateway


@pytest.mark.parametrize("version", ["3", 3])
def test_a_prompt_and_its_variables_are_served_by_the_model_named(prompts, version):
    variables = {"question": "why?", "tone": {"type": "input_text", "text": "polite"}}
    variables["tone"] = [variables["tone"]]
    prompt = {"id": "qa", "version": version, "variables": variables}
    reply = respond(prompts, model="tiny@1", prompt=prompt)
    assert text_of(reply) == "You said: polite: why?"
    assert seen(prompts)[0] == ("system", "Answer as release 3.")
    assert (reply.headers["x-llmops-prompt"], reply.headers["x-llmops-model"]) == ("qa@3", "tiny@1")
    assert "x-llmops-release" not in reply.headers
    told = reply.json()["prompt"]
    assert (reply.json()["model"], told["id"], told["version"]) == ("tiny@1", "qa", "3")
    record = prompts.records()[-1]
    assert (record.release, record.prompt, record.model) == (None, "qa@3", "tiny@1")
    del variables["question"]  # which the input may fill
    assert text_of(respond(prompts, model="tiny@1", prompt=prompt, input="when?")) == "You said: polite: when?"
    assert record.details["parameters"]["max_tokens"] == 64


def test_a_version_that_the_named_release_uses_is_that_release_and_without_one_an_app_serves_its_own(prompts):
    prompt = {"id": "qa", "variables": {"question": "why?"}}
    for named in ({}, {"model": None}, {"prompt": {**prompt, "version": "2"}}):
        assert respond(prompts, **{"prompt": prompt, **named}).headers["x-llmops-release"] == "assistant@2"
    reply = respond(prompts, prompt={**prompt, "version": "1"})
    assert "x-llmops-release" not in reply.headers
    assert (reply.headers["x-llmops-prompt"], reply.headers["x-llmops-model"]) == ("qa@1", "tiny@2")
    # A model is served with the newest.
    assert respond(prompts, prompt=prompt, model="tiny@1").json()["error"]["param"] == "prompt.variables.tone"


def test_without_a_version_a_canary_still_routes(serve):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(canary=1.0))
        asked = {"prompt": {"id": "qa", "variables": {"question": "why?"}}}
        wait_until(lambda: respond(gateway, **asked).headers["x-llmops-release"] == "assistant@2")


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"prompt": {"id": "nothing"}}, 404, "prompt.id", "known: qa"),
        ({"prompt": {"id": "qa", "version": "9"}}, 404, "prompt.version", "qa@1, qa@2, qa@3"),
        ({"prompt": {"id": "qa", "version": "newest"}}, 404, "prompt.version", "qa@1"),
        ({"prompt": {"id": "qa"}}, 400, "input", "needed, or prompt.variables.question"),
        ({"prompt": {"id": "qa", "variables": {"question": "a"}}, "input": "b"}, 400, "prompt.variables.question",
         "filled by the last user message"),
        ({"prompt": {"id": "qa", "variables": {"mood": "a"}}, "input": "b"}, 400, "prompt.variables.mood", "no such"),
        ({"prompt": {"id": "other"}, "model": None}, 400, "model", "no champion uses"),
        ({"prompt": {"id": "qa", "variables": {"question": 1}}}, 400, "prompt.variables.question", "string"),
        ({"model": None, "input": "x"}, 400, "model", "needed"),
        ({}, 400, "input", "needed, or prompt"),
        ({"input": [{"role": "assistant", "content": "x"}]}, 400, "input", "the last message must be the user's"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "text": "x"}]}]}, 400,
         "input[0].content[0].type", "input_text"),
        ({"input": [{"role": "user"}]}, 400, "input[0].content", "required"),
        ({"input": 3}, 400, "input", "string"),
        ({"input": "x", "model": "nobody"}, 404, "model", "does not exist"),
        ({"input": "x", "store": True}, 400, "store", "not supported"),
        ({"input": "x", "previous_response_id": "resp_1"}, 400, "previous_response_id", "earlier turns in input"),
        ({"input": "x", "background": True}, 400, "background", "not supported"),
        ({"input": "x", "conversation": "c"}, 400, "conversation", "not supported"),
        ({"input": "x", "reasoning": {"effort": "high"}}, 400, "reasoning.effort", "cannot honour"),
        ({"input": "x", "reasoning": {"summary": "auto"}}, 400, "reasoning.summary", "not supported"),
        ({"input": "x", "text": {"verbosity": "low"}}, 400, "text.verbosity", "cannot honour"),
        ({"input": "x", "include": ["file_search_call.results"]}, 400, "include", "only message.output_text.logprobs"),
        ({"input": "x", "truncation": "auto"}, 400, "truncation", "only disabled"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, 400, "tools[0].type", "function"),
        ({"input": "x", "tools": [{"type": "function", "name": "f"}]}, 400, "tools", "cannot honour"),
        ({"input": "x", "top_logprobs": 2}, 400, "include", "cannot honour"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "name": "x"}}}, 400, "text.format", "schema"),
        ({"input": "x", "max_output_tokens": 0}, 400, "max_output_tokens", "greater than"),
        ({"input": "x", "messages": []}, 400, "messages", "unknown field"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(prompts, fields, status, param, words):
    assert_refused(respond(prompts, **fields), param, words, status)


def test_fields_that_change_nothing_are_taken(prompts):
    nothing = dict.fromkeys(("conversation", "previous_response_id", "reasoning", "max_tool_calls", "truncation"))
    fields = {"store": False, "background": False, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    more = {"service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s", "include": [], "top_logprobs": 0}
    assert respond(prompts, input="x", **nothing, **fields, **more).status_code == 200
    assert prompts.engines["tiny@2"].requests[-1].extras == {}
    assert prompts.records()[-1].details["user"] == "s"


# Tool calls


def calling(_):
    def call(**fields):
        return [{"index": 0, **fields}]

    script = [
        Chunk("Let me see."),
        Chunk("", tool_calls=call(id="call_1", type="function", function={"name": "weather", "arguments": '{"city"'})),
        Chunk("", tool_calls=call(function={"arguments": ': "Bern"}'})),
        Chunk("", "tool_calls", Usage(1, 9)),
    ]
    return FakeEngine(script=lambda _: script, supported_extras=EXTRAS)


TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}]


def test_tools_and_what_they_said_reach_the_engine(serve):
    turns = [
        {"role": "user", "content": "weather?"},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "[]"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "rain"}]},
    ]
    choice = {"type": "function", "name": "weather"}
    with serve(engine=calling) as gateway:
        reply = respond(gateway, input=turns, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
        assert reply.status_code == 200, reply.text
        request = gateway.engines["tiny@1"].requests[-1]
    assert request.extras == {
        "tools": [
            {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
    }
    calls, *answers = request.messages[-3:]
    assert [call["id"] for call in calls["tool_calls"]] == ["call_1", "call_2"]
    assert [(m["role"], m["tool_call_id"], m["content"]) for m in answers] == [
        ("tool", "call_1", "sun"), ("tool", "call_2", "rain"),
    ]  # fmt: skip


def test_calls_come_as_items_and_in_events(serve):
    with serve(engine=calling) as gateway:
        message, call = respond(gateway, input="weather?", tools=TOOLS).json()["output"]
        assert message["content"][0]["text"] == "Let me see."
        assert (call["type"], call["call_id"], call["name"]) == ("function_call", "call_1", "weather")
        assert json.loads(call["arguments"]) == {"city": "Bern"}
        told = events(respond(gateway, input="weather?", tools=TOOLS, stream=True))
    deltas = [event for event in told if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(event["delta"] for event in deltas) == '{"city": "Bern"}'
    assert {event["output_index"] for event in deltas} == {1}
    assert told[-1]["type"] == "response.completed"
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["message", "function_call"]
    assert told[-1]["response"]["output"][1]["id"] == deltas[0]["item_id"]


def test_logprobs_come_with_the_text_and_an_empty_answer_is_still_a_message(serve):
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    asked = {"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 1}

    def script(request):
        return [*([Chunk("a", logprobs=[entry])] if request.extras else []), Chunk("", "stop", Usage(1, 1))]

    with serve(engine=lambda _: FakeEngine(script=script, supported_extras=EXTRAS)) as gateway:
        assert respond(gateway, **asked).json()["output"][0]["content"][0]["logprobs"] == [entry]
        delta = next(e for e in events(respond(gateway, **asked, stream=True)) if e["type"].endswith("text.delta"))
        assert delta["logprobs"] == [entry]
        assert gateway.engines["tiny@1"].requests[-1].extras == {"logprobs": True, "top_logprobs": 1}
        assert text_of(respond(gateway, input="x")) == ""
        begun = [event["type"] for event in events(respond(gateway, input="x", stream=True))][2:4]
    assert begun == ["response.output_item.added", "response.content_part.added"]


# Errors


def test_an_error_in_mid_stream_ends_the_stream_with_an_event(serve):
    def breaking(_):
        yield Chunk("one")
        raise EngineError("secret")

    with serve(engine=lambda _: FakeEngine(script=breaking)) as gateway:
        reply = respond(gateway, input="x", stream=True)
        last = events(reply)[-1]
        assert (last["type"], last["code"], last["error"]["code"]) == ("error", "engine_error", "engine_error")
        assert "secret" not in reply.text
        assert gateway.records()[0].status == 502
