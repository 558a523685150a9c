from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing

import pytest

from llmops.engines import openvino
from llmops.engines.openvino import OpenVinoEngine
from llmops.engines.protocol import generate
from llmops.errors import ContextTooLong, Corrupted, EngineRejected

pytestmark = pytest.mark.anyio
CONTEXT = 4_000


@pytest.fixture(scope="module")
def engine(byte_level_gguf):
    engine = OpenVinoEngine(byte_level_gguf, slots=2, context=CONTEXT, threads=1)
    yield engine
    asyncio.run(engine.close())


def schema(value):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}


async def test_it_streams_text_and_ends_with_usage_only_in_the_last_chunk(engine, ask):
    chunks = [chunk async for chunk in engine.stream(ask(max_tokens=20))]
    assert len(chunks) > 3
    assert all(chunk.text and chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].finish_reason, chunks[-1].usage.tokens_out) == ("length", 20)
    assert chunks[-1].usage.tokens_in == len("<user>hello<assistant>")


async def test_the_pieces_of_a_long_answer_are_its_text_decoded_whole(engine, ask):
    row_tokens = 150
    pieces = [chunk.text async for chunk in engine.stream(ask(max_tokens=row_tokens, temperature=1.5, seed=4))]
    again = await generate(engine, ask(max_tokens=row_tokens, temperature=1.5, seed=4))
    assert "".join(pieces) == again.text
    assert "\ufffd" not in again.text[:-1] or len(again.text) <= row_tokens


async def test_a_stop_string_ends_the_answer_before_itself(engine, ask):
    whole = (await generate(engine, ask(max_tokens=60))).text
    stop = next(letter for letter in whole[8:] if letter.isascii() and letter not in whole[:8])
    answer = await generate(engine, ask(max_tokens=60, stop=stop))
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


async def test_a_seed_repeats_a_sample_and_another_seed_gives_another(engine, ask):
    texts = [(await generate(engine, ask(temperature=1.5, seed=seed))).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


async def test_a_json_schema_is_obeyed(engine, ask):
    wanted = schema({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})
    answer = await generate(engine, ask(max_tokens=400, temperature=1.0, seed=1, response_format=wanted))
    assert answer.text.lstrip().startswith("{")
    if answer.finish_reason == "stop":
        assert set(json.loads(answer.text)) == {"ok"}


@pytest.mark.parametrize("impossible", [{"type": "frobnicate"}, {"$ref": "#/nowhere"}])
async def test_an_impossible_schema_is_rejected_and_its_neighbours_are_answered(engine, ask, impossible):
    neighbour = asyncio.create_task(generate(engine, ask(max_tokens=40)))
    with pytest.raises(EngineRejected, match="schema") as caught:
        await generate(engine, ask(response_format=schema(impossible)))
    assert caught.value.param.startswith("response_format")
    assert (await neighbour).usage.tokens_out == 40


async def test_more_requests_than_slots_are_all_answered(engine, ask):
    answers = await asyncio.gather(*(generate(engine, ask(f"number {n}", max_tokens=8)) for n in range(7)))
    assert [answer.usage.tokens_out for answer in answers] == [8] * 7


async def test_a_prompt_beyond_the_context_is_rejected_with_its_length(engine, ask):
    with pytest.raises(ContextTooLong, match=f"holds {CONTEXT}"):
        await generate(engine, ask("x" * CONTEXT))


async def test_a_left_stream_stops_decoding_and_frees_its_place(engine, ask, eventually):
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(aclosing(engine.stream(ask(max_tokens=3_500)))) for _ in range(4)]
        assert (await anext(streams[0])).text
    await eventually(lambda: not engine._open, 30)
    assert (await generate(engine, ask(max_tokens=4))).usage.tokens_out == 4


def test_a_file_that_is_no_gguf_or_of_a_kind_openvino_does_not_read_is_corrupted(tmp_path, tiny_gguf):
    other = tmp_path / "model.gguf"
    other.write_bytes(b"PK\x03\x04")
    for path, message in ((other, "not a GGUF file"), (tiny_gguf, "cannot load")):
        with pytest.raises(Corrupted, match=message):
            OpenVinoEngine(path, slots=1, context=100, threads=1)


def test_the_identity_names_the_build_and_what_can_change_an_answer():
    found = openvino.identity(4, 512, "slots")
    assert found.name == "openvino"
    assert found.build.startswith("openvino-genai 20")
    assert found.settings == {"slots": 4, "context": 512, "cache": "slots", "weights": "stored"}
