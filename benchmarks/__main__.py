"""Runs the benchmarks by name: `python -m benchmarks [engines] [evaluation] [gateway] …`; all of them by default.

Each runs in a process of its own. Exits 1 when one of them failed or missed a criterion.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

PARTS = {
    "engines": "benchmarks.engines",
    "evaluation": "benchmarks.evaluation.runners",
    "gateway": "benchmarks.gateway.overhead",
    "endurance": "benchmarks.gateway.endurance",
    "local-model": "benchmarks.gateway.local_model",
    "statistics": "benchmarks.evaluation.statistics",
    "descriptors": "benchmarks.monitoring.descriptors",
    "monitoring-incremental": "benchmarks.monitoring.incremental",
    "monitoring-verdict": "benchmarks.monitoring.verdict",
    "monitoring-alarms": "benchmarks.monitoring.simulation",
    "monitoring-replay": "benchmarks.monitoring.real_replay",
    "predict": "benchmarks.labs.predict",
    "labs-quiet": "benchmarks.labs.quiet",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Reproduces the speed claims of the docs."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := sorted(set(parts) - PARTS.keys()):
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    failed = []
    for part in parts:
        print(f"== {part} ==", flush=True)
        if subprocess.run([sys.executable, "-m", PARTS[part]], check=False).returncode:
            failed.append(part)
    print(f"failed or missed a criterion: {', '.join(failed)}" if failed else "all done, every criterion met")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
