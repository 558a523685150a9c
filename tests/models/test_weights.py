import json
from itertools import pairwise
from pathlib import Path

import pytest

from llmops.errors import BadFile, CannotRun, Corrupted
from llmops.hashing import file_sha256, folder_sha256
from llmops.models.weights import copy_into, store_weights, stored_path, verified_path, weights_format, weights_sha256
from llmops.versions import ModelVersion


@pytest.fixture
def gguf_file(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(range(100)))
    return path


@pytest.fixture
def hf_folder(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(json.dumps({"name": name}))
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def registered(stored, **changes) -> ModelVersion:
    values = {"source": "file:x", "format": stored.format, "sha256": stored.sha256, "path": stored.path, **changes}
    return ModelVersion("tiny", 1, **values)


def test_a_file_or_folder_is_stored_under_its_hash_without_hidden_files(settings, gguf_file, hf_folder):
    stored = store_weights(settings, copy_into(gguf_file), file_sha256(gguf_file))
    assert stored.sha256 == file_sha256(gguf_file)
    assert stored.path == Path(stored.sha256[:16]) / "tiny.gguf"
    assert (stored.format, stored.size_bytes) == ("gguf", 104)
    assert (settings.models_dir / stored.path).read_bytes() == gguf_file.read_bytes()
    before, size = folder_sha256(hf_folder), sum(path.stat().st_size for path in hf_folder.iterdir())
    (hf_folder / ".git").mkdir()
    (hf_folder / ".git" / "HEAD").write_text("ref")
    stored = store_weights(settings, copy_into(hf_folder))
    assert (stored.sha256, stored.format, stored.size_bytes) == (before, "hf", size)
    assert files_below(settings.models_dir / stored.path) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture(params=["gguf_file", "hf_folder"])
def source(request):
    """Weights of either kind."""
    return request.getfixturevalue(request.param)


def test_the_same_weights_are_stored_once_found_by_their_hash_and_verified(settings, source):
    assert stored_path(settings, weights_sha256(source)) is None
    first = store_weights(settings, copy_into(source))
    path = settings.models_dir / first.path
    times = {each: each.stat().st_mtime_ns for each in path.parent.rglob("*")}
    assert store_weights(settings, copy_into(source)) == first
    assert {each: each.stat().st_mtime_ns for each in path.parent.rglob("*")} == times
    assert weights_sha256(source) == weights_sha256(path) == first.sha256
    assert stored_path(settings, first.sha256) == verified_path(registered(first), settings) == path


def test_one_changed_bit_is_found_and_the_cure_named(settings, source):
    stored = store_weights(settings, copy_into(source))
    path = settings.models_dir / stored.path
    changed = path / "model.safetensors" if path.is_dir() else path
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    with pytest.raises(Corrupted, match=rf"{path.name} is corrupted .*; delete it and try again$"):
        stored_path(settings, stored.sha256)
    with pytest.raises(Corrupted) as caught:
        verified_path(registered(stored), settings)
    assert str(caught.value).startswith(f"tiny@1: {path} is corrupted")
    assert str(caught.value).endswith("delete it and run `llmops models pull tiny@1`")


def test_what_cannot_be_taken_in_is_named_and_leaves_nothing(settings, gguf_file, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGML....")
    other = f"tiny.gguf: sha256 is {file_sha256(gguf_file)}, expected {'0' * 64}"

    def cut_off(incoming: Path) -> Path:
        (incoming / "half.gguf").write_bytes(b"GGUF")
        raise KeyboardInterrupt

    for write, sha256, error, told in (
        (copy_into(gguf_file), "0" * 64, Corrupted, other),
        (copy_into(tmp_path / "none"), None, BadFile, f"^{tmp_path}/none: cannot be read"),
        (copy_into(tmp_path / "model.gguf"), None, BadFile, "not a GGUF file"),
        (cut_off, None, KeyboardInterrupt, None),
    ):
        with pytest.raises(error, match=told):
            store_weights(settings, write, sha256)
        assert list(settings.models_dir.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "sub/model.pt", "model.pth", "a.pkl", "b.pickle", "x.ckpt", "m.h5", "modeling.py", "M.PKL"],
)
def test_a_folder_with_code_or_pickles_is_refused_by_name(settings, hf_folder, name):
    (hf_folder / name).parent.mkdir(exist_ok=True)
    (hf_folder / name).write_bytes(b"\x80\x04")
    with pytest.raises(BadFile, match=f"holds {Path(name).name}, which could run code"):
        store_weights(settings, copy_into(hf_folder))
    assert files_below(settings.models_dir) == []


def test_a_folder_says_which_part_it_lacks_and_any_usual_tokenizer_file_will_do(hf_folder):
    for name, problem in (
        ("config.json", "no config.json"),
        ("model.safetensors", "no .safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ):
        (hf_folder / name).rename(hf_folder / "aside")
        with pytest.raises(BadFile, match=f"holds {problem}"):
            weights_format(hf_folder)
        (hf_folder / "aside").rename(hf_folder / name)
    for before, after in pairwise(("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        (hf_folder / before).rename(hf_folder / after)
        assert weights_format(hf_folder) == "hf"


def test_weights_that_are_not_on_this_machine_say_how_to_get_them(settings, gguf_file):
    stored = store_weights(settings, copy_into(gguf_file))
    (settings.models_dir / stored.path).unlink()
    with pytest.raises(CannotRun, match=r"^tiny@1: weights are not on this machine; run `llmops models pull tiny@1`$"):
        verified_path(registered(stored), settings)
    upstream = registered(stored, source="openai:http://host/v1#m", format="openai", path=None)
    with pytest.raises(CannotRun, match="tiny@1 has no local weights; its source is openai:http://host/v1#m"):
        verified_path(upstream, settings)
