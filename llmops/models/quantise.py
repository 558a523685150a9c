"""Requantises a GGUF file with the `gguf` package, in numpy: a second version of a model, made locally.

The result depends only on the parent's bytes, the target type and the version of `gguf`, so it can be made again
anywhere and checked against its sha256.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmops.errors import Corrupted, UsageError

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")

Progress = Callable[[int, int], None]


def requantise(parent: Path, target: Path, type_name: str, progress: Progress | None = None) -> None:
    """Writes `parent` to `target` with its quantised matrices stored as `type_name`.

    Matrices of the parent's own main quantisation are dequantised and quantised again; vectors, and matrices the
    parent keeps at a higher precision (such as the embedding at Q8_0), are copied as they are.

    Raises:
        UsageError: `type_name` is none of TYPES, or does not fit a matrix's shape.
        Corrupted: the parent is not a readable GGUF file.
    """
    if type_name not in TYPES:
        raise UsageError(f"unknown quantisation {type_name!r}; known: {', '.join(TYPES)}")
    import gguf

    reader = _reader(parent)
    quant = gguf.GGMLQuantizationType[type_name]
    source_type = _main_type(reader)
    writer = gguf.GGUFWriter(str(target), arch=_text(reader, "general.architecture"))
    _copy_metadata(gguf, reader, writer, type_name)
    for done, tensor in enumerate(reader.tensors, 1):
        data, kind = tensor.data, tensor.tensor_type
        if kind == source_type and kind != quant and len(tensor.shape) > 1:
            try:
                data, kind = gguf.quants.quantize(gguf.quants.dequantize(data, kind), quant), quant
            except (gguf.QuantError, NotImplementedError) as error:
                raise UsageError(f"{tensor.name}: cannot be stored as {type_name}: {error}") from error
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
        if progress is not None:
            progress(done, len(reader.tensors))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main_type(path: Path) -> str | None:
    """The type of most of a file's matrices, such as `Q4_1`; None when it has none. Raises Corrupted."""
    found = _main_type(_reader(path))
    return None if found is None else str(found.name)


def _reader(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(str(path))
    except (ValueError, OSError) as error:
        raise Corrupted(f"{path}: not a readable GGUF file: {error}") from error


def _main_type(reader: Any) -> Any:
    """The type of most of the parent's matrices: the one to change. None when it has none."""
    kinds = [tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1]
    return max(set(kinds), key=kinds.count, default=None)


def _text(reader: Any, key: str) -> str:
    return str(reader.fields[key].contents())


def _copy_metadata(gguf: Any, reader: Any, writer: Any, type_name: str) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue  # the writer makes its own
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=element)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{type_name}"])
