"""llama.cpp in this process: slots, log-likelihoods, and what is kept of templates."""

import asyncio
import dataclasses
import sys
import threading
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import httpx
import psutil
import pytest

from llmops.engines import llamacpp_port
from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.llamacpp_port import LlamaCppPort, Quiet, TemplateStates, loglikelihoods
from llmops.engines.protocol import generate
from llmops.errors import ContextTooLong, Corrupted, EngineError, EngineRejected
from llmops.generation import GenerationParameters, GenerationRequest, Message, Usage

pytestmark = pytest.mark.anyio
CONTEXT = 20_000
CHOICES = ["yes", "no", "yesno", "no way", "é", "Z"]
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
    with pytest.raises(EngineRejected, match="context"):
        await engine.loglikelihoods(ask("x" * 300).messages, ["yes"])
    assert threads() > before
    await engine.close()
    assert threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the cache is in memory from the start")
async def test_a_cache_takes_memory_only_as_contexts_fill(wide_gguf, ask):
    slots, context = 16, 16_384
    cache = slots * context * 1024  # bytes
    before = psutil.Process().memory_info().rss
    engine = LlamaCppEngine(wide_gguf, slots=slots, context=context, threads=1)
    try:
        answer = await generate(engine, ask(max_tokens=20))
        assert psutil.Process().memory_info().rss - before < cache / 2
        assert answer.usage.tokens_out == 20
    finally:
        await engine.close()


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


# ---- log-likelihoods: forced tokens give what the model itself says of them


@pytest.fixture(scope="module")
def direct(tiny_gguf):
    """`direct(context, tokens)`: the tokens' log-probabilities by transformers, on the weights of the same file."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(tiny_gguf.parent), gguf_file=tiny_gguf.name, dtype=torch.float32, local_files_only=True
    ).eval()

    def logprobs(context: list[int], tokens: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*context, *tokens]])).logits[0, len(context) - 1 : -1].double()
        return torch.log_softmax(logits, dim=-1)[range(len(tokens)), tokens].tolist()

    return logprobs


async def test_each_choice_gets_the_sum_of_its_tokens(engine, direct, ask):
    found, _ = await engine.loglikelihoods(ask("Is it?").messages, CHOICES)
    context = engine._port.tokens(engine._port.prompt(ask("Is it?").messages))
    expected = [sum(direct(context, engine._port.tokens(choice))) for choice in CHOICES]
    assert found == pytest.approx(expected, abs=0.02)
    assert max(found) - min(found) > 10  # so that the tolerance tells choices apart


async def test_one_token_gets_what_llama_cpp_says_of_it_unforced(engine, ask):
    messages = ask("Is it?").messages
    context = engine._port.tokens(engine._port.prompt(messages))
    reply = engine._complete({"prompt": context, "max_tokens": 1, "temperature": 0, "logprobs": 400})
    told = {entry["id"]: entry["logprob"] for entry in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
    letters = ["a", "b", "C", "Q", "7"]
    found, _ = await engine.loglikelihoods(messages, letters)
    assert found == pytest.approx([told[engine._port.tokens(letter)[0]] for letter in letters], abs=1e-3)


async def test_what_was_forced_leaves_no_trace_in_later_answers(engine, ask):
    before = await generate(engine, ask("one"))
    await engine.loglikelihoods(ask("one").messages, CHOICES)
    after = await generate(engine, ask("one"))
    assert after.text == before.text


async def test_the_prompt_and_shared_beginnings_are_walked_and_counted_once(engine, ask, monkeypatch):
    asked = []
    complete = engine._complete
    monkeypatch.setattr(engine, "_complete", lambda body: asked.append(body["prompt"]) or complete(body))
    _, usage = await engine.loglikelihoods(ask("Isit?").messages, ["yes", "yesno", "no"])
    assert usage.tokens_in == len("<user>Isit?<assistant>")
    assert usage.tokens_out == len(asked) == len("yes") + len("no") + len("no")


def test_a_server_that_does_not_take_the_forced_token_or_cannot_be_reached_is_an_error(engine, ask):
    def complete(body):
        entry = {"id": body["logit_bias"][0][0] + 1, "logprob": -1.0}
        return {"choices": [{"logprobs": {"content": [entry]}}]}

    with pytest.raises(EngineError, match=rf"does not say how likely token {engine._port.tokens('x')[-1]} is"):
        loglikelihoods(engine._port, complete, ask("ab").messages, ["x"])
    port = LlamaCppPort("127.0.0.1:9", "key")
    with pytest.raises(EngineError, match="failed at /tokenize") as caught:
        port.tokens("x")
    assert isinstance(caught.value.__cause__, httpx.HTTPError)
    port.close()


def turns(text: str, question: str) -> tuple[Message, ...]:
    return ({"role": "system", "content": text}, {"role": "user", "content": question})


def kept_in(folder: str) -> list[str]:
    return [state.name for state in Path(folder).iterdir() if state.name != "owner"]


def begun_alike(text: str, question: str) -> GenerationRequest:
    return GenerationRequest(turns(text, question), GenerationParameters(max_tokens=8), shared_prefix=turns(text, "."))


@pytest.fixture
async def keeping(tiny_gguf):
    """An engine that keeps what it has read of templates."""
    engine = LlamaCppEngine(tiny_gguf, slots=3, context=2_000, threads=1, prompt_cache="template")
    yield engine
    await engine.close()


async def test_each_template_is_read_once_and_answers_do_not_depend_on_what_a_slot_held(keeping):
    asked = [begun_alike(text * 60, f"question {number}") for number in range(4) for text in ("one ", "other ")]
    forwards = await asyncio.gather(*(generate(keeping, request) for request in asked))
    backwards = await asyncio.gather(*(generate(keeping, request) for request in reversed(asked)))
    one_by_one = [await generate(keeping, request) for request in asked]
    assert [answer.text for answer in forwards] == [answer.text for answer in reversed(backwards)]
    assert [answer.text for answer in forwards] == [answer.text for answer in one_by_one]
    assert len(kept_in(keeping._states.folder)) == 2
    # Several answers of one request start from the template too.
    chunks = [chunk async for chunk in keeping.stream(dataclasses.replace(asked[0], extras={"n": 2}))]
    for index in (0, 1):
        assert "".join(chunk.text for chunk in chunks if chunk.index == index) == one_by_one[0].text


async def test_a_template_first_asked_for_under_load_is_read_when_what_is_decoded_has_ended(keeping, eventually):
    with keeping._quiet.decoding():
        first = asyncio.create_task(generate(keeping, begun_alike("template", "what?")))
        await eventually(lambda: keeping._quiet.is_taken)
        later = asyncio.create_task(generate(keeping, GenerationRequest(turns("x", "tell"))))
        assert kept_in(keeping._states.folder) == []
    assert (await first).text
    assert (await later).text
    with keeping._quiet.decoding():  # what is kept waits for nobody
        assert (await generate(keeping, begun_alike("template", "why?"))).text


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
