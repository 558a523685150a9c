"""Log-likelihoods with llama.cpp: forced tokens give what the model itself says of them."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.llamacpp_port import LlamaCppPort, loglikelihoods
from llmops.engines.protocol import ScoringEngine, generate
from llmops.errors import EngineError, EngineRejected

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


async def test_a_choice_does_not_depend_on_what_else_may_be_chosen(engine, ask):
    together, _ = await engine.loglikelihoods(ask("Is it?").messages, CHOICES)
    alone = [(await engine.loglikelihoods(ask("Is it?").messages, [choice]))[0][0] for choice in CHOICES]
    assert alone == pytest.approx(together, abs=1e-3)


async def test_what_was_forced_leaves_no_trace_in_later_answers(engine, ask):
    before = await generate(engine, ask("one"))
    await engine.loglikelihoods(ask("one").messages, CHOICES)
    after = await generate(engine, ask("one"))
    assert after.text == before.text


async def test_usage_counts_the_prompt_once_and_shared_beginnings_once(engine, ask):
    _, usage = await engine.loglikelihoods(ask("Isit?").messages, ["yes", "yesno", "no"])
    assert usage.tokens_in == len("<user>Isit?<assistant>")
    assert usage.tokens_out == len("yes") + len("no") + len("no")


async def test_a_choice_without_a_token_is_rejected(engine, ask):
    with pytest.raises(EngineRejected, match="the choice '' has no token of its own") as caught:
        await engine.loglikelihoods(ask().messages, ["yes", ""])
    assert caught.value.param == "choices"


async def test_a_prompt_beyond_the_context_is_rejected(engine, ask):
    with pytest.raises(EngineRejected, match="context"):
        await engine.loglikelihoods(ask("x" * 2000).messages, ["yes"])


def test_the_engine_is_a_scoring_engine(engine):
    assert isinstance(engine, ScoringEngine)


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


def test_a_server_that_does_not_take_the_forced_token_is_an_error(ask):
    complete, _ = says(lambda _: -1.0, forced=False)
    with pytest.raises(EngineError, match="does not say how likely token 120 is"):
        loglikelihoods(Letters(), complete, ask("ab").messages, ["x"])


def test_a_server_that_cannot_be_reached_is_an_error():
    tokens = LlamaCppPort("127.0.0.1:9", "key")
    try:
        with pytest.raises(EngineError, match="failed at /tokenize") as caught:
            tokens.tokens("x")
        assert isinstance(caught.value.__cause__, httpx.HTTPError)
    finally:
        tokens.close()
