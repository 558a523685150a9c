from __future__ import annotations

import asyncio
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


async def test_the_pieces_of_a_long_answer_are_its_text_decoded_whole(engine, ask):
    row_tokens = 150
    pieces = [chunk.text async for chunk in engine.stream(ask(max_tokens=row_tokens, temperature=1.5, seed=4))]
    again = await generate(engine, ask(max_tokens=row_tokens, temperature=1.5, seed=4))
    assert "".join(pieces) == again.text
    assert "\ufffd" not in again.text[:-1] or len(again.text) <= row_tokens


@pytest.mark.parametrize("impossible", [{"type": "frobnicate"}, {"$ref": "#/nowhere"}])
async def test_an_impossible_schema_is_rejected_and_its_neighbours_are_answered(engine, ask, impossible):
    neighbour = asyncio.create_task(generate(engine, ask(max_tokens=40)))
    with pytest.raises(EngineRejected, match="schema") as caught:
        await generate(engine, ask(response_format={"type": "json_schema", "json_schema": {"schema": impossible}}))
    assert caught.value.param.startswith("response_format")
    assert (await neighbour).usage.tokens_out == 40


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
