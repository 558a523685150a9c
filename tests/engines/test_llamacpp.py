from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.protocol import generate
from llmops.errors import ContextTooLong, Corrupted, EngineRejected
from llmops.generation import Usage

pytestmark = pytest.mark.anyio
CONTEXT = 20_000
REAL = sorted(Path(os.environ.get("LLMOPS_HOME", ".llmops"), "models").glob("*/SmolLM2-135M-Instruct.Q4_1.gguf"))
LONG = 15_000  # tokens: seconds of decoding


@pytest.fixture(scope="module")
def engine(tiny_gguf):
    engine = LlamaCppEngine(tiny_gguf, slots=2, context=CONTEXT, threads=1)
    yield engine
    asyncio.run(engine.close())


async def test_a_prompt_beyond_the_context_is_too_long_and_closing_ends_the_threads(tiny_gguf, ask):
    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith("llamacpp")}

    before = threads()
    engine = LlamaCppEngine(tiny_gguf, slots=2, context=256, threads=1)
    with pytest.raises(ContextTooLong) as caught:
        await generate(engine, ask("x" * 300))
    assert str(caught.value) == "the prompt has 317 tokens, the engine's context holds 256"
    assert caught.value.param == "messages"
    assert (await generate(engine, ask("x" * 200))).usage.tokens_in == 217
    assert threads() > before
    await engine.close()
    assert threads() == before


async def test_requests_run_side_by_side_up_to_the_slots(engine, ask):
    events = []

    async def watch(name: str) -> None:
        async for chunk in engine.stream(ask(max_tokens=1000)):
            events.append((name, chunk.finish_reason))  # noqa: PERF401 (both write here as they go)

    await asyncio.gather(watch("a"), watch("b"))
    first_end = min(events.index((name, "length")) for name in "ab")
    assert {name for name, _ in events[:first_end]} == {"a", "b"}


def asking(ask, text="hello", *, extras, **parameters):
    return dataclasses.replace(ask(text, **parameters), extras=extras)


async def test_n_answers_come_side_by_side_and_each_ends(engine, ask):
    request = asking(ask, extras={"n": 2}, max_tokens=6, temperature=1.5, seed=1)
    chunks = [chunk async for chunk in engine.stream(request)]
    texts = ["".join(chunk.text for chunk in chunks if chunk.index == index) for index in (0, 1)]
    assert texts[0] != texts[1]
    assert sorted(chunk.index for chunk in chunks if chunk.finish_reason == "length") == [0, 1]
    assert [chunk.usage for chunk in chunks if chunk.usage] == [Usage(len("<user>hello<assistant>"), 12)]
    assert chunks[-1].usage
    assert chunks[-1].finish_reason == "length"


async def test_more_answers_than_slots_are_rejected_by_name_and_n_that_are_left_free_their_slots(engine, ask):
    with pytest.raises(EngineRejected) as caught:
        await generate(engine, asking(ask, extras={"n": 3}))
    assert caught.value.param == "n"
    async with aclosing(engine.stream(asking(ask, extras={"n": 2}, max_tokens=LONG))) as chunks:
        await anext(chunks)
    assert (await generate(engine, ask(max_tokens=2))).latency_s < 2  # LONG takes more


class Watched:
    """A llama.cpp server that keeps whose requests it ran, and how many chunks each gave."""

    def __init__(self, server):
        self.server = server
        self.chunks: dict[str, int] = {}

    def handle_chat_completions(self, body, on_chunk):
        asked = body["messages"][0]["content"]
        self.chunks[asked] = 0

        def counted(chunk):
            self.chunks[asked] += 1
            return on_chunk(chunk)

        return self.server.handle_chat_completions(body, counted)


@pytest.fixture
def watched(engine, monkeypatch):
    server = Watched(engine._server)
    monkeypatch.setattr(engine, "_server", server)
    return server


async def test_a_running_request_that_is_left_frees_its_slot_soon(engine, ask, watched):
    for names in ("ab", "cd", "ef"):
        async with AsyncExitStack() as stack:
            for name in names:
                chunks = await stack.enter_async_context(aclosing(engine.stream(ask(name, max_tokens=LONG))))
                await anext(chunks)
    await generate(engine, ask("after", max_tokens=2))
    assert list(watched.chunks) == ["a", "b", "c", "d", "e", "f", "after"]
    assert sum(watched.chunks.values()) < LONG  # any one of them, decoded to its end, gives more


async def test_a_queued_request_that_is_left_never_runs(engine, ask, watched):
    async with AsyncExitStack() as stack:
        for name in "ab":
            chunks = await stack.enter_async_context(aclosing(engine.stream(ask(name, max_tokens=LONG))))
            await anext(chunks)
        queued = asyncio.create_task(generate(engine, ask("queued")))
        await asyncio.sleep(0.02)
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
    await generate(engine, ask("after"))
    assert list(watched.chunks) == ["a", "b", "after"]


@pytest.mark.parametrize("part", [0, 0.001, 0.05, 0.5, 0.99])
def test_a_file_that_is_no_gguf_or_cut_short_is_corrupted(tiny_gguf, tmp_path, part):
    content = tiny_gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * part)] or b"not a model")
    with pytest.raises(
        Corrupted, match=rf"cut\.gguf: {'llama.cpp cannot load this file' if part else 'not a GGUF file'}"
    ):
        LlamaCppEngine(tmp_path / "cut.gguf", slots=1, context=64, threads=1)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="no SmolLM2 below $LLMOPS_HOME/models")
async def test_a_real_model_obeys_each_extra_it_is_said_to_honour(ask):
    engine = LlamaCppEngine(REAL[0], slots=2, context=1024, threads=1)

    async def text(**extras) -> str:
        return (await generate(engine, asking(ask, "Name two colours.", extras=extras, max_tokens=30))).text

    try:
        plain = await text()
        first = await anext(engine.stream(asking(ask, "Name two colours.", extras={"logprobs": True})))
        assert first.text == first.logprobs[0]["token"] == plain[: len(first.text)]
        assert await text(presence_penalty=2.0) != plain
        assert await text(frequency_penalty=2.0) != plain
        token = engine._port.tokens(first.text)[0]
        assert not (await text(logit_bias={str(token): -100})).startswith(first.text)
        both = [chunk async for chunk in engine.stream(asking(ask, extras={"n": 2}, max_tokens=4))]
        assert {chunk.index for chunk in both} == {0, 1}
    finally:
        await engine.close()
