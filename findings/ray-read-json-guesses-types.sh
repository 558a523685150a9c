#!/bin/sh
# ray 2.60.0: `ray.data.read_json(lines=True)` turns JSON strings into numbers and times.
#
# A good guess: JSON is typed, so a string stays a string, as with pyarrow or the datasets library. Seen: with `lines=True`
# each block is read by pandas, which guesses. "007" becomes 7, "1.10" becomes 1.1, an integer beside a null becomes a
# float, and a column whose name ends in `_at` becomes times. Without `lines` the strings stay, but ISO dates become
# times. An eval set read so has other ids and answers than its file. What survives exactly is a row carried as JSON text.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0" "pandas<3"
cat > "$folder/rows.jsonl" <<'ROWS'
{"id": "007", "version": "1.10", "count": 3, "asked_at": "1234567890", "day": "2026-01-31"}
{"id": "008", "version": "1.20", "count": null, "asked_at": "1234567891", "day": "2026-02-01"}
ROWS
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore - "$folder/rows.jsonl" 2> "$folder/log" <<'PYTHON'
import json
import sys

import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
path = sys.argv[1]
told = [json.loads(line) for line in open(path)]
lines = ray.data.read_json(path, lines=True).take_all()
plain = ray.data.read_json(path).take_all()
texts = [json.loads(row["text"]) for row in ray.data.read_text(path).take_all()]
for name in told[0]:
    print(f"{name:9} file {told[0][name]!r:14} lines=True {lines[0][name]!r:42} without {plain[0][name]!r}")
assert lines[0]["id"] == 7
assert lines[0]["version"] == 1.1
assert isinstance(lines[0]["count"], float)
assert not isinstance(lines[0]["asked_at"], str)
assert plain[0]["id"] == "007"
assert not isinstance(plain[0]["day"], str)
assert texts == told
ray.shutdown()
PYTHON
