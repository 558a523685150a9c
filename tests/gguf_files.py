"""Small GGUF files of random weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_gguf(path: Path, tensors: Mapping[str, tuple[np.ndarray, str]], prepare: Callable[[Any], None]) -> Path:
    """tensors: values of shape (rows, columns) or (columns,) with the type to store them as. prepare: adds metadata."""
    writer = gguf.GGUFWriter(str(path), arch="llama")
    prepare(writer)
    for name, (values, kind) in tensors.items():
        quant = gguf.GGMLQuantizationType[kind]
        stored = values if kind == "F32" else gguf.quants.quantize(values, quant)
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_llama(path: Path, *, width: int, kind: str, tokens: int, silent: int, prepare: Callable[[Any], None]) -> Path:
    """A random llama of one layer. kind: of its matrices. silent: a token that is never the likeliest."""
    chance = np.random.default_rng(7)

    def matrix(*shape: int) -> np.ndarray:
        return (chance.standard_normal(shape) * 0.3).astype(np.float32)

    output = matrix(tokens, width)
    output[silent] = 0
    values = {"token_embd": matrix(tokens, width), "output": output}
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    shapes |= {"ffn_gate": (2 * width, width), "ffn_up": (2 * width, width), "ffn_down": (width, 2 * width)}
    values |= {f"blk.0.{name}": matrix(*shape) for name, shape in shapes.items()}
    tensors = {name: (value, kind) for name, value in values.items()}
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    tensors |= {name: (np.ones(width, np.float32), "F32") for name in norms}

    def prepared(writer: Any) -> None:
        writer.add_context_length(100_000)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(2 * width)
        writer.add_head_count(2)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(width // 2)
        writer.add_add_bos_token(False)
        prepare(writer)

    return write_gguf(path, tensors, prepared)
