#!/bin/sh
# gguf 0.19.0: weights that were quantised once take no small change when they are quantised again; of a fine-tune merged
# into a 4-bit file, little is left.
#
# A good guess: quantising anew costs about what it cost the first time, noise on top of what was learned. Seen: values that
# lie on a block's levels go back to these very levels. Of a change of a tenth of a level 3 % is left (Q4_0) or 8 % (Q4_1);
# Q8_0 keeps all of it.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from gguf import GGMLQuantizationType as Types
from gguf.quants import dequantize, quantize

chance = np.random.default_rng(0)
trained = chance.standard_normal((512, 4096)).astype(np.float32)


def kept(base_type: Types, stored_type: Types) -> float:
    """The share of a small change that is left: 1 whole, 0 none (the change regressed on itself)."""
    base = dequantize(quantize(trained, base_type), base_type)
    level = np.ptp(base.reshape(-1, 32), axis=1).mean() / 15
    change = (chance.standard_normal(base.shape) * level / 10).astype(np.float32)
    stored = dequantize(quantize(base + change, stored_type), stored_type)
    return float(((stored - base) * change).sum() / (change * change).sum())


found = {}
for base_type, stored_type in ((Types.Q4_0, Types.Q4_0), (Types.Q4_1, Types.Q4_1), (Types.Q4_1, Types.Q8_0)):
    found[base_type.name, stored_type.name] = kept(base_type, stored_type)
    left = found[base_type.name, stored_type.name]
    print(f"{base_type.name}, changed by a tenth of a level, stored as {stored_type.name}: {left:.2f} of it is left")

assert found["Q4_0", "Q4_0"] < 0.2
assert found["Q4_1", "Q4_1"] < 0.2
assert found["Q4_1", "Q8_0"] > 0.9
PYTHON
