"""A Hugging Face folder of one's own, of another architecture, goes the whole way: registered, evaluated, served."""

from pathlib import Path

import openai
import pytest

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer GPT-2 with a word tokenizer of its own."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["<eos>", "<unk>", "user", "assistant", "system", ":", "the", "is", "Paris", "four", "blue", "what", "?",
             "."]  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>")
    fast.chat_template = TEMPLATE
    config = GPT2Config(
        vocab_size=len(words), n_positions=512, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    folder = tmp_path_factory.mktemp("own") / "tiny-gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_folder_of_ones_own_is_registered_evaluated_and_served(make_workplace, tiny_folder):
    place = make_workplace("own-model")
    registered = place.json("models", "register", "tiny", "--source", f"file:{tiny_folder}")["models"]
    assert [(model["version"], model["format"]) for model in registered] == [(1, "hf")]
    place.json("prompts", "register", "qa")
    run = place.json("eval", "run", "qa", "--prompt", "qa@1", "--model", "tiny@1", "--limit", "6")["runs"][0]
    assert (run["rows"], run["generated"], run["model"]) == (6, 6, "tiny@1")
    assert all(metric["n_failed"] == 0 for metric in run["metrics"].values())
    created = place.json("release", "create", "tiny-app", "--prompt", "qa@1", "--model", "tiny@1")
    assert created["version"] == 1
    place.json("promote", "tiny-app@1", "--force", "--why", "the only one")
    with place.gateway() as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        messages = [{"role": "user", "content": "what is blue ?"}]
        raw = client.chat.completions.with_raw_response.create(model="tiny-app", messages=messages, max_tokens=4)
        assert raw.headers["x-llmops-model"] == "tiny@1"
        assert raw.parse().usage.completion_tokens <= 4
    assert place.json("log", "tail")["records"][-1]["release"] == "tiny-app@1"
