"""Batches, refusals and log-likelihoods of the transformers engine."""

import asyncio
import functools
import math
import shutil
import threading
from contextlib import aclosing

import pytest

from llmops.engines.protocol import generate
from llmops.engines.transformers import TransformersEngine
from llmops.errors import ContextTooLong, Corrupted, EngineRejected
from llmops.generation import GenerationRequest

pytestmark = pytest.mark.anyio
SLOTS = 8
PREFIX, SUFFIX = "<user>", "<assistant>"
LONGEST_PROMPT = "x" * (256 - 16 - len(PREFIX + SUFFIX))  # that leaves room for an answer


@pytest.fixture(scope="module")
def engine(tiny_model_folder):
    engine = TransformersEngine(tiny_model_folder, slots=SLOTS, threads=1)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def steps(engine, monkeypatch):
    """The number of rows of every decoding step that the model makes from here on."""
    seen: list[int] = []
    forward = engine._model.forward

    @functools.wraps(forward)  # `generate` looks at its parameters
    def counted(*arguments, **options):
        seen.append(options["input_ids"].shape[0])
        return forward(*arguments, **options)

    monkeypatch.setattr(engine._model, "forward", counted)
    return seen


async def test_the_answer_is_what_the_model_itself_generates(engine, ask):
    import torch

    tokenizer, model = engine._tokenizer, engine._model
    encoded = tokenizer(PREFIX + "hello" + SUFFIX, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**encoded, max_new_tokens=16, do_sample=False, pad_token_id=0)
    expected = tokenizer.decode(made[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert (await generate(engine, ask("hello"))).text == expected


async def test_greedy_answers_are_the_same_alone_and_within_a_batch_of_other_lengths(engine, ask, steps):
    requests = [ask("x" * size, max_tokens=limit) for size, limit in ((1, 12), (40, 5), (7, 30), (90, 1), (3, 20))]
    alone = [await generate(engine, request) for request in requests]
    steps.clear()
    together = await asyncio.gather(*(generate(engine, request) for request in requests))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.usage for answer in together] == [answer.usage for answer in alone]
    assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]
    assert len({answer.text for answer in alone}) == len(alone)
    assert max(steps) > 1
    await asyncio.gather(*(generate(engine, ask(f"q{number}", max_tokens=3)) for number in range(3 * SLOTS)))
    assert max(steps) == SLOTS


@pytest.fixture
def together(engine, ask):
    """`together(rows)` what coroutines give that wait side by side behind another request, and so make one batch."""

    async def run(*rows):
        blocker = asyncio.create_task(generate(engine, ask("blocker", max_tokens=20)))
        await asyncio.sleep(0.01)
        made = await asyncio.gather(*rows, return_exceptions=True)
        await blocker
        return made

    return run


async def test_a_short_row_ends_before_its_batch_does(engine, ask, together):
    progress: list[str] = []

    async def short() -> int:
        await generate(engine, ask("short", max_tokens=2))
        return len(progress)

    async def watch() -> None:
        async for chunk in engine.stream(ask("long", max_tokens=200)):
            progress.append(chunk.text)  # noqa: PERF401 (looked at meanwhile)

    ended, _ = await together(short(), watch())
    assert ended < len(progress) / 2


async def test_the_models_end_token_ends_the_answer_and_a_stop_string_holds_nothing_back(engine, ask, monkeypatch):
    whole = (await generate(engine, ask("held", max_tokens=12))).text
    end = next(place for place in range(3, 12) if whole[place].isascii() and whole[place] not in whole[:place])
    token = engine._tokenizer(whole[end])["input_ids"][0]
    for end_tokens, stop in (([0, token], None), (token, whole[end - 1] + "never")):
        monkeypatch.setattr(engine._model.generation_config, "eos_token_id", end_tokens)
        answer = await generate(engine, ask("held", max_tokens=12, stop=stop))
        assert (answer.text, answer.finish_reason) == (whole[:end], "stop")


async def test_seeded_samples_repeat_also_beside_others(engine, ask):
    def sample(seed):
        return generate(engine, ask("sample", temperature=1.5, seed=seed))

    one, again, other = [(await sample(seed)).text for seed in (5, 5, 6)]
    assert one == again != other
    beside = await asyncio.gather(generate(engine, ask("x" * 50, temperature=1.5)), sample(5), sample(6), sample(5))
    assert [answer.text for answer in beside[1:]] == [one, other, one]


async def test_rows_of_different_sampling_are_all_answered(engine, ask):
    kinds = [{}, {"temperature": 0.5}, {"temperature": 0.5, "top_p": 0.5}, {"temperature": 1, "seed": 1}, {}]
    answers = await asyncio.gather(*(generate(engine, ask(max_tokens=5, **kind)) for kind in kinds))
    assert [answer.usage.tokens_out for answer in answers] == [5] * 5
    assert answers[0].text == answers[4].text


async def test_a_row_that_is_left_frees_the_engine(engine, ask, steps):
    async with aclosing(engine.stream(ask("left", max_tokens=230))) as chunks:
        await anext(chunks)
    await generate(engine, ask("after", max_tokens=2))
    assert len(steps) < 150


async def test_a_row_that_is_left_before_its_turn_is_never_decoded(engine, ask, steps):
    blocker = asyncio.create_task(generate(engine, ask("blocker", max_tokens=100)))
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(generate(engine, ask("waiting", max_tokens=100, temperature=0.7)))
    await asyncio.sleep(0)
    waiting.cancel()
    await blocker
    await generate(engine, ask("after", max_tokens=1))
    assert len(steps) == 101


async def test_leaving_one_row_leaves_its_neighbours_alone(engine, ask, together):
    alone = await generate(engine, ask("stays", max_tokens=60))

    async def leave() -> None:
        async with aclosing(engine.stream(ask("leaves", max_tokens=60))) as chunks:
            await anext(chunks)

    stays, _ = await together(generate(engine, ask("stays", max_tokens=60)), leave())
    assert stays.text == alone.text


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_a_response_format_is_refused_by_name(engine, ask, kind):
    wanted = {"type": kind, "json_schema": {"name": "a", "schema": {}}}
    with pytest.raises(EngineRejected, match=r"^response_format: the transformers engine") as caught:
        await generate(engine, ask(response_format=wanted))
    assert caught.value.param == "response_format"


async def test_a_prompt_beyond_the_models_positions_is_too_long_and_its_neighbours_are_answered(engine, ask, together):
    texts = (LONGEST_PROMPT + "x", "short", LONGEST_PROMPT)
    long, short, just = await together(*(generate(engine, ask(text)) for text in texts))
    assert isinstance(long, ContextTooLong)
    assert str(long) == "the prompt has 241 tokens and asks for 16 more; the model holds 256"
    assert long.param == "messages"
    assert short.usage.tokens_out == just.usage.tokens_out == 16


async def test_a_long_prompt_and_a_long_answer_that_do_not_fit_together_are_decoded_one_after_the_other(
    engine, ask, together
):
    """Side by side, the row that ends first would leave the model's positions with the one that goes on."""
    rows = [ask(LONGEST_PROMPT), ask("long", max_tokens=200), ask(LONGEST_PROMPT)]
    found = await together(*(generate(engine, request) for request in rows))
    assert [answer.usage.tokens_out for answer in found] == [16, 200, 16]
    assert [answer.text for answer in found] == [(await generate(engine, request)).text for request in rows]


async def test_messages_the_chat_template_refuses_are_rejected_and_their_neighbours_answered(
    engine, ask, together, monkeypatch
):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    monkeypatch.setattr(engine._tokenizer, "chat_template", refusing + engine._tokenizer.chat_template)
    bad = GenerationRequest(({"role": "system", "content": "x"}, *ask().messages), ask().parameters)
    refused, answered = await together(generate(engine, bad), generate(engine, ask()))
    assert isinstance(refused, EngineRejected)
    assert "no system role" in str(refused)
    assert refused.param == "messages"
    assert answered.usage.tokens_out == 16


async def test_a_model_without_a_chat_template_gets_the_turns_as_lines(engine, ask, monkeypatch):
    monkeypatch.setattr(engine._tokenizer, "chat_template", None)
    answer = await generate(engine, ask("hello"))
    assert answer.usage.tokens_in == len("user: hello\nassistant:")


async def test_a_failing_model_fails_every_open_row_and_the_engine_lives_on(engine, ask, monkeypatch):
    forward, calls = engine._model.forward, []

    @functools.wraps(forward)
    def failing(*arguments, **options):
        calls.append(options["input_ids"].shape)
        if len(calls) == 10:
            raise RuntimeError("out of memory")
        return forward(*arguments, **options)

    blocker = asyncio.create_task(generate(engine, ask("blocker", max_tokens=20)))
    await asyncio.sleep(0.01)
    rows = [asyncio.create_task(generate(engine, ask(f"q{limit}", max_tokens=limit))) for limit in (2, 100, 90)]
    await blocker
    with monkeypatch.context() as patch:
        patch.setattr(engine._model, "forward", failing)
        short, *long = await asyncio.wait_for(asyncio.gather(*rows, return_exceptions=True), 10)
    assert short.usage.tokens_out == 2  # it ended before
    assert [str(failure) for failure in long] == ["transformers failed: RuntimeError: out of memory"] * 2
    assert (await generate(engine, ask())).usage.tokens_out == 16


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard-of"}'),
        ("model.safetensors", b"not tensors"),
        ("model.safetensors", None),
        ("model.safetensors", -100),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"{"),
    ],
)
def test_a_broken_folder_is_corrupted(tiny_model_folder, tmp_path, name, content):
    """content: in place of the file's; None, the file is missing; a number, cut short by so many bytes."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model_folder, folder)
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:content])
    with pytest.raises(Corrupted, match=f"^{folder}: transformers cannot load this model: .") as caught:
        TransformersEngine(folder, threads=1)
    assert "\n" not in str(caught.value)


async def test_closing_ends_its_thread_after_what_was_asked_before(tiny_model_folder, ask):
    before = threading.active_count()
    engine = TransformersEngine(tiny_model_folder, slots=1, threads=1)
    rows = [asyncio.create_task(generate(engine, ask(f"q{number}", max_tokens=5))) for number in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    assert [answer.usage.tokens_out for answer in await asyncio.gather(*rows)] == [5, 5, 5]
    assert not engine._thread.is_alive()
    assert threading.active_count() <= before + 1  # one of asyncio's own, which waited


CHOICES = ["yes", "no", " maybe so", "a much longer choice than all the others", "é"]


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
    letters, _ = await engine.loglikelihoods(ask("x").messages, [chr(code) for code in range(32, 127)])
    assert 0 < sum(map(math.exp, letters)) < 1  # the vocabulary also has the other bytes, and the end


async def test_a_choice_beyond_the_models_positions_is_too_long(engine, ask):
    with pytest.raises(ContextTooLong, match="the model holds 256") as caught:
        await engine.loglikelihoods(ask("x" * 230).messages, ["yes", "n" * 30])
    assert caught.value.param == "messages"
