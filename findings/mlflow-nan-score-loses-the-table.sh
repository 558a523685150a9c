#!/bin/sh
# mlflow 3.17.2: one NaN among the scores makes `result_df` None and `passed` True, and nothing is raised.
#
# A good guess: `mlflow.genai.evaluate` returns a row for each row of data, with NaN where a scorer gave NaN, as pandas
# would. Seen: the aggregate is NaN, the whole table of results is None, and `passed`, which is False for the scores 0.5 and
# 1 (they are neither True nor "yes"), is True. Whoever reads the result must turn NaN into a failed score first.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$folder"
DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true "$folder/venv/bin/python" -W ignore - "$folder" 2> "$folder/log" <<'PYTHON'
import math
import sys

import mlflow
import mlflow.genai
from mlflow.genai.scorers import scorer

mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow.db")


@scorer
def share(outputs: str) -> float:
    return float(outputs)


def evaluated(*outputs: str):
    rows = [{"inputs": {"n": str(n)}, "outputs": output} for n, output in enumerate(outputs)]
    return mlflow.genai.evaluate(data=rows, scorers=[share])


whole, broken = evaluated("0.5", "1"), evaluated("0.5", "nan")
for name, result in (("two numbers", whole), ("a number and a NaN", broken)):
    rows = None if result.result_df is None else len(result.result_df)
    print(f"{name}: mean {result.metrics['share/mean']}, rows of result_df {rows}, passed {result.passed}")
assert len(whole.result_df) == 2
assert whole.passed is False
assert broken.result_df is None
assert math.isnan(broken.metrics["share/mean"])
assert broken.passed is True
PYTHON
