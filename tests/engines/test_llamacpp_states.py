"""What was read of templates is kept, as llama.cpp's slots hold it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from llmops.engines import llamacpp_port
from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.llamacpp_port import Quiet, TemplateStates
from llmops.engines.protocol import generate
from llmops.generation import GenerationParameters, GenerationRequest, Message

pytestmark = pytest.mark.anyio


def turns(text: str, question: str) -> tuple[Message, ...]:
    return ({"role": "system", "content": text}, {"role": "user", "content": question})


def kept_in(folder: str) -> list[str]:
    return [state.name for state in Path(folder).iterdir() if state.name != "owner"]


def asking(text: str, question: str) -> GenerationRequest:
    return GenerationRequest(turns(text, question), GenerationParameters(max_tokens=8), beginning=turns(text, "."))


async def test_each_template_is_read_once_and_answers_do_not_depend_on_what_a_slot_held(tiny_gguf):
    asked = [asking(text * 60, f"question {number}") for number in range(4) for text in ("one ", "other ")]
    engine = LlamaCppEngine(tiny_gguf, slots=3, context=2_000, threads=1, prompt_cache="template")
    try:
        forwards = await asyncio.gather(*(generate(engine, request) for request in asked))
        backwards = await asyncio.gather(*(generate(engine, request) for request in reversed(asked)))
        one_by_one = [await generate(engine, request) for request in asked]
        kept = kept_in(engine._states.folder)
    finally:
        await engine.close()
    assert [answer.text for answer in forwards] == [answer.text for answer in reversed(backwards)]
    assert [answer.text for answer in forwards] == [answer.text for answer in one_by_one]
    assert len(kept) == 2


async def test_a_template_first_asked_for_under_load_is_read_when_what_is_decoded_has_ended(tiny_gguf, eventually):
    engine = LlamaCppEngine(tiny_gguf, slots=3, context=2_000, threads=1, prompt_cache="template")
    try:
        with engine._quiet.decoding():
            first = asyncio.create_task(generate(engine, asking("template", "what?")))
            await eventually(lambda: engine._quiet.is_taken)
            later = asyncio.create_task(generate(engine, GenerationRequest(turns("x", "tell"))))
            assert kept_in(engine._states.folder) == []
        assert (await first).text
        assert (await later).text
        with engine._quiet.decoding():  # what is kept waits for nobody
            assert (await generate(engine, asking("template", "why?"))).text
    finally:
        await engine.close()


def test_nothing_is_decoded_beside_what_is_alone():
    quiet, order = Quiet(), []

    def decode() -> None:
        with quiet.decoding():
            order.append("decoded")

    with quiet.alone():
        later = threading.Thread(target=decode)
        later.start()
        order.append("read")
    later.join()
    assert order == ["read", "decoded"]


async def test_several_answers_of_one_request_start_from_the_template_too(tiny_gguf):
    request = asking("template " * 20, "what?")
    engine = LlamaCppEngine(tiny_gguf, slots=2, context=2_000, threads=1, prompt_cache="template")
    try:
        alone = await generate(engine, request)
        several = GenerationRequest(request.messages, request.parameters, {"n": 2}, beginning=request.beginning)
        chunks = [chunk async for chunk in engine.stream(several)]
    finally:
        await engine.close()
    for index in (0, 1):
        assert "".join(chunk.text for chunk in chunks if chunk.index == index) == alone.text


class Port:
    """Slots whose state is a file's name."""

    def __init__(self, folder: str) -> None:
        self.folder, self.restored = Path(folder), []

    def save_slot(self, slot: int, name: str) -> None:
        (self.folder / name).write_text(str(slot))

    def restore_slot(self, slot: int, name: str) -> None:
        assert (self.folder / name).exists()
        self.restored.append(slot)


def test_the_template_used_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(llamacpp_port, "MOST_KEPT", 2)
    states, read = TemplateStates(), []
    port = Port(states.folder)
    for text in ("a", "b", "a", "c", "a", "b"):
        states.put(turns(text, "."), 0, port, lambda messages, _: read.append(messages[0]["content"]))
    assert read == ["a", "b", "c", "b"]
    assert len(kept_in(states.folder)) == 2
    states.remove()
    assert not Path(states.folder).exists()
