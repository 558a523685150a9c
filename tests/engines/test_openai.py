"""What is sent to an OpenAI-compatible server, and what its answers and refusals become."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import asdict, replace

import pytest

from llmops.engines.openai import OpenAIEngine
from llmops.engines.openai_format import identity
from llmops.engines.protocol import generate
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest, Usage
from tests.engines.upstream_server import HELLO, USAGE, delta, reply, sse, stream, whole

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "hello"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}


async def chunks_of(engine, request):
    return [chunk async for chunk in engine.stream(request)]


async def collect(chunks, seen):
    """Appends chunks as they come, so that those before a failure are there."""
    async for chunk in chunks:
        seen.append(chunk)


# ---- what is sent


async def test_the_request_is_what_openai_servers_take(engine, server, ask):
    result = {"role": "tool", "content": "3", "tool_call_id": "a"}
    messages = [{"role": "system", "content": "Be kind."}, USER, CALLED, result]
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    parameters = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["\n"], "seed": 3}
    parameters["response_format"] = schema
    await generate(engine, GenerationRequest(tuple(messages), ask(**parameters).parameters))
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert server.seen[0].body == {"model": "big", "messages": messages, **parameters, **streamed}


async def test_extras_and_headers_are_sent_as_they_are(engine, server, ask):
    extras = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "logit_bias": {"3": -100},
        "logprobs": True,
    }
    assert set(extras) <= engine.supported_extras
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await generate(engine, replace(ask(), extras=extras, headers={"traceparent": trace}))
    [seen] = server.seen
    assert {name: seen.body[name] for name in extras} == extras
    assert (seen.headers["traceparent"], seen.headers["content-type"]) == (trace, "application/json")
    # What is not set is not sent.
    assert not {"stop", "seed", "response_format"} & set(seen.body)
    assert "authorization" not in seen.headers


async def test_a_long_message_is_sent_whole(engine, server, ask):
    await generate(engine, ask("x" * 2_000_000))
    assert server.seen[0].text == "x" * 2_000_000


@pytest.mark.parametrize(
    "asked", [{"text": "\ud800"}, {"text": "hello", "seed": 10**30}], ids=["half a character", "a huge number"]
)
async def test_what_no_json_holds_is_rejected(engine, server, ask, asked):
    with pytest.raises(EngineRejected, match=r"^the request is no JSON: "):
        await generate(engine, ask(**asked))
    assert server.seen == []


async def test_the_key_is_read_from_the_named_variable_and_sent_as_bearer(connect, server, ask, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sesame\n")  # as files of keys end
    engine = connect(key_variable="UPSTREAM_KEY")
    await generate(engine, ask())
    assert server.seen[0].headers["authorization"] == "Bearer sesame"
    assert "sesame" not in json.dumps(asdict(engine.identity))


@pytest.mark.parametrize("value", [None, "", " \n", "two\nlines", "schlüssel"])
def test_a_key_that_is_missing_or_unusable_names_its_variable_only(monkeypatch, value):
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("UPSTREAM_KEY", value)
    with pytest.raises(EngineUnavailable) as caught:
        OpenAIEngine("http://host/v1", "big", key_variable="UPSTREAM_KEY")
    assert str(caught.value) == "http://host/v1: the environment variable UPSTREAM_KEY holds no key"


def test_the_identity_is_known_before_connecting():
    engine = OpenAIEngine("http://host/v1/", "big", slots=3)
    assert engine.identity == identity("http://host/v1", "big") == identity("http://host/v1/", "big")
    assert engine.identity != identity("http://host/v1", "small")
    assert engine.slots == 3


# ---- whole answers


async def test_an_answer_that_nobody_reads_early_is_asked_for_whole_unless_a_setting_streams_always(
    engine, connect, server, ask, ask_whole
):
    assert await chunks_of(engine, ask_whole()) == [Chunk("Hello", "stop", Usage(5, 2))]
    assert not {"stream", "stream_options"} & set(server.seen[0].body)
    streamed = await chunks_of(connect(stream_always=True), ask_whole())
    assert [chunk.text for chunk in streamed] == ["Hel", "lo", ""]
    assert server.seen[1].body["stream"] is True
    server.behave = reply(200, whole())  # a server may not stream all the same
    assert await chunks_of(engine, ask()) == [Chunk("Hello", "stop", Usage(5, 2))]


async def test_several_whole_answers_are_chunks_of_which_the_last_has_usage(engine, server, ask_whole):
    choices = [
        {"index": 1, "message": {"content": "one"}, "finish_reason": "length"},
        {"index": 0, "message": {"content": "zero"}, "finish_reason": "stop"},
    ]
    server.behave = reply(200, {"choices": choices, "usage": USAGE})
    chunks = await chunks_of(engine, ask_whole(extras={"n": 2}))
    assert chunks == [Chunk("one", "length", None, 1), Chunk("zero", "stop", Usage(5, 2), 0)]
    assert server.seen[0].body["n"] == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "a reply that is not JSON"),
        (b"\xff\xfe", "a reply that is not JSON"),
        (b"[" * 100_000, "a reply that is not flat enough"),
        (b"", "a reply that is not JSON"),
        ([1], "a reply that is not an object"),
        ({}, "sent no answer"),
        ({"choices": {"a": 1}}, "choices that is no list of objects"),
        ({"choices": [3]}, "choices that is no list of objects"),
        (whole(usage=3), "usage that is no object"),
        (whole(usage={"prompt_tokens": "five"}), "usage.prompt_tokens = five, which is no number of tokens"),
        (whole(text=["Hello"]), "content that is no list of objects"),
        ({"choices": [{"message": "Hello", "finish_reason": "stop"}]}, "message that is no object"),
        ({"choices": [{"message": {"tool_calls": 3}, "finish_reason": "stop"}]}, "a tool call that is no object"),
        ({"choices": [{"message": {}, "logprobs": 3, "finish_reason": "stop"}]}, "logprobs that is no object"),
        ({"choices": [{"message": {}, "index": "one", "finish_reason": "stop"}]}, "an answer of index one where"),
        ({"choices": [{"message": {}, "finish_reason": "abort"}]}, "gave the answer up: finish_reason 'abort'"),
    ],
)
async def test_a_whole_reply_of_garbage_is_an_engine_error(engine, server, ask_whole, body, problem):
    server.behave = reply(200, body)
    with pytest.raises(EngineError, match=problem):
        await generate(engine, ask_whole())


# ---- streams


async def test_answers_side_by_side_finish_each_and_only_the_last_chunk_has_usage(engine, server, ask):
    asked = replace(ask(), extras={"n": 2})
    events = [delta("a", index=0), delta("b", index=1), delta(None, "stop", index=0)]
    ending = [delta("c", index=1), delta(None, "length", index=1), {"choices": [], "usage": USAGE}, "[DONE]"]
    server.behave = stream(sse(*events, *ending))
    chunks = await chunks_of(engine, asked)
    assert [(chunk.text, chunk.finish_reason, chunk.usage, chunk.index) for chunk in chunks] == [
        ("a", None, None, 0),
        ("b", None, None, 1),
        ("c", None, None, 1),
        ("", "stop", None, 0),
        ("", "length", Usage(5, 2), 1),
    ]
    server.behave = stream(sse(*events))  # without the end of one of them
    with pytest.raises(EngineUnavailable, match="the stream ended before the answer did"):
        await generate(engine, asked)


async def test_tool_calls_and_logprobs_come_as_the_server_sends_them(engine, server, ask):
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    entry = {"token": "Hi", "logprob": -0.5}
    spoken = delta("Hi")
    spoken["choices"][0]["logprobs"] = {"content": [entry], "refusal": None}
    server.behave = stream(sse(spoken, delta(None, tool_calls=[call]), delta(None, "tool_calls"), "[DONE]"))
    chunks = await chunks_of(engine, ask())
    assert [(chunk.text, chunk.logprobs, chunk.tool_calls, chunk.finish_reason, chunk.usage) for chunk in chunks] == [
        ("Hi", [entry], (), None, None),
        ("", (), [call], None, None),
        ("", (), [{"index": 0, "function": {"arguments": "{}"}}], None, None),  # none were sent
        ("", (), (), "tool_calls", Usage(None, None)),
    ]


async def test_text_in_the_event_of_the_finish_is_not_kept_back(engine, server, ask):
    server.behave = stream(sse(delta("Hi", "stop")), 60)
    async with aclosing(engine.stream(ask())) as chunks:
        assert await asyncio.wait_for(anext(chunks), 5) == Chunk("Hi")


TRAILING = {**delta(""), "usage": USAGE}  # as some gateways send their usage


@pytest.mark.parametrize(
    ("events", "text", "reason", "usage"),
    [
        (HELLO, "Hello", "stop", Usage(5, 2)),
        ([delta("Hi"), delta(None, "stop"), delta(None, "stop"), TRAILING, "[DONE]"], "Hi", "stop", Usage(5, 2)),
        ([delta("Hi", "length")], "Hi", "length", Usage(None, None)),
        *(([delta("Hi"), done], "Hi", None, Usage(None, None)) for done in ("[DONE]", "[DONE] ", "[DONE]\r")),
    ],
)
async def test_a_stream_ends_once_and_what_it_does_not_tell_is_unknown(
    engine, server, ask, events, text, reason, usage
):
    server.behave = stream(sse(*events))
    answer = await generate(engine, ask())
    assert (answer.text, answer.finish_reason, answer.usage) == (text, reason, usage)
    chunks = await chunks_of(engine, ask())
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


async def test_pieces_that_arrive_together_say_that_another_follows(engine, server, ask):
    server.behave = stream(sse(delta("one"), delta("two"), delta("three")), 0.05, sse(*HELLO[2:]))
    chunks = await chunks_of(engine, ask())
    assert [(chunk.text, chunk.more) for chunk in chunks] == [
        ("one", True), ("two", True), ("three", False), ("", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (b'event: error\ndata: {"error": {"message": "no memory"}}', r"^the upstream failed: no memory$"),
        (b"data: {not json", "not JSON"),
    ],
)
async def test_what_came_before_an_error_or_a_broken_event_is_given_out(engine, server, ask, event, problem):
    server.behave = stream(sse(delta("one"), delta("two")) + event + b"\n\n")
    seen = []
    with pytest.raises(EngineError, match=problem):
        await collect(engine.stream(ask()), seen)
    assert [(chunk.text, chunk.more) for chunk in seen] == [("one", True), ("two", False)]


@pytest.mark.parametrize(
    "garbage",
    [
        "{",
        "[1]",
        "3",
        '{"choices": {"a": 1}}',
        '{"choices": [3]}',
        '{"choices": [{"delta": 3}]}',
        '{"choices": [{"delta": {"content": 3}}]}',
        '{"choices": [], "usage": 3}',
        '{"choices": [], "usage": {"prompt_tokens": 18446744073709551615}}',
        '{"choices": [{"delta": {"new": ' + "[" * 500 + "]" * 500 + "}}]}",
        '{"choices": [{"delta": {"tool_calls": {"a": 1}}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"function": "f"}]}}]}',
        '{"choices": [{"delta": {}, "finish_reason": {"type": "stop"}}]}',
    ],
)
async def test_an_event_of_garbage_is_an_engine_error(engine, server, ask, garbage):
    server.behave = stream(sse(delta("Hel"), garbage, *HELLO))
    with pytest.raises(EngineError, match=r"^the upstream sent .*(is|are) (no|not) ") as caught:
        await generate(engine, ask())
    assert caught.value.reason == str(caught.value)


# ---- refusals


NO = {"message": "no", "param": "seed"}


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        *((status, NO, EngineRejected) for status in (400, 413, 422)),
        *((status, NO, EngineUnavailable) for status in (307, 401, 402, 403, 404, 405, 407, 429, 503)),
        (502, "<html>Bad Gateway</html>", EngineUnavailable),
        (408, NO, EngineTimeout),
        (504, NO, EngineTimeout),
        (500, NO, EngineError),
        (500, "not json", EngineError),
        (500, "[1]", EngineError),
        (400, '{"error": "flat text"}', EngineRejected),
        (400, {"message": "too long", "code": "context_length_exceeded"}, ContextTooLong),
        (400, {"message": "too long", "code": 400, "type": "exceed_context_size_error"}, ContextTooLong),
        *(
            (400, {"message": f"{words}: too long", "type": "BadRequestError", "code": 400}, ContextTooLong)
            for words in (
                "This model's maximum context length is 16384 tokens",
                "The input (61709 tokens) is longer than the model's context length (40960 tokens)",
                "The decoder prompt (length 10127) is longer than the maximum model length of 8192",
            )
        ),
    ],
)
async def test_a_refusal_becomes_the_error_of_its_status(engine, server, ask, status, error, kind):
    body = error.encode() if isinstance(error, str) else {"error": error}
    server.behave = reply(status, body, "location: /elsewhere\r\n" if status == 307 else "")
    with pytest.raises(EngineError, match=f"^upstream answered {status}: ") as caught:
        await generate(engine, ask())
    assert type(caught.value) is kind
    assert len(server.seen) == 1  # a redirect is not followed
    if isinstance(caught.value, EngineRejected):
        assert str(caught.value).endswith(("no", "flat text", "too long"))
        assert caught.value.param == {"too long": "messages", "no": "seed"}.get(str(caught.value).rpartition(": ")[2])
    if kind is EngineUnavailable:  # what is wrong with our account or address is no fault of the request
        assert caught.value.lasting is (status not in (429, 502, 503))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_upstream_says_when_to_come_back(engine, server, ask, status):
    for headers, seconds in (("retry-after: 7\r\n", 7.0), ("retry-after: soon\r\n", None), ("", None)):
        server.behave = reply(status, {"error": NO}, headers)
        with pytest.raises(EngineUnavailable) as caught:
            await generate(engine, ask())
        assert caught.value.retry_after == seconds
