"""What 1,000 requests a second and 100 million logged rows a month need: prints the tables of docs/scale.md.

python -m benchmarks.scale            from the figures kept in figures.json, and inputs.toml
python -m benchmarks.scale --write    … and writes them into the page, as after a change of inputs.toml
python -m benchmarks.scale --measure  measures first, on a quiet machine, keeps the figures, and writes the page
"""

from __future__ import annotations

import argparse
import json

from benchmarks.scale import capacity
from benchmarks.scale.measure import measure


def main() -> None:
    parser = argparse.ArgumentParser(description="Capacity for a large load, from costs measured here.")
    parser.add_argument("--measure", action="store_true", help="measure anew; writes figures.json and docs/scale.md")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run under load; default: %(default)s")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scale.md")
    options = parser.parse_args()
    if options.measure:
        capacity.FIGURES.write_text(json.dumps(measure(options.seconds), indent=1) + "\n", encoding="utf-8")
    tables = capacity.tables(*capacity.read())
    if options.measure or options.write:
        page = capacity.filled(capacity.PAGE.read_text(encoding="utf-8"), tables)
        capacity.PAGE.write_text(page, encoding="utf-8")
    print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
