"""Merges a LoRA adapter into its parent's weights: a GGUF file, or a Hugging Face folder.

Every weight W that was adapted becomes W + (alpha / rank) · B·A (Hu et al., 2021, https://arxiv.org/abs/2106.09685).
The product is summed over the ranks in a fixed order at float64, so that the merged file can be made again anywhere
from parent and adapter, and checked against its sha256. Everything else of the parent is copied as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import BadFile, UsageError
from llmops.models.quantise import architecture, read_gguf, rewrite

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, np.dtype[np.float64]]

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
"""The files of an adapter, as peft writes them."""

ADAPTER = "adapter"
"""Where an adapter lies among the artifacts of the MLflow run of its fine-tune."""

AUTO, PARENT = "auto", "parent"
"""In place of a type of GGUF. PARENT: each matrix as the parent's. AUTO: that too, but as Q8_0 where the parent's has
fewer than 8 bits a weight: what was learned is smaller than its steps, and rounding takes it away again (docs/adr/
0030-fine-tuned-weights-have-eight-bits.md)."""

MERGED_ARCHITECTURES = ("llama",)
"""GGUF families whose tensors are known to be named and ordered as here."""

_PREFIX = "base_model.model."


def merge(parent: Path, adapter: Path, target: Path, type_name: str = AUTO) -> None:
    """Writes the parent with the adapter merged in.

    parent: a GGUF file, or a folder saved by `save_pretrained`; the target becomes the same.
    adapter: a folder with WEIGHTS and SETTINGS.
    type_name: of a GGUF's adapted matrices; AUTO, PARENT, or `F32`, which every tensor then gets.

    Raises UsageError: of another family than MERGED_ARCHITECTURES, or the type cannot be written. BadFile: the adapter
    does not fit the parent. Corrupted: the parent is not readable.
    """
    updates = _updates(adapter)
    if parent.is_dir():
        _into_folder(parent, target, updates)
    else:
        _into_gguf(parent, target, updates, type_name)
    if updates:
        raise BadFile(adapter / WEIGHTS, f"adapts {next(iter(updates))}, which the parent does not have")


def _updates(adapter: Path) -> dict[str, Callable[[], Matrix]]:
    """What to add to each adapted weight, by its name in transformers; shape (outputs, inputs)."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        settings = json.loads((adapter / SETTINGS).read_text(encoding="utf-8"))
        factors = load_file(adapter / WEIGHTS)
        scale = float(settings["lora_alpha"]) / int(settings["r"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadFile(adapter, f"is no LoRA adapter: {error}") from error

    def update(name: str) -> Matrix:
        a = factors[f"{name}.lora_A.weight"].astype(np.float64)
        b = factors[f"{name}.lora_B.weight"].astype(np.float64)
        total = np.zeros((b.shape[0], a.shape[1]))
        for rank in range(a.shape[0]):
            total += np.outer(b[:, rank], a[rank])
        return scale * (total.T if settings.get("fan_in_fan_out") else total)

    names = [name.removesuffix(".lora_A.weight") for name in factors if name.endswith(".lora_A.weight")]
    return {f"{name.removeprefix(_PREFIX)}.weight": (lambda name=name: update(name)) for name in names}  # type: ignore[misc]


def _into_folder(parent: Path, target: Path, updates: dict[str, Callable[[], Matrix]]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(parent, target, ignore=shutil.ignore_patterns("*.safetensors", ".*"))
    for file in sorted(parent.glob("*.safetensors")):
        tensors = load_file(file)
        for name in tensors.keys() & updates.keys():
            added = torch.from_numpy(_fitting(name, updates.pop(name)(), tuple(tensors[name].shape), parent))
            tensors[name] = (tensors[name].to(torch.float64) + added).to(tensors[name].dtype)
        save_file(tensors, target / file.name, metadata={"format": "pt"})


def _into_gguf(parent: Path, target: Path, updates: dict[str, Callable[[], Matrix]], type_name: str) -> None:
    import gguf
    import numpy as np

    reader = read_gguf(parent)
    family = architecture(reader)
    if family not in MERGED_ARCHITECTURES:
        known = ", ".join(MERGED_ARCHITECTURES)
        raise UsageError(f"a GGUF of the {family} family cannot be fine-tuned, only {known}; register the"
                         " model's Hugging Face folder and fine-tune that")  # fmt: skip
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(arch, int(reader.fields[f"{family}.block_count"].contents()))
    by_tensor = {str(names.get_name(name, try_suffixes=(".weight",))): name for name in updates}
    everything = type_name == "F32"

    def change(tensor: Any) -> tuple[Any, Any]:
        name = by_tensor.get(tensor.name)
        if name is None and not everything:
            return tensor.data, tensor.tensor_type
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if name is not None:
            added = _fitting(name, updates.pop(name)(), weights.shape, parent)
            weights = (weights.astype(np.float64) + _ordered(tensor.name, added, reader)).astype(np.float32)
        kind = tensor.tensor_type if type_name in (AUTO, PARENT) else gguf.GGMLQuantizationType[type_name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if type_name == AUTO and size < block:
            kind = gguf.GGMLQuantizationType.Q8_0
        try:
            return gguf.quants.quantize(weights, kind), kind
        except (gguf.QuantError, NotImplementedError) as error:
            raise UsageError(f"{tensor.name}: cannot be stored as {kind.name}: {error}") from error

    file_type = {AUTO: None, PARENT: None, "F32": "ALL_F32"}.get(type_name, f"MOSTLY_{type_name}")
    rewrite(reader, target, change, file_type)


def _fitting(name: str, added: Matrix, shape: tuple[int, ...], parent: Path) -> Matrix:
    if added.shape != shape:
        raise BadFile(parent, f"{name} is of shape {shape}, and the adapter of {added.shape}: it is of another model")
    return added


def _ordered(tensor_name: str, added: Matrix, reader: Any) -> Matrix:
    """The rows as a llama file has them: llama.cpp rotates neighbouring pairs of a head's queries and keys, and
    transformers the two halves, so the file interleaves the halves (`permute` in llama.cpp's converter)."""
    kind = tensor_name.split(".")[-2]
    if kind not in ("attn_q", "attn_k"):
        return added
    heads = "head_count" if kind == "attn_q" else "head_count_kv"
    n_heads = int(reader.fields[f"{architecture(reader)}.attention.{heads}"].contents())
    halves = added.reshape(n_heads, 2, added.shape[0] // n_heads // 2, added.shape[1])
    return halves.swapaxes(1, 2).reshape(added.shape)
