"""Every parameter of a request is obeyed by a local engine or refused by name: none is silently ignored."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.openvino import OpenVinoEngine
from llmops.engines.protocol import Engine, generate
from llmops.engines.transformers import TransformersEngine
from llmops.errors import EngineRejected
from llmops.generation import EXTRAS, Chunk, GenerationParameters

pytestmark = pytest.mark.anyio
Say = Callable[..., Awaitable[list[Chunk]]]


@pytest.fixture(scope="module", params=["llamacpp", "openvino", "transformers", "fake"])
def engine(request, tiny_gguf, byte_level_gguf, tiny_model_folder):
    opened: Engine = {
        "llamacpp": lambda: LlamaCppEngine(tiny_gguf, slots=2, context=256, threads=1),
        "openvino": lambda: OpenVinoEngine(byte_level_gguf, slots=2, context=256, threads=1),
        "transformers": lambda: TransformersEngine(tiny_model_folder, slots=2, threads=1),
        "fake": lambda: FakeEngine(lambda _: "one two three four five six", slots=2),
    }[request.param]()
    yield opened
    asyncio.run(opened.close())


@pytest.fixture
def say(engine, ask) -> Say:
    async def answer(extras: dict[str, Any] | None = None, **parameters: Any) -> list[Chunk]:
        asked = dataclasses.replace(ask(**{"max_tokens": 24, **parameters}), extras=extras or {})
        return [chunk async for chunk in engine.stream(asked)]

    return answer


def text(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


async def max_tokens_ends_it(say: Say) -> bool:
    chunks = await say(max_tokens=3)
    return (chunks[-1].finish_reason, chunks[-1].usage.tokens_out) == ("length", 3)


async def stop_cuts_it(say: Say) -> bool:
    whole = text(await say())
    stop = next(letter for letter in whole[4:] if letter.isascii())
    chunks = await say(stop=stop)
    return text(chunks) == whole[: whole.index(stop)] and chunks[-1].finish_reason == "stop"


async def temperature_changes_it(say: Say) -> bool:
    return text(await say()) != text(await say(temperature=2.0, seed=1))


async def top_p_narrows_it(say: Say) -> bool:
    return text(await say()) == text(await say(temperature=2.0, top_p=1e-6, seed=1))


async def seed_repeats_it(say: Say) -> bool:
    one, again, other = [text(await say(temperature=1.5, seed=seed)) for seed in (-1, -1, 2)]
    return one == again != other


async def response_format_shapes_it(say: Say) -> bool:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    chunks = await say(max_tokens=200, response_format=form)
    return chunks[-1].finish_reason == "length" or json.loads(text(chunks)) == {"a": 1}


async def n_gives_several(say: Say) -> bool:
    return {chunk.index for chunk in await say({"n": 2})} == {0, 1}


async def logprobs_come(say: Say) -> bool:
    return all(chunk.logprobs for chunk in (await say({"logprobs": True}))[:-1])


async def rivals_come(say: Say) -> bool:
    return len((await say({"logprobs": True, "top_logprobs": 3}))[0].logprobs[0]["top_logprobs"]) == 3


def penalty(name: str) -> Callable[[Say], Awaitable[bool]]:
    async def changes_it(say: Say) -> bool:
        return text(await say(max_tokens=100)) != text(await say({name: 2.0}, max_tokens=100))

    return changes_it


async def a_bias_changes_it(say: Say) -> bool:
    return text(await say()) != text(await say({"logit_bias": {"70": 100}}))


PROBES: dict[str, Callable[[Say], Awaitable[bool]]] = {
    "max_tokens": max_tokens_ends_it,
    "stop": stop_cuts_it,
    "temperature": temperature_changes_it,
    "top_p": top_p_narrows_it,
    "seed": seed_repeats_it,
    "response_format": response_format_shapes_it,
    "n": n_gives_several,
    "logprobs": logprobs_come,
    "top_logprobs": rivals_come,
    "presence_penalty": penalty("presence_penalty"),
    "frequency_penalty": penalty("frequency_penalty"),
    "logit_bias": a_bias_changes_it,
}
SAYS_THE_SAME = {("fake", name) for name in ("temperature", "top_p", "seed")}
"""There is nothing to draw in an answer that is always the same; the class says so."""


@pytest.mark.parametrize("name", sorted(EXTRAS | set(GenerationParameters.__dataclass_fields__)))
async def test_a_parameter_is_obeyed_or_refused_by_name(engine, say, name):
    if name in EXTRAS and name not in engine.honours:
        return  # the gateway refuses it by name: tests/service/test_chat.py
    probe = PROBES[name]  # what is said to be honoured is seen to be
    if (engine.identity.name, name) in SAYS_THE_SAME:
        return
    try:
        obeyed = await probe(say)
    except EngineRejected as error:
        assert error.param == name  # noqa: PT017 (either outcome is right)
    else:
        assert obeyed


async def test_the_fake_engine_refuses_a_format_that_its_answer_does_not_have(ask):
    form = {"type": "json_object"}
    with pytest.raises(EngineRejected, match="it cannot enforce a response format"):
        await generate(FakeEngine(lambda _: "[1]"), ask(response_format=form))
    assert (await generate(FakeEngine(lambda _: "{}"), ask(response_format=form))).text == "{}"
