"""Log-likelihoods against a direct computation with the same weights."""

from __future__ import annotations

import asyncio

import pytest

from llmops.engines.protocol import ScoringEngine
from llmops.engines.transformers import TransformersEngine
from llmops.errors import ContextTooLong, EngineRejected

pytestmark = pytest.mark.anyio
CHOICES = ["yes", "no", " maybe so", "a much longer choice than all the others", "é"]


@pytest.fixture(scope="module")
def engine(tiny_model_folder):
    engine = TransformersEngine(tiny_model_folder, slots=2, threads=1)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def direct(tiny_model_folder):
    """The log-probability of each token after the prompt, one forward pass a token, without padding or batch."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(str(tiny_model_folder), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tiny_model_folder))

    def logprobs(question: str, choice: str) -> list[float]:
        before = tokenizer(f"<user>{question}<assistant>", add_special_tokens=False)["input_ids"]
        found = []
        for token in tokenizer(choice, add_special_tokens=False)["input_ids"]:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([before])).logits[0, -1].double()
            found.append(float(torch.log_softmax(logits, dim=-1)[token]))
            before = [*before, token]
        return found

    return logprobs


async def test_each_choice_gets_the_sum_of_its_tokens(engine, direct, ask):
    found, usage = await engine.loglikelihoods(ask("Is it?").messages, CHOICES)
    assert found == pytest.approx([sum(direct("Is it?", choice)) for choice in CHOICES], abs=1e-3)
    assert usage.tokens_in == len("<user>Is it?<assistant>")
    assert usage.tokens_out == sum(len(choice.encode()) for choice in CHOICES)


async def test_a_choice_does_not_depend_on_what_else_may_be_chosen(engine, ask):
    together, _ = await engine.loglikelihoods(ask("Is it?").messages, CHOICES)
    alone = [(await engine.loglikelihoods(ask("Is it?").messages, [choice]))[0][0] for choice in CHOICES]
    assert alone == pytest.approx(together, abs=1e-3)


async def test_the_prompt_counts(engine, ask):
    one, _ = await engine.loglikelihoods(ask("Is it?").messages, CHOICES)
    other, _ = await engine.loglikelihoods(ask("Is it not?").messages, CHOICES)
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.05


async def test_the_probabilities_of_all_first_tokens_add_up_to_one(engine, direct, ask):
    import math

    letters = [chr(code) for code in range(32, 127)]
    found, _ = await engine.loglikelihoods(ask("x").messages, letters)
    assert 0 < sum(map(math.exp, found)) < 1  # the vocabulary also has the other bytes, and the end
    assert found[5] == pytest.approx(direct("x", letters[5])[0], abs=1e-3)


async def test_a_choice_without_a_token_is_rejected(engine, ask):
    with pytest.raises(EngineRejected, match="the choice '' has no token of its own") as caught:
        await engine.loglikelihoods(ask().messages, ["yes", ""])
    assert caught.value.param == "choices"


async def test_a_choice_beyond_the_models_positions_is_too_long(engine, ask):
    with pytest.raises(ContextTooLong, match="the model holds 256") as caught:
        await engine.loglikelihoods(ask("x" * 230).messages, ["yes", "n" * 30])
    assert caught.value.param == "messages"


def test_the_engine_is_a_scoring_engine(engine):
    assert isinstance(engine, ScoringEngine)
