"""Runs the benchmarks by name: `python -m benchmarks [engines] [evaluation] [gateway] …`; all of them by default.

Each runs in a process of its own. Exits 1 when one of them failed or missed a criterion. With `--against REV` the parts
that `benchmarks.against` knows are measured on this build and on that commit in turn; exits 1 when this one is worse.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import against, costs

PARTS = {
    "goals": "benchmarks.goals",
    "engines": "benchmarks.engines",
    "evaluation": "benchmarks.evaluation.runners",
    "evaluation-at-scale": "benchmarks.evaluation.at_scale",
    "evaluation-on-ray": "benchmarks.evaluation.on_ray",
    "gateway": "benchmarks.gateway.overhead",
    "endurance": "benchmarks.gateway.endurance",
    "local-model": "benchmarks.gateway.local_model",
    "finetune": "benchmarks.finetune",
    "statistics": "benchmarks.evaluation.statistics",
    "descriptors": "benchmarks.monitoring.descriptors",
    "monitoring-incremental": "benchmarks.monitoring.incremental",
    "monitoring-verdict": "benchmarks.monitoring.verdict",
    "monitoring-alarms": "benchmarks.monitoring.simulation",
    "monitoring-replay": "benchmarks.monitoring.real_replay",
    "predict": "benchmarks.labs.predict",
    "labs-quiet": "benchmarks.labs.quiet",
    "scale": "benchmarks.scale",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Reproduces the speed claims of the docs."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--against", metavar="REV", help="compare with this earlier commit instead")
    parser.add_argument("--rounds", type=int, default=against.FEWEST_ROUNDS, help="of --against; default: %(default)s")
    given = parser.parse_args()
    known = costs.PARTS if given.against else PARTS
    parts = given.parts or list(known)
    if unknown := sorted(set(parts) - known.keys()):
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(known)}")
    if given.against:
        if given.rounds < against.FEWEST_ROUNDS:
            parser.error(f"--rounds must be at least {against.FEWEST_ROUNDS}")
        worse = against.run(parts, given.against, given.rounds)
        print(f"worse than {given.against}: {', '.join(worse)}" if worse else f"nothing is worse than {given.against}")
        return 1 if worse else 0
    failed = []
    for part in parts:
        print(f"== {part} ==", flush=True)
        if subprocess.run([sys.executable, "-m", PARTS[part]], check=False).returncode:
            failed.append(part)
    print(f"failed or missed a criterion: {', '.join(failed)}" if failed else "all done, every criterion met")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
