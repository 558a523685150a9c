import gguf
import numpy as np
import pytest

from llmops.errors import Corrupted, UsageError
from llmops.models.quantise import TYPES, requantise
from tests.gguf_files import write_gguf


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}


def values(tensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def metadata(path):
    fields = gguf.GGUFReader(str(path)).fields.items()
    return {name: (field.types, field.contents()) for name, field in fields if not name.startswith("GGUF.")}


MOST = {"Q8_0": 0.02, "Q5_1": 0.15, "Q4_0": 0.4}  # by how much a value may change


@pytest.mark.parametrize("type_name", TYPES)
def test_matrices_of_the_main_type_get_the_new_type_and_keep_about_their_values(parent_gguf, tmp_path, type_name):
    requantise(parent_gguf, tmp_path / "out.gguf", type_name)
    before, after = tensors(parent_gguf), tensors(tmp_path / "out.gguf")
    assert [after[name].tensor_type.name for name in ("a.weight", "b.weight")] == [type_name, type_name]
    assert [int(size) for size in after["a.weight"].shape] == [64, 6]
    if type_name in MOST:
        assert 0 < np.abs(values(before["a.weight"]) - values(after["a.weight"])).max() < MOST[type_name]


def test_all_else_is_copied_and_the_same_parent_gives_the_same_bytes(parent_gguf, tmp_path):
    for name, type_name in (("one", "Q4_0"), ("two", "Q4_0"), ("own", "Q4_1")):
        requantise(parent_gguf, tmp_path / f"{name}.gguf", type_name)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    before, after, own = (tensors(path) for path in (parent_gguf, tmp_path / "one.gguf", tmp_path / "own.gguf"))
    assert list(before) == list(after)
    for name in ("token_embd.weight", "norm.weight"):  # a higher precision, and a vector
        assert after[name].tensor_type == before[name].tensor_type
        assert after[name].data.tobytes() == before[name].data.tobytes()
    assert {name: t.data.tobytes() for name, t in own.items()} == {n: t.data.tobytes() for n, t in before.items()}


def test_metadata_is_kept_but_for_the_file_type(parent_gguf, tmp_path):
    requantise(parent_gguf, tmp_path / "out.gguf", "Q4_0")
    before, after = metadata(parent_gguf), metadata(tmp_path / "out.gguf")
    assert before["tokenizer.ggml.tokens"][1] == ["<unk>", "<s>", "naïve"]
    assert before.pop("general.file_type")[1] == gguf.LlamaFileType.MOSTLY_Q4_1
    assert after.pop("general.file_type")[1] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert after == before


@pytest.mark.parametrize("type_name", ["Q9", "q4_0", "Q4_K", "F32", ""])
def test_an_unknown_type_names_those_there_are(parent_gguf, tmp_path, type_name):
    with pytest.raises(UsageError, match=f"unknown quantisation '{type_name}'; known: Q4_0, Q4_1"):
        requantise(parent_gguf, tmp_path / "out.gguf", type_name)
    assert not (tmp_path / "out.gguf").exists()


def test_vectors_are_copied_and_rows_that_do_not_fit_the_types_blocks_name_the_tensor(tmp_path):
    write_gguf(tmp_path / "in.gguf", {"v": (np.arange(8, dtype=np.float32), "F32")}, lambda _: None)
    requantise(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_0")
    assert tensors(tmp_path / "out.gguf")["v.weight"].data.tolist() == list(range(8))
    write_gguf(tmp_path / "odd.gguf", {"odd": (np.ones((3, 33), dtype=np.float32), "F32")}, lambda _: None)
    with pytest.raises(UsageError, match=r"odd\.weight: cannot be stored as Q4_0"):
        requantise(tmp_path / "odd.gguf", tmp_path / "out.gguf", "Q4_0")


@pytest.mark.parametrize("part", [None, "other", 0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_that_is_absent_no_gguf_or_cut_short_anywhere_is_corrupted(parent_gguf, tmp_path, part):
    content = parent_gguf.read_bytes()
    if part is not None:
        cut = b"not a model at all" * 10 if part == "other" else content[: int(len(content) * part)]
        (tmp_path / "x.gguf").write_bytes(cut)
    with pytest.raises(Corrupted, match=r"x\.gguf: not a readable GGUF file"):
        requantise(tmp_path / "x.gguf", tmp_path / "out.gguf", "Q4_0")
