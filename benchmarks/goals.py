"""Whether this build is as fast and small as it is meant to be: `python -m benchmarks.goals [PART…] [--write]`.

Each figure is measured on this build and on `BASELINE`, in alternating rounds; what a request costs, beside a bare
pass-through and LiteLLM's proxy; and what a row of an evaluation takes, beside the upstream that answers it. A goal is
the most that a ratio may be. With `--write`, the table goes into docs/performance.md, where parts that were not
measured keep their lines. Exits 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.against import measured, ratio
from benchmarks.costs import REPOSITORY, Build, earlier
from benchmarks.evaluation import at_scale
from benchmarks.gateway import overhead
from benchmarks.gateway.contenders import DEFAULT_CACHE, LITELLM, install_litellm, side_by_side

BASELINE = "f6b377d"
PAGE = REPOSITORY / "docs/performance.md"
GOALS = {
    "commands": {
        **dict.fromkeys((f"{name}, CPU s" for name in ("prompts", "models list", "release list")), 1 / 3),
        **dict.fromkeys((f"{name}, CPU s" for name in ("promote", "rollback")), 1 / 3),
        **dict.fromkeys((f"{name}, CPU s" for name in ("eval compare", "eval run")), 1 / 2.5),
        **dict.fromkeys((f"{name}, MB" for name in ("prompts", "models list", "release list")), 1 / 2),
        **dict.fromkeys((f"{name}, MB" for name in ("promote", "rollback")), 1 / 2),
    },
    "recording": {"evaluate, CPU ms a row": 11 / 21, "bulk, CPU ms a row": 3 / 5.5},
    "worker": {"a worker at start, MB": 100 / 251},
    "local-model": {
        "engine process with a model, MB": 0.45 / 0.97,
        "1 clients, ms a token": 1.0,
        "8 clients, ms a token": 1 / 2.2,
        "32 clients, ms a token": 1 / 3,
    },
    "demo": {"demo, s": 0.5},
}
"""The most that this build's figure may be of the baseline's, by part and figure."""

PEERS, SCALE = "gateway", "evaluation"
PARTS = (*GOALS, PEERS, SCALE)
OF_BARE, OF_LITELLM = {False: 1.8, True: 2.2}, 1 / 15
"""The most CPU time of a whole and of a streamed request, of the bare pass-through's and of LiteLLM's."""

OF_UPSTREAM = 1 / at_scale.AT_LEAST
"""The most time of a row, of the time that the upstream's places leave for a request."""
SCALE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Held:
    """One line of the table. before, after: medians; before is the baseline's or the peer's."""

    name: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    at_most: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.at_most

    def __str__(self) -> str:
        spread = f"{self.ratio:.2f} ({self.low:.2f}–{self.high:.2f})"
        met = "yes" if self.met else "**no**"
        return f"| {self.name} | {self.before:.3g} | {self.after:.3g} | {spread} | {self.at_most:.2f} | {met} |"


def against_baseline(part: str, rounds: int) -> Iterator[Held]:
    with earlier(BASELINE) as other:
        for each in measured(part, (Build("this", REPOSITORY), other), rounds):
            if (at_most := GOALS[part].get(each.name)) is not None:
                numbers = (each.others, each.ours, each.ratio, each.low, each.high)
                yield Held(f"{part}: {each.name}", *numbers, at_most)


def against_peers(rounds: int) -> Iterator[Held]:
    command = install_litellm(DEFAULT_CACHE)
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as name, side_by_side(Path(name), command) as gateways:
        found = overhead.turns(gateways, 4.0, rounds, concurrencies=(1,))
    for stream, of_bare in OF_BARE.items():
        mine = found["llmops", 1, stream].cpu
        for peer, at_most in (("bare", of_bare), ("litellm", OF_LITELLM)):
            theirs = found[peer, 1, stream].cpu
            medians = statistics.median(theirs), statistics.median(mine)
            title = {"bare": "a bare pass-through", "litellm": f"LiteLLM {LITELLM}"}[peer]
            kind = overhead.kind(stream)
            yield Held(f"{PEERS}: a {kind} request beside {title}, CPU ms", *medians, *ratio(mine, theirs), at_most)


def against_upstream(rounds: int) -> Iterator[Held]:
    theirs = 1000 * at_scale.SECONDS / at_scale.PLACES
    mine = [1000 / at_scale.measured(SCALE_ROWS)[0] for _ in range(rounds)]
    title = f"{SCALE}: a row beside its upstream's pace, ms"
    yield Held(title, theirs, statistics.median(mine), *ratio(mine, [theirs] * rounds), OF_UPSTREAM)


MEASURES = {PEERS: against_peers, SCALE: against_upstream}


def page(lines: Iterable[str], rounds: int) -> str:
    table = "\n".join(lines)
    return f"""# Performance

Made by `python -m benchmarks.goals --write`: {rounds} alternating rounds on {os.cpu_count()} cores
({platform.machine()}), Python {platform.python_version()}. "Before" is commit `{BASELINE}`, or the peer that is named.
A ratio is after over before: the geometric mean over rounds and its 95 % interval. The goal is the most that it may be.

| cost | before | after | ratio | goal | met |
| --- | --- | --- | --- | --- | --- |
{table}

Each command runs in a home of its own with a registered model and two releases; `eval compare` and `eval run` work on
100 rows with four scorers, all of them reused. Recording is what a further row costs, its scores included, with
`mlflow.genai.evaluate` and in bulk. The local model is SmolLM2-135M in Q4_1 on the default engine, asked through the
gateway. The demo begins with an empty home, after the installation. The upstream answers at most 500 requests a second,
one process asks it for {SCALE_ROWS:,} rows with three scorers (`python -m benchmarks evaluation-at-scale`: for 100,000,
and what memory they take). A part that was not measured yet has no line.
"""


def kept_lines(parts: Sequence[str]) -> dict[str, list[str]]:
    """The page's lines about each part, but for those that are measured anew."""
    known = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    return {part: [line for line in known if line.startswith(f"| {part}: ")] for part in PARTS if part not in parts}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures this build against its goals.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(REPOSITORY)}")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    parts, missed = options.parts or PARTS, []
    lines = kept_lines(parts)
    for part in parts:
        held = list(MEASURES[part](options.rounds) if part in MEASURES else against_baseline(part, options.rounds))
        lines[part] = list(map(str, held))
        missed += [line.name for line in held if not line.met]
        print("\n".join(lines[part]), flush=True)
        if options.write:
            ordered = (line for each in PARTS for line in lines.get(each, ()))
            PAGE.write_text(page(ordered, options.rounds), encoding="utf-8")
    print(f"missed: {'; '.join(missed)}" if missed else "every goal is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
