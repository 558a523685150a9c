"""What every engine that decodes in this process does alike."""

from __future__ import annotations

import asyncio

import pytest

from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.openvino import OpenVinoEngine
from llmops.engines.protocol import generate
from llmops.engines.transformers import TransformersEngine

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["llamacpp", "openvino", "transformers"])
def engine(request, tiny_gguf, byte_level_gguf, tiny_model_folder):
    engine = {
        "llamacpp": lambda: LlamaCppEngine(tiny_gguf, slots=2, context=4_000, threads=1),
        "openvino": lambda: OpenVinoEngine(byte_level_gguf, slots=2, context=4_000, threads=1),
        "transformers": lambda: TransformersEngine(tiny_model_folder, slots=2, threads=1),
    }[request.param]()
    yield engine
    asyncio.run(engine.close())


async def test_it_streams_text_and_ends_with_usage_only_in_the_last_chunk(engine, ask):
    chunks = [chunk async for chunk in engine.stream(ask(max_tokens=20))]
    assert len(chunks) > 3
    assert all(chunk.text and chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].text, chunks[-1].finish_reason) == ("", "length")
    assert (chunks[-1].usage.tokens_in, chunks[-1].usage.tokens_out) == (len("<user>hello<assistant>"), 20)


@pytest.mark.parametrize("limit", [1, 2, 17])
async def test_the_limit_of_tokens_is_kept(engine, ask, limit):
    answer = await generate(engine, ask(max_tokens=limit))
    assert (answer.usage.tokens_out, answer.finish_reason) == (limit, "length")


async def test_a_stop_string_ends_the_answer_before_itself(engine, ask):
    whole = (await generate(engine, ask(max_tokens=60))).text
    stop = next(letter for letter in whole[8:] if letter.isascii() and letter not in whole[:8])
    answer = await generate(engine, ask(max_tokens=60, stop=[stop, "never said"]))
    assert (answer.text, answer.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert answer.usage.tokens_out < 60


async def test_a_seed_repeats_a_sample_and_another_seed_gives_another(engine, ask):
    texts = [(await generate(engine, ask(temperature=1.5, seed=seed))).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


async def test_more_requests_than_slots_are_all_answered_as_if_alone(engine, ask):
    texts = [f"question {number}" for number in range(7)]
    alone = [(await generate(engine, ask(text, max_tokens=2))).usage for text in texts]
    answers = await asyncio.gather(*(generate(engine, ask(text, max_tokens=2)) for text in texts))
    assert [answer.usage for answer in answers] == alone
