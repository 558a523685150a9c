"""Random tiny models, made from seeds in a moment: a Hugging Face folder and GGUF files; upstreams; and requests for
them."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers

from llmops.engines.openai import OpenAIEngine
from llmops.generation import GenerationParameters, GenerationRequest
from tests.engines.upstream_server import UpstreamServer
from tests.gguf_files import write_llama

TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
POSITIONS = 256

MakeRequest = Callable[..., GenerationRequest]


@pytest.fixture(scope="session")
def ask() -> MakeRequest:
    """`ask("text", max_tokens=3)` a request of one user message."""

    def make(text: str = "hello", **parameters: Any) -> GenerationRequest:
        chosen = GenerationParameters.from_mapping({"max_tokens": 16, **parameters})
        return GenerationRequest(({"role": "user", "content": text},), chosen)

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers, a byte-level tokenizer without merges, and a chat template."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny-hf")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{letter: number for number, letter in enumerate(alphabet, 1)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of one layer that never ends an answer by itself: its end token's logit is always zero."""
    return _endless_llama(tmp_path_factory.mktemp("tiny-gguf") / "tiny.gguf", width=32)


@pytest.fixture(scope="session")
def wide_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_gguf`, with 1,024 bytes of keys and values for each token."""
    return _endless_llama(tmp_path_factory.mktemp("wide-gguf") / "wide.gguf", width=256)


def _endless_llama(path: Path, width: int) -> Path:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127)), "▁"]

    def prepare(writer: gguf.GGUFWriter) -> None:
        writer.add_vocab_size(len(tokens))
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 259 + [-1.0] * (len(tokens) - 259))
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(False)
        writer.add_chat_template(TEMPLATE)

    return write_llama(path, width=width, kind="F32", tokens=len(tokens), silent=2, prepare=prepare)


@pytest.fixture(scope="session")
def byte_level_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of one layer, 8-bit, with one token a byte: the smallest file that OpenVINO reads."""
    return byte_level_llama(tmp_path_factory.mktemp("byte-level") / "tiny.gguf")


def byte_level_llama(path: Path, letters: Iterable[str] = ()) -> Path:
    """As `byte_level_gguf`. letters: the bytes that there are tokens for, by GPT-2's names of them; by default all."""
    alphabet = sorted(letters or tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, "Ġt"]

    def prepare(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(10_000.0)
        writer.add_vocab_size(len(tokens))
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3] + [1] * (len(tokens) - 1))
        writer.add_token_merges(["Ġ t"])
        for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
            add(0)
        writer.add_chat_template(TEMPLATE)

    return write_llama(path, width=64, kind="Q8_0", tokens=len(tokens), silent=0, prepare=prepare)


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    """An upstream that answers "Hello"."""
    async with UpstreamServer() as server:
        yield server


@pytest.fixture
async def connect(server: UpstreamServer) -> AsyncIterator[Callable[..., OpenAIEngine]]:
    """`connect(timeout=0.3)` an engine of the server, or of another address; closed when the test ends."""
    opened: list[OpenAIEngine] = []

    def make(url: str | None = None, **options: Any) -> OpenAIEngine:
        opened.append(OpenAIEngine(url or server.url, "big", **{"timeout": 5, **options}))
        return opened[-1]

    yield make
    for engine in opened:
        await engine.close()


@pytest.fixture
def engine(connect: Callable[..., OpenAIEngine]) -> OpenAIEngine:
    return connect()


@pytest.fixture
def ask_whole(ask: MakeRequest) -> MakeRequest:
    """A request whose answer nobody reads before its end."""
    return lambda **more: dataclasses.replace(ask(), whole=True, **more)
