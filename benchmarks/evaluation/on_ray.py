"""`llmops eval run --on ray` with two nodes against the local runner: same rows, same stub upstream, same two cores.

    python -m benchmarks.evaluation.on_ray [--rows 20000] [--rounds 3]

Rows a second are counted from the first request to the last answer, as each run reports them; starting Ray, scoring's
end and recording in MLflow are in the wall time beside it. Exits 1 when the nodes make fewer than 0.9 times the local
runner's rows, or when any score differs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.evaluation.echo_upstream import echo_upstream
from benchmarks.evaluation.ours import KEY_VARIABLE, SUITE, Home
from benchmarks.evaluation.server import KEY
from deploy.services.ray_nodes import ray_nodes
from deploy.services.servers import free_port

AT_LEAST = 0.9
NODES, SLOTS = 2, 16
SECONDS = 0.02
"""Of one answer of the stub."""


def measured(folder: Path, url: str, rows: int, *options: str) -> tuple[float, float, dict[str, Any]]:
    """Rows a second, wall time in seconds, and the metrics of one run in a fresh home."""
    home = Home(folder, SLOTS)
    home.write_prompts(["Repeat: {{ question }}"])
    made = [
        {
            "id": f"r{number}",
            "inputs": {"question": f"Is {number} a number?"},
            "expectations": {"expected_response": f"{number} a number" if number % 2 else "purple"},
        }
        for number in range(rows)
    ]
    home.write_suite(made, {"contained": "contains", "exact": "exact_match", "words": "words"})
    home.register_model(f"openai:{url}#echo")
    home.register_prompts()
    report, wall = home.llmops("eval", "run", SUITE, *options)
    [run] = report["runs"]
    assert run["generated"] == rows
    return rows / run["seconds"], wall, run["metrics"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluation on two Ray nodes against the local runner.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios, same = [], True
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, {options.rows} rows, {NODES} nodes")
    os.environ[KEY_VARIABLE] = KEY  # the nodes', too
    with ray_nodes(NODES) as nodes, echo_upstream(free_port(), SECONDS) as url:
        os.environ["RAY_ADDRESS"] = nodes.address
        for number in range(options.rounds):
            # Whoever begins changes, because the machine's load does.
            order = ((), ("--on", "ray"))[:: 1 if number % 2 == 0 else -1]
            found = {}
            for given in order:
                with tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder:
                    found[given] = measured(Path(folder), url, options.rows, *given)
            (local, local_wall, local_metrics), (ray, ray_wall, ray_metrics) = (found[()], found["--on", "ray"])
            ratios.append(ray / local)
            same = same and local_metrics == ray_metrics
            print(f"local {local:.0f} rows/s (wall {local_wall:.0f} s), ray {ray:.0f} rows/s (wall {ray_wall:.0f} s):"
                  f" {ray / local:.2f}, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    ratio = statistics.median(ratios)
    met = ratio >= AT_LEAST and same
    print(f"{'met   ' if met else 'MISSED'} {ratio:.2f} times the local runner's rows, at least {AT_LEAST} is asked;"
          f" the same metrics: {same}")  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
