"""The adapter's product lands in the parent's own order, and everything else stays as it is."""

import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from llmops.errors import BadFile, UsageError
from llmops.models.merging import AUTO, PARENT, SETTINGS, WEIGHTS, merge
from tests.gguf_files import write_llama
from tests.models.test_quantise import metadata, tensors, values

HEADS = 2
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v"}


def parent_of(path, kind):
    def prepare(writer):
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}" if kind != "F32" else "ALL_F32"])

    return write_llama(path / f"{kind}.gguf", width=64, kind=kind, tokens=8, silent=0, prepare=prepare)


@pytest.fixture
def adapter(tmp_path):
    return adapter_of(tmp_path, {f"self_attn.{name}": (64, 64) for name in NAMES})


def adapter_of(folder, shapes, **settings):
    chance, factors = np.random.default_rng(1), {}
    for name, (outputs, inputs) in shapes.items():
        key = f"base_model.model.model.layers.0.{name}"
        factors[f"{key}.lora_A.weight"] = chance.standard_normal((3, inputs)).astype(np.float32)
        factors[f"{key}.lora_B.weight"] = chance.standard_normal((outputs, 3)).astype(np.float32)
    (folder / "adapter").mkdir()
    save_file(factors, folder / "adapter" / WEIGHTS)
    (folder / "adapter" / SETTINGS).write_text(json.dumps({"r": 3, "lora_alpha": 6, **settings}))
    return folder / "adapter"


def product(adapter, name):
    from safetensors.numpy import load_file

    factors = load_file(adapter / WEIGHTS)
    key = f"base_model.model.model.layers.0.self_attn.{name}"
    return 2 * factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"]


def test_queries_and_keys_are_interleaved_values_are_not_and_all_else_is_the_parents(adapter, tmp_path):
    parent, merged = parent_of(tmp_path, "F32"), tmp_path / "merged.gguf"
    merge(parent, adapter, merged)
    before, after = tensors(parent), tensors(merged)
    for name, stored in NAMES.items():
        added = product(adapter, name)
        if name != "v_proj":  # the halves of each head become its even and odd rows
            heads = added.reshape(HEADS, 2, 16, 64)
            added = np.stack([heads[:, 0], heads[:, 1]], axis=2).reshape(64, 64)
        tensor = f"blk.0.{stored}.weight"
        assert np.allclose(values(after[tensor]), values(before[tensor]) + added, atol=1e-5)
    adapted = {f"blk.0.{stored}.weight" for stored in NAMES.values()}
    assert {name for name in before if before[name].data.tobytes() != after[name].data.tobytes()} == adapted
    assert metadata(merged) == metadata(parent)


@pytest.mark.parametrize(
    ("kind", "asked", "stored", "others"),
    [
        ("Q4_1", AUTO, "Q8_0", "Q4_1"),
        ("Q4_1", PARENT, "Q4_1", "Q4_1"),
        ("Q8_0", AUTO, "Q8_0", "Q8_0"),
        ("F32", AUTO, "F32", "F32"),
        ("Q4_1", "F32", "F32", "F32"),
        ("F32", "Q5_0", "Q5_0", "F32"),
    ],
)
def test_adapted_matrices_have_eight_bits_at_least_unless_a_type_is_asked_for(
    adapter, tmp_path, kind, asked, stored, others
):
    merge(parent_of(tmp_path, kind), adapter, tmp_path / "merged.gguf", asked)
    found = tensors(tmp_path / "merged.gguf")
    assert found["blk.0.attn_q.weight"].tensor_type.name == stored
    assert found["blk.0.ffn_up.weight"].tensor_type.name == others


def test_the_same_parent_and_adapter_give_the_same_bytes(adapter, tmp_path):
    for name in ("one", "two"):
        merge(parent_of(tmp_path, "Q4_1"), adapter, tmp_path / f"{name}.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_an_adapter_of_another_model_is_refused(tmp_path):
    parent = parent_of(tmp_path, "F32")
    with pytest.raises(BadFile, match=r"of shape \(64, 64\), and the adapter of \(64, 32\)"):
        merge(parent, adapter_of(tmp_path, {"self_attn.q_proj": (64, 32)}), tmp_path / "x.gguf")
    (tmp_path / "other").mkdir()
    beyond = adapter_of(tmp_path / "other", {"self_attn.odd_proj": (64, 64)})
    with pytest.raises(BadFile, match=r"odd_proj\.weight, which the parent does not have"):
        merge(parent, beyond, tmp_path / "x.gguf")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadFile, match="is no LoRA adapter"):
        merge(parent, tmp_path / "none", tmp_path / "x.gguf")


def test_a_family_whose_order_is_not_known_is_refused(adapter, tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "odd.gguf"), arch="falcon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="a GGUF of the falcon family cannot be fine-tuned, only llama"):
        merge(tmp_path / "odd.gguf", adapter, tmp_path / "x.gguf")
