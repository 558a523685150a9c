"""Compares this build with an earlier commit: `python -m benchmarks PART… --against REV`.

The commit is unpacked into a folder of its own. Each round measures both builds, in the other order the next time. A
ratio is this build's figure over the other's, so above 1 is worse: the geometric mean over rounds, with Student's
interval on the logarithms, 95 %. A figure is worse when its interval lies wholly above 1.05.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

from benchmarks.costs import PARTS, REPOSITORY, Build, Figures, Measure, earlier

WORSE = 1.05
FEWEST_ROUNDS = 5


def ratio(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the rounds' ratios, and the ends of its 95 % interval (Student's t of the logarithms)."""
    logs = [math.log(mine / other) for mine, other in zip(ours, others, strict=True)]
    middle = statistics.fmean(logs)
    half = float(student.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of two builds. ours, others: medians. ratio: of this build to the other; low, high: its interval."""

    name: str
    ours: float
    others: float
    ratio: float
    low: float
    high: float


def measured(part: str, builds: Sequence[Build], rounds: int) -> Iterator[Compared]:
    """Measures a part of two builds, this one first, in turns."""
    found: dict[str, list[Figures]] = {build.name: [] for build in builds}
    with ExitStack() as stack:
        measures: dict[str, Measure] = {}
        for build in builds:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmops-against-")))
            measures[build.name] = stack.enter_context(PARTS[part](build, folder))
        for number in range(rounds):
            for name in list(measures)[:: 1 if number % 2 == 0 else -1]:
                started = time.perf_counter()
                found[name].append(measures[name]())
                seconds = time.perf_counter() - started
                print(f"{part}, round {number + 1} of {rounds}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    mine, others = found.values()
    for name in mine[0]:
        series = [round_[name] for round_ in mine], [round_[name] for round_ in others]
        yield Compared(name, statistics.median(series[0]), statistics.median(series[1]), *ratio(*series))


def compare(part: str, builds: Sequence[Build], rounds: int) -> list[str]:
    """Prints a table of the figures of two builds, this one first. Returns the names of those that are worse."""
    worse = []
    print(f"{part:46}{builds[1].name[:12]:>13}{builds[0].name:>13}  ratio, 95 %")
    for each in measured(part, builds, rounds):
        worse += [each.name] if each.low > WORSE else []
        told = "worse" if each.low > WORSE else "better" if each.high < 1 else ""
        spread = f"{each.ratio:.3f} ({each.low:.3f} to {each.high:.3f})"
        print(f"{each.name:46}{each.others:13.3f}{each.ours:13.3f}  {spread} {told}")
    return worse


def run(parts: Sequence[str], revision: str, rounds: int) -> list[str]:
    """Compares each part. Returns the parts with a figure that is worse."""
    with earlier(revision) as other:
        return [part for part in parts if compare(part, (Build("this", REPOSITORY), other), rounds)]
