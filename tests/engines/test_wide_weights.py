import asyncio
import json

import pytest

from llmops.engines.opening import engine_identity, open_engine
from llmops.engines.protocol import generate
from llmops.errors import Corrupted
from llmops.hashing import file_sha256
from llmops.models.quantise import read_gguf, requantise, wide_path
from llmops.models.weights import copy_into, store_weights
from llmops.settings import Settings
from llmops.versions import ModelVersion


def types_of_matrices(path):
    return {tensor.tensor_type.name for tensor in read_gguf(path).tensors if len(tensor.shape) > 1}


@pytest.fixture
def slow(tiny_gguf, tmp_path):
    """The tiny model with its matrices at Q4_1."""
    parent = tmp_path / "tiny.Q4_1.gguf"
    requantise(tiny_gguf, parent, "Q4_1")
    assert types_of_matrices(parent) == {"Q4_1"}
    return parent


def test_a_slow_type_gets_a_wide_copy_once_and_a_damaged_one_is_made_again(slow, tmp_path):
    folder, sha256 = tmp_path / "wide", file_sha256(slow)
    made = wide_path(slow, sha256, folder)
    assert types_of_matrices(made) == {"Q8_0"}
    written, good = made.stat().st_mtime_ns, made.read_bytes()
    assert wide_path(slow, sha256, folder) == made
    assert made.stat().st_mtime_ns == written
    made.write_bytes(good[:-1])
    assert wide_path(slow, sha256, folder).read_bytes() == good
    assert file_sha256(slow) == sha256


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_type_that_is_not_slow_is_used_as_it_is_and_looked_at_once(tiny_gguf, tmp_path, kind):
    fast, folder = tmp_path / "fast.gguf", tmp_path / "wide"
    requantise(tiny_gguf, fast, kind)
    assert wide_path(fast, "a" * 64, folder) == fast
    assert [json.loads(note.read_text()) for note in folder.iterdir()] == [{"sha256": None}]
    assert wide_path(fast, "a" * 64, folder) == fast


def test_a_large_file_is_used_as_it_is_and_one_that_is_no_gguf_refused(slow, tmp_path, monkeypatch):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(Corrupted, match=r"broken\.gguf: not a readable GGUF file"):
        wide_path(broken, "b" * 64, tmp_path / "wide")
    monkeypatch.setattr("llmops.models.quantise.LARGEST_BYTES", 10)
    assert wide_path(slow, file_sha256(slow), tmp_path / "wide") == slow


@pytest.mark.parametrize("mode", ["wide", "stored"])
def test_the_engine_says_how_it_holds_the_weights(slow, tmp_path, ask, mode):
    settings = Settings(
        home=tmp_path / "home", engine_slots=1, engine_context=256, engine_threads=1, engine_weights=mode
    )
    stored = store_weights(settings, copy_into(slow))
    model = ModelVersion("tiny", 1, f"file:{slow}", stored.format, stored.sha256, stored.path)
    engine = open_engine(model, settings)
    try:
        assert asyncio.run(generate(engine, ask("hello", max_tokens=2))).usage.tokens_out == 2
        assert engine.identity == engine_identity(model, settings)
        assert engine.identity.settings["weights"] == mode
    finally:
        asyncio.run(engine.close())
    assert settings.wide_weights_dir.exists() == (mode == "wide")
