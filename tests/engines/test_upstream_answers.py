"""What becomes of an upstream's answer where nobody streams it on: in an evaluation, and between several upstreams."""

from __future__ import annotations

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.openai import OpenAIEngine
from llmops.engines.protocol import EXTRAS, HINTS, GenerationRequest, fitting, generate
from llmops.engines.upstreams import Upstream, UpstreamsEngine
from llmops.errors import EngineError, EngineRejected
from llmops.evaluation.generating import Job, answer
from llmops.evaluation.results import AnswerCounts
from tests.engines.upstream_server import UpstreamServer, delta, sse, stream
from tests.engines.upstream_shapes import BOTH, FAILURES
from tests.engines.upstream_shapes import answer as by_name

pytestmark = pytest.mark.anyio


@pytest.fixture
async def upstream():
    async with UpstreamServer(by_name) as server:
        yield server


def named(shape: str, *, whole: bool) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": shape},), whole=whole)


@pytest.mark.parametrize("whole", [False, True])
async def test_an_evaluations_output_has_refusal_reasoning_tool_calls_and_what_is_unknown(upstream, whole):
    engine = OpenAIEngine(upstream.url, "big", stream_always=not whole)

    async def output(shape: str):
        return await answer(engine, Job(None, named(shape, whole=True), "key"))

    refused = await output("refusal")
    assert (refused.text, refused.refusal, refused.error) == ("", "I can't do that", None)
    thought = await output("reasoning_details")
    assert (thought.text, thought.reasoning) == ("42", "let me see")
    called = await output("tools")
    assert [call["function"] for call in called.tool_calls] == [call["function"] for call in BOTH]
    unsaid = await output("null finish")
    assert (unsaid.text, unsaid.finish_reason) == ("Hello", None)
    uncounted = await output("usage in part")
    assert (uncounted.tokens_in, uncounted.tokens_out) == (9, None)
    assert (await output("text")).tool_calls is None
    await engine.close()


@pytest.mark.parametrize("shape", [name for name in FAILURES if "finish_reason" in name])
@pytest.mark.parametrize("whole", [False, True])
async def test_an_answer_that_its_server_gave_up_is_a_failure_and_no_answer(upstream, shape, whole):
    engine = OpenAIEngine(upstream.url, "big")
    with pytest.raises(EngineError, match="the upstream gave the answer up"):
        await generate(engine, named(shape, whole=whole))
    await engine.close()


async def test_until_something_was_said_another_upstream_is_asked():
    begun = stream(sse(delta("", role="assistant"), {"error": {"message": "out of memory"}}))
    async with UpstreamServer(begun) as failing, UpstreamServer(by_name) as good:
        engines = [Upstream(OpenAIEngine(server.url, "big"), server.url) for server in (failing, good)]
        engine = UpstreamsEngine(engines)
        texts = {(await generate(engine, named("text", whole=False))).text for _ in range(3)}
        assert (texts, len(failing.seen) > 0) == ({"Hello"}, True)
        await engine.close()


async def test_reasoning_in_parts_and_an_answer_as_text_are_both_in_the_message():
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "let me see"}]}]
    pieces = (delta(None, role="assistant", content=thinking), delta("4"), delta("2"), delta(None, "stop"), "[DONE]")
    async with UpstreamServer(stream(sse(*pieces))) as server:
        engine = OpenAIEngine(server.url, "big")
        made = await generate(engine, named("text", whole=False))
        await engine.close()
    assert (made.text, made.reasoning) == ("42", "let me see")


def test_an_engine_passes_over_hints_and_refuses_other_extras_by_name():
    engine = FakeEngine(honours=frozenset({"n"}))
    messages = ({"role": "user", "content": "hi"},)
    hinted = GenerationRequest(messages, extras={"n": 2, **dict.fromkeys(HINTS, "x")})
    assert fitting(hinted, engine).extras == {"n": 2}
    for name in EXTRAS - HINTS - {"n"}:
        with pytest.raises(EngineRejected, match=name) as caught:
            fitting(GenerationRequest(messages, extras={name: 1}), engine)
        assert caught.value.param == name


async def test_a_refusal_and_a_tool_call_are_no_empty_answers(upstream):
    engine = OpenAIEngine(upstream.url, "big")
    outputs = [
        await answer(engine, Job(None, named(shape, whole=True), "key")) for shape in ("refusal", "tools", "empty")
    ]
    await engine.close()
    assert AnswerCounts.of(outputs).empty == 1
