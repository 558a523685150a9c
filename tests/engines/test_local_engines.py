"""What engines that decode in this process do alike: each parameter is obeyed, or refused by name; answers stream."""

import asyncio
import dataclasses
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines import llamacpp, openvino, transformers
from llmops.engines.fake import FakeEngine
from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.local import AnswerText, from_thread
from llmops.engines.openvino import OpenVinoEngine
from llmops.engines.protocol import Engine, ScoringEngine, generate
from llmops.engines.transformers import TransformersEngine
from llmops.errors import ContextTooLong, Corrupted, EngineRejected
from llmops.generation import EXTRAS, Chunk, GenerationParameters

pytestmark = pytest.mark.anyio
CONTEXT = 4_000
LOCAL = ("llamacpp", "openvino", "transformers")
Say = Callable[..., Awaitable[list[Chunk]]]


@pytest.fixture(scope="module", params=[*LOCAL, "fake"])
def engine(request, tiny_gguf, byte_level_gguf, tiny_model_folder):
    opened: Engine = {
        "llamacpp": lambda: LlamaCppEngine(tiny_gguf, slots=2, context=CONTEXT, threads=1),
        "openvino": lambda: OpenVinoEngine(byte_level_gguf, slots=2, context=CONTEXT, threads=1),
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
    ends = [(limit, (await say(max_tokens=limit))[-1]) for limit in (1, 2, 5)]
    return all((last.finish_reason, last.usage.tokens_out) == ("length", limit) for limit, last in ends)


async def stop_cuts_it(say: Say) -> bool:
    whole = text(await say(max_tokens=60))
    stop = next(letter for letter in whole[4:] if letter.isascii() and letter not in whole[:4])
    chunks = await say(max_tokens=60, stop=[stop, "never said"])
    cut = text(chunks) == whole[: whole.index(stop)] and chunks[-1].finish_reason == "stop"
    return cut and chunks[-1].usage.tokens_out < 60


async def temperature_changes_it(say: Say) -> bool:
    greedy, sampled, again = [text(await say(**more)) for more in ({}, {"temperature": 2.0, "seed": 1}, {})]
    return greedy == again != sampled


async def top_p_narrows_it(say: Say) -> bool:
    return text(await say()) == text(await say(temperature=2.0, top_p=1e-6, seed=1))


async def seed_repeats_it(say: Say) -> bool:
    seeds = (-1, 2, 2**32 - 1, 2**63 - 1)
    first, again = [[text(await say(temperature=1.5, seed=seed)) for seed in seeds] for _ in range(2)]
    return first == again and first[0] != first[1]


async def response_format_shapes_it(say: Say) -> bool:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    chunks = await say(max_tokens=200, response_format=form)
    return chunks[-1].finish_reason == "length" or json.loads(text(chunks)) == {"a": 1}


async def n_gives_several(say: Say) -> bool:
    return {chunk.index for chunk in await say({"n": 2})} == {0, 1}


async def logprobs_come(say: Say) -> bool:
    *chunks, last = await say({"logprobs": True})
    for chunk in chunks:
        (entry,) = chunk.logprobs
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert (entry["token"], entry["logprob"] < 0, entry["top_logprobs"]) == (chunk.text, True, [])
    return last.logprobs == ()


async def rivals_come(say: Say) -> bool:
    first, *_ = await say({"logprobs": True, "top_logprobs": 3})
    rivals = first.logprobs[0]["top_logprobs"]
    assert [set(rival) for rival in rivals] == [{"token", "logprob", "bytes"}] * 3
    logprobs = [rival["logprob"] for rival in rivals]
    return rivals[0]["token"] == first.text and logprobs == sorted(logprobs, reverse=True)


def penalty(name: str) -> Callable[[Say], Awaitable[bool]]:
    async def makes_it_repeat_itself_less(say: Say) -> bool:
        plain, penalised = text(await say(max_tokens=60)), text(await say({name: 2.0}, max_tokens=60))
        return len(set(penalised)) > len(set(plain))

    return makes_it_repeat_itself_less


async def a_bias_chooses_or_avoids(say: Say) -> bool:
    letter = str(259 + ord("~") - 33)  # the place of ~ in the tiny model's vocabulary
    plain, wanted, avoided = [
        text(await say(extras, max_tokens=1))
        for extras in ({}, {"logit_bias": {letter: 100}}, {"logit_bias": {letter: -100}})
    ]
    return (wanted, avoided) == ("~", plain)


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
    "logit_bias": a_bias_chooses_or_avoids,
}
SAYS_THE_SAME = {("fake", name) for name in ("temperature", "top_p", "seed")}
"""There is nothing to draw in an answer that is always the same; the class says so."""


@pytest.mark.parametrize("name", sorted(EXTRAS | set(GenerationParameters.__dataclass_fields__)))
async def test_a_parameter_is_obeyed_or_refused_by_name(engine, say, name):
    if name in EXTRAS and name not in engine.supported_extras:
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


@pytest.mark.parametrize("engine", LOCAL, indirect=True)
async def test_it_streams_text_and_ends_with_usage_only_in_the_last_chunk(engine, ask):
    chunks = [chunk async for chunk in engine.stream(ask(max_tokens=20))]
    assert len(chunks) > 3
    assert all(chunk.text and chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].text, chunks[-1].finish_reason) == ("", "length")
    assert (chunks[-1].usage.tokens_in, chunks[-1].usage.tokens_out) == (len("<user>hello<assistant>"), 20)


@pytest.mark.parametrize("engine", LOCAL, indirect=True)
def test_the_identity_is_known_before_loading_and_names_the_build_and_what_can_change_an_answer(engine):
    of_gguf = {"context": CONTEXT, "cache": "no", "weights": "stored"}
    foretold, build, settings = {
        "llamacpp": (llamacpp.identity(2, CONTEXT), "xllamacpp ", of_gguf),
        "openvino": (openvino.identity(2, CONTEXT), "openvino-genai 20", of_gguf),
        "transformers": (transformers.identity(2), "transformers 5", {"dtype": "float32"}),
    }[engine.identity.name]
    assert engine.identity == foretold
    assert engine.identity.build.startswith(build)
    assert {"slots": engine.slots, **settings}.items() <= engine.identity.settings.items()


@pytest.mark.parametrize("engine", LOCAL, indirect=True)
async def test_more_requests_than_slots_are_all_answered_as_if_alone(engine, ask):
    texts = [f"question {number}" for number in range(7)]
    alone = [(await generate(engine, ask(text, max_tokens=2))).usage for text in texts]
    answers = await asyncio.gather(*(generate(engine, ask(text, max_tokens=2)) for text in texts))
    assert [answer.usage for answer in answers] == alone


async def test_the_fake_engine_refuses_a_format_that_its_answer_does_not_have(ask):
    form = {"type": "json_object"}
    with pytest.raises(EngineRejected, match="it cannot enforce a response format"):
        await generate(FakeEngine(lambda _: "[1]"), ask(response_format=form))
    assert (await generate(FakeEngine(lambda _: "{}"), ask(response_format=form))).text == "{}"


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"], indirect=True)
async def test_how_likely_a_choice_is_depends_on_the_prompt_and_not_on_what_else_may_be_chosen(engine, ask):
    assert isinstance(engine, ScoringEngine)
    messages, choices = ask("Is it?").messages, ["yes", "no", "yesno", " maybe so", "é"]
    together, _ = await engine.loglikelihoods(messages, choices)
    alone = [(await engine.loglikelihoods(messages, [choice]))[0][0] for choice in choices]
    assert alone == pytest.approx(together, abs=1e-3)
    other, _ = await engine.loglikelihoods(ask("Is it not?").messages, choices)
    assert max(abs(a - b) for a, b in zip(together, other, strict=True)) > 0.05
    with pytest.raises(EngineRejected, match="the choice '' has no token of its own") as caught:
        await engine.loglikelihoods(messages, ["yes", ""])
    assert caught.value.param == "choices"


# ---- OpenVINO alone


OPENVINO = pytest.mark.parametrize("engine", ["openvino"], indirect=True)


@OPENVINO
async def test_the_pieces_of_a_long_answer_are_its_text_decoded_whole(engine, ask):
    row_tokens = 150
    pieces = [chunk.text async for chunk in engine.stream(ask(max_tokens=row_tokens, temperature=1.5, seed=4))]
    again = await generate(engine, ask(max_tokens=row_tokens, temperature=1.5, seed=4))
    assert "".join(pieces) == again.text
    assert "\ufffd" not in again.text[:-1] or len(again.text) <= row_tokens


@OPENVINO
@pytest.mark.parametrize("impossible", [{"type": "frobnicate"}, {"$ref": "#/nowhere"}])
async def test_an_impossible_schema_is_rejected_and_its_neighbours_are_answered(engine, ask, impossible):
    neighbour = asyncio.create_task(generate(engine, ask(max_tokens=40)))
    with pytest.raises(EngineRejected, match="schema") as caught:
        await generate(engine, ask(response_format={"type": "json_schema", "json_schema": {"schema": impossible}}))
    assert caught.value.param.startswith("response_format")
    with pytest.raises(ContextTooLong, match=f"holds {CONTEXT}"):
        await generate(engine, ask("x" * CONTEXT))
    assert (await neighbour).usage.tokens_out == 40


@OPENVINO
async def test_a_left_stream_stops_decoding_and_frees_its_place(engine, ask, eventually):
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(aclosing(engine.stream(ask(max_tokens=3_500)))) for _ in range(4)]
        assert (await anext(streams[0])).text
    await eventually(lambda: not engine._open, 30)
    assert (await generate(engine, ask(max_tokens=4))).usage.tokens_out == 4


def test_a_file_that_is_no_gguf_or_of_a_kind_openvino_does_not_read_is_corrupted(tmp_path, tiny_gguf):
    for content in (b"", b"GGU", b"PK\x03\x04GGUF", tiny_gguf.read_bytes()):
        (tmp_path / "model.gguf").write_bytes(content)
        problem = "cannot load" if content.startswith(b"GGUF") else r"model\.gguf: not a GGUF file"
        with pytest.raises(Corrupted, match=problem):
            OpenVinoEngine(tmp_path / "model.gguf", slots=1, context=100, threads=1)


# ---- pieces of answers

TEXTS = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=2).map(tuple)


@given(TEXTS, STOPS)
def test_the_pieces_are_the_text_up_to_the_first_stop_string(text, stops):
    answer, pieces, ended = AnswerText(stops), [], False
    for length in range(len(text) + 1):
        piece, ended = answer.grown(text[:length])
        pieces.append(piece)
        if ended:
            break
    if not ended:
        pieces.append(answer.ended(text))
    found = [text.index(stop) for stop in stops if stop in text]
    said = "".join(pieces)
    assert text.startswith(said)
    assert ended == bool(found)
    # Another stop string may begin earlier and end later: what was said ends before the one that was complete first.
    assert not any(stop in said for stop in stops)
    if not found:
        assert said == text


def test_a_cut_character_is_held_back_until_it_is_whole_or_the_answer_ends():
    answer = AnswerText()
    assert answer.grown("a\ufffd") == ("a", False)
    assert answer.grown("aé") == ("é", False)
    assert answer.grown("aé\ufffd") == ("", False)
    assert answer.ended("aé\ufffd") == "\ufffd"


def sending(*items):
    return lambda send, _: threading.Thread(target=lambda: [send(item) for item in items]).start()


async def test_items_come_in_order_until_none_or_an_exception():
    assert [item async for item in from_thread(sending(1, 2, None, 3))] == [1, 2]
    stream = from_thread(sending(1, ValueError("broken")))
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)


async def test_whoever_works_is_told_when_the_stream_is_left():
    events = []

    def begin(send, cancelled):
        events.append(cancelled)
        send(1)

    async with aclosing(from_thread(begin)) as items:
        assert await anext(items) == 1
        assert not events[0].is_set()
    assert events[0].is_set()
