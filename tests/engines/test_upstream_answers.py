"""What becomes of an upstream's answer where nobody streams it on: in an evaluation, and between several upstreams."""

import gzip
import json
import zlib

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import adapt_request, generate
from llmops.engines.upstreams import Upstream, UpstreamsEngine
from llmops.errors import EngineError, EngineRejected
from llmops.evaluation.generating import Job, answer
from llmops.evaluation.results import AnswerCounts
from llmops.generation import EXTRAS, HINTS, GenerationParameters, GenerationRequest
from llmops.json_schema import ROOT
from tests.engines.upstream_server import HELLO, UpstreamServer, delta, raw, reply, sse, stream
from tests.engines.upstream_server import whole as said
from tests.engines.upstream_shapes import BOTH
from tests.engines.upstream_shapes import answer as by_name
from tests.engines.upstream_shapes import message as shaped

pytestmark = pytest.mark.anyio


def named(shape: str, *, whole: bool) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": shape},), whole=whole)


@pytest.mark.parametrize("whole", [False, True])
async def test_an_evaluations_output_has_refusal_reasoning_tool_calls_and_what_is_unknown(server, connect, whole):
    server.behave = by_name
    engine, shapes = connect(stream_always=not whole), {}
    for shape in ("refusal", "reasoning_details", "tools", "null finish", "usage in part", "text", "empty"):
        shapes[shape] = await answer(engine, Job(None, named(shape, whole=True), "key"))
    refused, thought, called, unsaid, uncounted, text, _ = shapes.values()
    assert (refused.text, refused.refusal, refused.error) == ("", "I can't do that", None)
    assert (thought.text, thought.reasoning) == ("42", "let me see")
    assert [call["function"] for call in called.tool_calls] == [call["function"] for call in BOTH]
    assert (unsaid.text, unsaid.finish_reason) == ("Hello", None)
    assert (uncounted.tokens_in, uncounted.tokens_out) == (9, None)
    assert text.tool_calls is None
    # A refusal and a tool call are no empty answers.
    assert AnswerCounts.of(list(shapes.values())).empty == 1


REFUSED = [{"type": "refusal", "refusal": "I can't"}]
NOW = {"id": "call_a", "type": "function", "function": {"name": "now"}}
OLDER = {"name": "weather", "arguments": {"city": "Oslo"}}
THINKING = [{"type": "thinking", "thinking": [{"type": "text", "text": "let me see"}]}]


@pytest.mark.parametrize("whole", [False, True])
async def test_parts_of_a_content_and_calls_of_any_form_are_understood(server, engine, whole):
    def says(content: object, *pieces: object, **more: object):
        events = (delta(content, role="assistant", **more), *pieces, delta(None, "stop"), "[DONE]")
        return reply(200, shaped(content, **more)) if whole else stream(sse(*events))

    server.behave = says(REFUSED)
    refused = await answer(engine, Job(None, named("x", whole=whole), "key"))
    assert (refused.text, refused.refusal) == ("", "I can't")
    server.behave = says(None, tool_calls=[{"index": 0, **NOW}])
    called = await generate(engine, named("x", whole=whole))
    assert called.tool_calls == [{**NOW, "function": {"name": "now", "arguments": "{}"}}]
    server.behave = says(None, function_call=OLDER)
    chunks = [chunk async for chunk in engine.stream(named("x", whole=whole))]
    assert chunks[0].extra_fields.delta["function_call"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    if not whole:
        server.behave = says(THINKING, delta("4"), delta("2"))
        thought = await generate(engine, named("x", whole=whole))
        assert (thought.text, thought.reasoning) == ("42", "let me see")


@pytest.mark.parametrize(("tokens_in", "tokens_out", "thought"), [(11.0, 7, 3.0), ("11", "7", "3")])
async def test_counts_written_with_a_point_or_as_text_are_whole_numbers(server, engine, tokens_in, tokens_out, thought):
    details = {"completion_tokens_details": {"reasoning_tokens": thought}}
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, **details}
    server.behave = reply(200, shaped("x", usage=usage))
    made = await generate(engine, named("x", whole=True))
    assert (made.usage.tokens_in, made.usage.tokens_out) == (11, 7)
    assert str(made.usage.reported["completion_tokens_details"]) == "{'reasoning_tokens': 3}"


async def test_until_something_was_said_another_upstream_is_asked(server, connect):
    begun = stream(sse(delta("", role="assistant"), {"error": {"message": "out of memory"}}))
    async with UpstreamServer(begun) as failing:
        engine = UpstreamsEngine([Upstream(connect(url), url) for url in (failing.url, server.url)])
        texts = {(await generate(engine, named("text", whole=False))).text for _ in range(3)}
        assert (texts, len(failing.seen) > 0) == ({"Hello"}, True)


def test_an_engine_passes_over_hints_and_refuses_other_extras_by_name():
    engine = FakeEngine(supported_extras=frozenset({"n"}))
    messages = ({"role": "user", "content": "hi"},)
    hinted = GenerationRequest(messages, extras={"n": 2, **dict.fromkeys(HINTS, "x")})
    assert adapt_request(hinted, engine, of="tiny@1").extras == {"n": 2}
    for name in EXTRAS - HINTS - {"n"}:
        with pytest.raises(EngineRejected, match=name) as caught:
            adapt_request(GenerationRequest(messages, extras={name: 1}), engine, of="tiny@1")
        assert caught.value.param == name


@pytest.mark.parametrize(("kind", "problem"), [("integer", f"it breaks {ROOT}.type"), ("object", None)])
async def test_the_row_of_an_evaluation_says_that_an_upstream_broke_the_schema(server, engine, kind, problem):
    schema = {"name": "a", "strict": True, "schema": {"type": kind}}
    parameters = GenerationParameters(response_format={"type": "json_schema", "json_schema": schema})
    server.behave = reply(200, shaped('{"a": 1}'))
    request = GenerationRequest(({"role": "user", "content": "x"},), parameters, whole=True)
    made = await answer(engine, Job(None, request, "key"))
    assert (made.text, made.off_format) == ('{"a": 1}', problem)


def sent(body: bytes, *headers: str) -> bytes:
    """A reply on the wire, its end told by that of the connection."""
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + body


WHOLE = json.dumps(said()).encode()
STREAMED = sse(*HELLO)
SSE, JSON = "content-type: text/event-stream", "content-type: application/json"
HALVES = WHOLE.replace(b"Hello", b"Hello \\ud83d\\ude00 \\ud83d.")
SPLIT = sse(delta("Hello "), delta("\ud83d"), delta("\ude00 \ud83d"), delta("."), delta(None, "stop"), "[DONE]")
FACES = "Hello \U0001f600 \ufffd."

SLOPPY: dict[str, tuple[bytes, str]] = {
    "a byte order mark before JSON": (sent(b"\xef\xbb\xbf" + WHOLE, JSON), "Hello"),
    "a byte order mark before events": (sent(b"\xef\xbb\xbf" + STREAMED, SSE), "Hello"),
    "half of a character": (sent(HALVES, JSON), FACES),
    "a character over two events": (sent(SPLIT, SSE), FACES),
    "bytes that are no character": (sent(WHOLE.replace(b"Hello", b"Hell\xff"), JSON), "Hell\ufffd"),
    "numbers that are not finite": (
        sent(WHOLE.replace(b'"index": 0', b'"index": 0, "score": -Infinity'), JSON),
        "Hello",
    ),
    "blank lines before and behind": (sent(b"\n\n \r\n" + WHOLE + b" \n\n", JSON), "Hello"),
    "no content type, whole": (sent(WHOLE), "Hello"),
    "no content type, streamed": (sent(STREAMED), "Hello"),
    "JSON called text": (sent(WHOLE, "content-type: text/plain"), "Hello"),
    "JSON called a stream": (sent(WHOLE, SSE), "Hello"),
    "a stream called JSON": (sent(STREAMED, JSON), "Hello"),
    "gzip": (sent(gzip.compress(WHOLE), JSON, "content-encoding: gzip"), "Hello"),
    "gzip of a stream": (sent(gzip.compress(STREAMED), SSE, "content-encoding: gzip"), "Hello"),
    "deflate": (sent(zlib.compress(WHOLE), JSON, "content-encoding: deflate"), "Hello"),
    "comments and names": (
        sent(STREAMED.replace(b"data:", b": ping\nevent: chunk\nid: 1\nretry: 9\ndata:"), SSE),
        "Hello",
    ),
    "no blank line at the end": (sent(STREAMED.rstrip(), SSE), "Hello"),
    "no line at the end, nor a finish": (sent(sse(delta("Hello"), "[DONE]").rstrip(), SSE), "Hello"),
    "[DONE] twice": (sent(STREAMED + b"data: [DONE]\n\n", SSE), "Hello"),
    "a long header": (sent(WHOLE, JSON, "content-security-policy: " + "a" * 20_000), "Hello"),
    "status 201": (sent(WHOLE, JSON).replace(b"200 OK", b"201 Created"), "Hello"),
    "a number as text": (sent(WHOLE.replace(b'"index": 0', b'"index": "0"'), JSON), "Hello"),
    "content as an object": (sent(WHOLE.replace(b'"Hello"', b'{"a": 1}'), JSON), '{"a":1}'),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("reply", "text"), SLOPPY.values(), ids=SLOPPY)
async def test_what_a_tolerant_client_takes_is_an_answer(server, engine, reply, text, whole):
    server.behave = raw(reply)
    assert (await generate(engine, named("x", whole=whole))).text == text


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html><body>Welcome</body></html>", "a reply that is not JSON"),
        (b"data: <p>\n\n", "an event that is not JSON"),
        (b'data: {"choices": [{"delta": {"content": "Hel', "the stream ended before the answer did"),
    ],
)
async def test_what_no_client_takes_is_refused_by_name(server, engine, body, problem):
    server.behave = raw(sent(body, "content-type: text/html"))
    with pytest.raises(EngineError, match=problem):
        await generate(engine, named("x", whole=False))


REASONING = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
    "top_p": "Unsupported parameter: 'top_p' is not supported with this model.",
    "stream_options": "stream_options: Extra inputs are not permitted",
}


def refusing(refused: dict[str, str]):
    """An upstream that refuses fields by these words."""

    async def behave(seen, send) -> bool:
        for name, message in refused.items():
            if name in seen.body:
                return await reply(400, {"error": {"message": message, "param": name}})(seen, send)
        return await (stream(STREAMED) if seen.body.get("stream") else reply(200, said()))(seen, send)

    return behave


async def test_fields_that_a_server_does_not_know_are_sent_by_another_name_or_left_out_from_then_on(server, engine):
    server.behave = refusing(REASONING)
    texts = [(await generate(engine, named("x", whole=whole))).text for whole in (False, True)]
    assert texts == ["Hello", "Hello"]
    assert len(server.seen) == 3 + 1 + 1
    for seen in server.seen[-2:]:
        assert seen.body["max_completion_tokens"] == 256
        assert not seen.body.keys() & {"max_tokens", "top_p", "stream_options"}


async def test_the_newer_name_of_the_most_tokens_is_exchanged_for_the_older_one(server, engine):
    server.behave = refusing({"max_completion_tokens": "unknown field max_completion_tokens"})
    request = GenerationRequest(named("x", whole=True).messages, extras={"max_completion_tokens": 256}, whole=True)
    assert (await generate(engine, request)).text == "Hello"
    assert server.seen[-1].body["max_tokens"] == 256


@pytest.mark.parametrize(
    "refused",
    [
        {"temperature": "Unsupported value: 'temperature' does not support 0 with this model."},
        {"max_tokens": "max_tokens is too large: 256"},
        {name: f"{name} is not supported" for name in ("max_tokens", "max_completion_tokens")},
    ],
)
async def test_what_changes_the_answer_is_not_left_out(server, engine, refused):
    server.behave = refusing(refused)
    with pytest.raises(EngineRejected, match=r"temperature|max_"):
        await generate(engine, named("x", whole=True))
    assert len(server.seen) <= 2
