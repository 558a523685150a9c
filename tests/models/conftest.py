"""Settings in a folder of the test's own, and small GGUF files."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from llmops.settings import Settings
from tests.gguf_files import write_gguf


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def parent_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Q4_1 matrices, an embedding at Q8_0, a vector, and metadata of every shape that models carry."""
    chance = np.random.default_rng(1)

    def prepare(writer: gguf.GGUFWriter) -> None:
        writer.add_name("Tiny")
        writer.add_context_length(64)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_token_list(["<unk>", "<s>", "naïve"])
        writer.add_token_scores([0.0, -1.5, 2.0])
        writer.add_token_types([2, 3, 1])
        writer.add_add_bos_token(True)
        writer.add_chat_template("{{ messages }}")
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)

    kinds = {"a": "Q4_1", "b": "Q4_1", "token_embd": "Q8_0"}
    tensors = {name: (chance.standard_normal((6, 64)).astype(np.float32), kind) for name, kind in kinds.items()}
    tensors["norm"] = (chance.standard_normal(64).astype(np.float32), "F32")
    return write_gguf(tmp_path_factory.mktemp("parent") / "parent.Q4_1.gguf", tensors, prepare)
