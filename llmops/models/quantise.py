"""Requantises a GGUF file with the `gguf` package, in numpy: a second version of a model, or what an engine loads.

The result depends only on the parent's bytes, the target type and the version of `gguf`, so it can be made again
anywhere and checked against its sha256.
"""

import json
import logging
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops.errors import Corrupted, UsageError
from llmops.hashing import file_sha256
from llmops.text_io import replace_text

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")

logger = logging.getLogger("llmops")
SLOW_TYPES = frozenset({"Q4_1", "Q5_0", "Q5_1"})
WIDE_TYPE = "Q8_0"
LARGEST_BYTES = 1 << 30
"""A larger file is used as it is stored: up to twice its size would not be worth the memory."""


def requantise(parent: Path, target: Path, type_name: str) -> None:
    """Writes `parent` to `target` with its quantised matrices stored as `type_name`.

    Matrices of the parent's own main quantisation are dequantised and quantised again; vectors, and matrices the
    parent keeps at a higher precision (such as the embedding at Q8_0), are copied as they are.

    Raises UsageError: `type_name` is none of TYPES, or does not fit a matrix's shape. Corrupted: the parent is not a
    readable GGUF file.
    """
    import gguf

    if type_name not in TYPES:
        raise UsageError(f"unknown quantisation {type_name!r}; known: {', '.join(TYPES)}")
    reader = read_gguf(parent)
    quant, source_type = gguf.GGMLQuantizationType[type_name], _main_type(reader)

    def change(tensor: Any) -> tuple[Any, Any]:
        if tensor.tensor_type != source_type or source_type == quant or len(tensor.shape) <= 1:
            return tensor.data, tensor.tensor_type
        try:
            return gguf.quants.quantize(gguf.quants.dequantize(tensor.data, source_type), quant), quant
        except (gguf.QuantError, NotImplementedError) as error:
            raise UsageError(f"{tensor.name}: cannot be stored as {type_name}: {error}") from error

    rewrite(reader, target, change, f"MOSTLY_{type_name}")


def rewrite(reader: Any, target: Path, change: Callable[[Any], tuple[Any, Any]], file_type: str | None = None) -> None:
    """Writes what `read_gguf` has read to `target`, with its metadata.

    change: gives the data of one of the reader's tensors, and its type. file_type: by gguf's name of it, in place of
    the one that was read.
    """
    import gguf

    writer = gguf.GGUFWriter(str(target), arch=architecture(reader))
    made_anew = ["general.architecture", *["general.file_type"] * (file_type is not None)]
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in made_anew:
            continue  # the writer makes its own
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=element)
    if file_type is not None:
        writer.add_file_type(gguf.LlamaFileType[file_type])
    for tensor in reader.tensors:
        data, kind = change(tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture(reader: Any) -> str:
    """The model family, such as `llama`, by which a GGUF's tensors and settings are named."""
    return str(reader.fields["general.architecture"].contents())


def read_gguf(path: Path) -> Any:
    """gguf's reader of the file. Raises Corrupted."""
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """Slices a plain array: five times as fast as the `numpy.memmap` of gguf 0.19.0."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    try:
        return Reader(str(path))
    except (ValueError, OSError) as error:
        raise Corrupted(f"{path}: not a readable GGUF file: {error}") from error


def _main_type(reader: Any) -> Any:
    """The type of most of the parent's matrices: the one to change. None when it has none."""
    kinds = [tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1]
    return max(set(kinds), key=kinds.count, default=None)


# Weights that llama.cpp is slow with, held in a wider type.
#
# llama.cpp's CPU kernels for Q4_1, Q5_0 and Q5_1 read one vector at a time, so that requests decoded side by side gain
# nothing. The same weights as Q8_0 are read and decoded about 1.4 times as fast (docs/adr/0008-weights-are-held-
# wide.md). A wide copy is made once beside the stored weights, which stay what is registered, hashed and checked.


def wide_path(stored: Path, sha256: str, folder: Path) -> Path:
    """What the engine should load for `stored`: a wide copy in `folder`, made when it is not there yet, or `stored`
    itself where that is no faster. A copy that is damaged is made again. Raises Corrupted: `stored` is no readable GGUF
    file."""
    if stored.stat().st_size > LARGEST_BYTES:
        return stored
    # What is made depends on the parent's bytes and on the package that makes it.
    name = f"{sha256[:16]}-{WIDE_TYPE}-{version('gguf')}"
    copy, note = folder / f"{name}.gguf", folder / f"{name}.json"
    if note.exists():
        made_sha256 = json.loads(note.read_text(encoding="utf-8"))["sha256"]
        if made_sha256 is None:
            return stored
        if copy.exists() and file_sha256(copy) == made_sha256:
            return copy
    folder.mkdir(parents=True, exist_ok=True)
    kind = _main_type(read_gguf(stored))
    if kind is None or kind.name not in SLOW_TYPES:
        replace_text(note, json.dumps({"sha256": None}))
        return stored
    logger.info("holding %s as %s, once", stored.name, WIDE_TYPE)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as making:
        made = Path(making) / copy.name
        requantise(stored, made, WIDE_TYPE)
        made_sha256 = file_sha256(made)
        made.replace(copy)
    replace_text(note, json.dumps({"sha256": made_sha256}))  # two processes may make the same copy at once
    return copy
