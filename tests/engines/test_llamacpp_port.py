"""Log-likelihoods with llama.cpp: forced tokens give what the model itself says of them."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path

import httpx
import pytest

from llmops.engines import llamacpp_port
from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.llamacpp_port import LlamaCppPort, Quiet, TemplateStates, loglikelihoods
from llmops.engines.protocol import generate
from llmops.errors import EngineError, EngineRejected
from llmops.generation import GenerationParameters, GenerationRequest, Message

pytestmark = pytest.mark.anyio
CHOICES = ["yes", "no", "yesno", "no way", "é", "Z"]


@pytest.fixture(scope="module")
def engine(tiny_gguf):
    engine = LlamaCppEngine(tiny_gguf, slots=2, context=1024, threads=1)
    yield engine
    asyncio.run(engine.close())


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


async def test_usage_counts_the_prompt_once_and_shared_beginnings_once(engine, ask):
    _, usage = await engine.loglikelihoods(ask("Isit?").messages, ["yes", "yesno", "no"])
    assert usage.tokens_in == len("<user>Isit?<assistant>")
    assert usage.tokens_out == len("yes") + len("no") + len("no")


async def test_a_prompt_beyond_the_context_is_rejected(engine, ask):
    with pytest.raises(EngineRejected, match="context"):
        await engine.loglikelihoods(ask("x" * 2000).messages, ["yes"])


# Without a model


class Letters(LlamaCppPort):
    """Every letter is a token."""

    def __init__(self):
        """Needs no server."""

    def prompt(self, messages):
        return "".join(message["content"] for message in messages)

    def tokens(self, text):
        return [ord(letter) for letter in text]


def says(logprob, *, forced=True):
    """A server that takes the forced token, with the log-probability that `logprob` gives for all tokens so far."""
    asked = []

    def complete(body):
        [[token, _]] = body["logit_bias"]
        asked.append((body["prompt"], token))
        entry = {"id": token if forced else token + 1, "logprob": logprob([*body["prompt"], token])}
        return {"choices": [{"logprobs": {"content": [entry]}}]}

    return complete, asked


def test_shared_beginnings_are_walked_once(ask):
    complete, asked = says(lambda tokens: -float(len(tokens)))
    sums, tokens_in, tokens_out = loglikelihoods(Letters(), complete, ask("ab").messages, ["xy", "xz", "x"])
    assert sums == [-3.0 - 4.0, -3.0 - 4.0, -3.0]
    assert asked == [
        ([ord("a"), ord("b")], ord("x")),
        ([ord("a"), ord("b"), ord("x")], ord("y")),
        ([ord("a"), ord("b"), ord("x")], ord("z")),
    ]
    assert (tokens_in, tokens_out) == (2, 3)


def test_a_server_that_does_not_take_the_forced_token_or_cannot_be_reached_is_an_error(ask):
    complete, _ = says(lambda _: -1.0, forced=False)
    with pytest.raises(EngineError, match="does not say how likely token 120 is"):
        loglikelihoods(Letters(), complete, ask("ab").messages, ["x"])
    port = LlamaCppPort("127.0.0.1:9", "key")
    with pytest.raises(EngineError, match="failed at /tokenize") as caught:
        port.tokens("x")
    assert isinstance(caught.value.__cause__, httpx.HTTPError)
    port.close()


def turns(text: str, question: str) -> tuple[Message, ...]:
    return ({"role": "system", "content": text}, {"role": "user", "content": question})


def kept_in(folder: str) -> list[str]:
    return [state.name for state in Path(folder).iterdir() if state.name != "owner"]


def asking(text: str, question: str) -> GenerationRequest:
    return GenerationRequest(turns(text, question), GenerationParameters(max_tokens=8), beginning=turns(text, "."))


@pytest.fixture
async def keeping(tiny_gguf):
    """An engine that keeps what it has read of templates."""
    engine = LlamaCppEngine(tiny_gguf, slots=3, context=2_000, threads=1, prompt_cache="template")
    yield engine
    await engine.close()


async def test_each_template_is_read_once_and_answers_do_not_depend_on_what_a_slot_held(keeping):
    asked = [asking(text * 60, f"question {number}") for number in range(4) for text in ("one ", "other ")]
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
        first = asyncio.create_task(generate(keeping, asking("template", "what?")))
        await eventually(lambda: keeping._quiet.is_taken)
        later = asyncio.create_task(generate(keeping, GenerationRequest(turns("x", "tell"))))
        assert kept_in(keeping._states.folder) == []
    assert (await first).text
    assert (await later).text
    with keeping._quiet.decoding():  # what is kept waits for nobody
        assert (await generate(keeping, asking("template", "why?"))).text


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
