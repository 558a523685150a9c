"""Error rates, coverage, power and speed of the statistics, by simulation; exits 1 when a claim does not hold.

    python -m benchmarks.evaluation.statistics

A rate is held against its bound with the error of the simulation allowed for: a claim fails when a true rate at the
bound would give what was measured less than once in 1,000 simulations. Seeds are fixed.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from llmops.evaluation.agreement import cohen_kappa, weighted_kappa
from llmops.evaluation.paired_tests import paired_test
from llmops.evaluation.power import Discordance, Spread, power_of
from llmops.evaluation.sequential import SequentialTest
from llmops.evaluation.statistics import mean_interval

REPETITIONS = 4000
RESAMPLES = 999
ALPHA = 0.05

Drawn = tuple[list[Any], list[Any], list[int] | None]
Draw = Callable[[Any, float], Drawn]


@dataclass(frozen=True)
class Claim:
    """A line of the table."""

    text: str
    measured: str
    bound: str
    holds: bool


def at_most(text: str, found: int, of: int, rate: float) -> Claim:
    highest = float(stats.binom.ppf(0.999, of, rate)) / of
    return Claim(text, f"{100 * found / of:.1f} %", f"≤ {100 * rate:.0f} %", found / of <= highest)


def at_least(text: str, found: int, of: int, rate: float) -> Claim:
    lowest = float(stats.binom.ppf(0.001, of, rate)) / of
    return Claim(text, f"{100 * found / of:.1f} %", f"≥ {100 * rate:.0f} %", found / of >= lowest)


def near(text: str, found: int, of: int, rate: float, slack: float) -> Claim:
    """slack: how far the true rate may lie from the one predicted."""
    low, high = stats.binom.ppf([0.001, 0.999], of, rate) / of
    holds = low - slack <= found / of <= high + slack
    return Claim(text, f"{100 * found / of:.1f} %", f"{100 * rate:.1f} % ± {100 * slack:.0f}", bool(holds))


# What is compared. The number given is the true gain.


def truths(rows: int, discordant: float) -> Draw:
    def drawn(generator: Any, gain: float) -> Drawn:
        share = max(discordant, gain)
        change = generator.choice([1, -1, 0], rows, p=[(share + gain) / 2, (share - gain) / 2, 1 - share])
        return (change < 0).tolist(), (change > 0).tolist(), None

    return drawn


def numbers(rows: int, noise: Callable[[Any, int], Any]) -> Draw:
    def drawn(generator: Any, gain: float) -> Drawn:
        return [0.0] * rows, (noise(generator, rows) + gain).tolist(), None

    return drawn


def clustered_truths(count: int) -> Draw:
    """Passages of 1 to 20 questions; a passage as a whole gains or loses, and nothing on average."""

    def drawn(generator: Any, _gain: float) -> Drawn:
        clusters = passages(generator, count)
        ability = generator.beta(1, 1, count)[clusters]
        moved = np.clip(ability + generator.normal(0, 0.25, count)[clusters], 0, 1)
        a, b = (generator.random(len(clusters)) < chance for chance in (ability, moved))
        return a.tolist(), b.tolist(), clusters.tolist()

    return drawn


def clustered_numbers(count: int) -> Draw:
    def drawn(generator: Any, gain: float) -> Drawn:
        clusters = passages(generator, count)
        together, alone = generator.normal(0, 0.2, count)[clusters], generator.normal(0, 0.2, len(clusters))
        return [0.0] * len(clusters), (gain + together + alone).tolist(), clusters.tolist()

    return drawn


def equal_clusters(count: int) -> Draw:
    def drawn(generator: Any, gain: float) -> Drawn:
        clusters = np.repeat(np.arange(count), 5)
        together, alone = generator.normal(0, 0.2, count)[clusters], generator.normal(0, 0.2, len(clusters))
        return [0.0] * len(clusters), (gain + together + alone).tolist(), clusters.tolist()

    return drawn


def clustered_losses(count: int) -> Draw:
    """One passage in ten loses most of its rows, nothing gains; `gain` is ignored, the truth is −0.06."""

    def drawn(generator: Any, _gain: float) -> Drawn:
        clusters = passages(generator, count)
        lost = (generator.random(count) < 0.1)[clusters] & (generator.random(len(clusters)) < 0.6)
        return [True] * len(clusters), (~lost).tolist(), clusters.tolist()

    return drawn


def passages(generator: Any, count: int) -> Any:
    return np.repeat(np.arange(count), np.ceil(generator.lognormal(1, 0.8, count)).astype(int).clip(1, 20))


def even(generator: Any, rows: int) -> Any:
    return generator.normal(0, 0.2, rows)


def thirds(generator: Any, rows: int) -> Any:
    return generator.choice([-2 / 3, -1 / 3, 0, 1 / 3, 2 / 3], rows, p=[0.04, 0.08, 0.76, 0.08, 0.04])


def seconds(generator: Any, rows: int) -> Any:
    return generator.lognormal(3, 0.8, rows) - generator.lognormal(3, 0.8, rows)


def one_sided(generator: Any, rows: int) -> Any:
    """Small gains and rare large ones, of mean 0."""
    return generator.beta(0.7, 5, rows) - 0.7 / 5.7


def much_lost(generator: Any, rows: int) -> Any:
    """Small gains, and one large loss in twelve, of mean 0."""
    return generator.choice([-11 / 12, 1 / 12], rows, p=[1 / 12, 11 / 12])


def exponential(generator: Any, rows: int) -> Any:
    return generator.exponential(1, rows) - 1


def rare(generator: Any, rows: int) -> Any:
    """3 % of the rows lose half their score, the others nothing: a mean of −0.015, and often no loss is seen."""
    return generator.choice([-0.5, 0.0], rows, p=[0.03, 0.97])


def false_findings() -> Iterator[Claim]:
    compared = {
        "McNemar, 100 rows, 30 % discordant": truths(100, 0.3),
        "McNemar, 100 rows, 5 % discordant": truths(100, 0.05),
        "permutation, 50 rows, normal": numbers(50, even),
        "permutation, 50 rows, thirds with ties": numbers(50, thirds),
        "permutation, 50 rows, heavy tails": numbers(50, seconds),
        "40 rows, exponential": numbers(40, exponential),
        "40 rows, one in twelve loses much": numbers(40, much_lost),
        "120 rows, exponential": numbers(120, exponential),
        "permutation, 25 clusters of truth values": clustered_truths(25),
        "permutation, 25 clusters of numbers": clustered_numbers(25),
    }
    for name, drawn in compared.items():
        generator, found = np.random.default_rng(1), 0
        for number in range(REPETITIONS):
            a, b, clusters = drawn(generator, 0.0)
            found += paired_test(a, b, clusters=clusters, resamples=RESAMPLES, seed=number).p_value < ALPHA
        yield at_most(f"found where nothing is: {name}", found, REPETITIONS, ALPHA)


def coverage() -> Iterator[Claim]:
    compared: dict[str, tuple[Draw, float]] = {}
    for rows in (30, 120):
        compared[f"{rows} rows of truth values, 15 % discordant"] = truths(rows, 0.15), 0.0
        for noise, truth in ((even, 0.0), (thirds, 0.0), (seconds, 0.0), (one_sided, 0.0), (rare, -0.015)):
            compared[f"{rows} rows, {noise.__name__.replace('_', '-')}"] = numbers(rows, noise), truth
    for count in (20, 40):
        compared[f"{count} clusters of truth values"] = clustered_truths(count), 0.0
        compared[f"{count} clusters of numbers"] = clustered_numbers(count), 0.0
        compared[f"{count} clusters, one in ten loses"] = clustered_losses(count), -0.06
    for name, (drawn, truth) in compared.items():
        generator, covered, ruled_out, contradicted = np.random.default_rng(2), 0, 0, 0
        for _ in range(REPETITIONS):
            a, b, clusters = drawn(generator, 0.0)
            found = paired_test(a, b, clusters=clusters, resamples=RESAMPLES)
            low, high = found.ci95 or (-math.inf, math.inf)
            covered += low <= truth <= high
            ruled_out += low > truth
            contradicted += (found.p_value < ALPHA) != (low > 0 or high < 0)
        yield at_least(f"difference covered: {name}", covered, REPETITIONS, 0.93)
        yield at_most(f"a loss as large as the margin ruled out: {name}", ruled_out, REPETITIONS, ALPHA / 2 + 0.015)
        yield at_most(f"p and interval contradict each other: {name}", contradicted, REPETITIONS, 0.0)


def coverage_of_means() -> Iterator[Claim]:
    for count in (10, 20, 40):
        generator, covered, covered_share = np.random.default_rng(3), 0, 0
        for _ in range(REPETITIONS):
            _, values, clusters = clustered_numbers(count)(generator, 0.5)
            low, high = mean_interval(values, clusters) or (-math.inf, math.inf)
            covered += low <= 0.5 <= high
            share, _, clusters = clustered_truths(count)(generator, 0.0)
            low, high = mean_interval(share, clusters) or (-math.inf, math.inf)
            covered_share += low <= 0.5 <= high
        yield at_least(f"mean covered: {count} clusters of numbers", covered, REPETITIONS, 0.93)
        yield at_least(f"share covered: {count} clusters of truth values", covered_share, REPETITIONS, 0.93)


def power() -> Iterator[Claim]:
    generator = np.random.default_rng(4)
    compared: dict[str, tuple[Draw, float, float]] = {
        f"{rows} rows of truth values, {share:.0%} discordant": (truths(rows, share), gap, noise.power(rows, gap))
        for rows, share in ((50, 0.4), (100, 0.15), (500, 0.05))
        for noise in [Discordance(share)]
        for gap in [noise.detectable(rows)]
    }
    for rows, noise in ((50, even), (100, thirds), (200, seconds)):
        deviation = float(noise(generator, 1_000_000).std())
        compared[f"{rows} rows, {noise.__name__}"] = numbers(rows, noise), Spread(deviation).detectable(rows), 0.8
    for name, drawn in {
        "12 clusters of 5 numbers": equal_clusters(12),
        "40 clusters of 5 numbers": equal_clusters(40),
        "12 unequal clusters of numbers": clustered_numbers(12),
        "40 unequal clusters of numbers": clustered_numbers(40),
    }.items():
        stated = [
            power_of(a, b, clusters=clusters).detectable
            for a, b, clusters in (drawn(generator, 0.0) for _ in range(200))
        ]
        compared[name] = drawn, float(np.mean(stated)), 0.8
    for name, (drawn, gap, predicted) in compared.items():
        found = 0
        for number in range(REPETITIONS):
            a, b, clusters = drawn(generator, gap)
            found += paired_test(a, b, clusters=clusters, resamples=RESAMPLES, seed=number).p_value < ALPHA
        yield near(f"found at the detectable difference: {name}", found, REPETITIONS, predicted, 0.02)


Path = Callable[[Any, float], Any]


def sequential() -> Iterator[Claim]:
    def flips(discordant: float) -> Path:
        return lambda generator, gain: generator.choice(
            [1.0, -1.0, 0.0], 500, p=[(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
        )

    compared: dict[str, tuple[Path, float]] = {
        "truth values, 4 % discordant": (flips(0.04), 0.03),
        "truth values, 40 % discordant": (flips(0.4), 0.15),
        "truth values, all discordant": (flips(1.0), 0.2),
        "skewed numbers": (lambda generator, gain: generator.beta(0.3, 2.7, 500) - 0.1 + gain, 0.05),
        "normal numbers": (lambda generator, gain: np.clip(generator.normal(gain, 0.2, 500), -1, 1), 0.05),
    }
    for name, (drawn, gain) in compared.items():
        generator = np.random.default_rng(5)
        wrong = sum(decided(drawn(generator, 0.0), 0.0) for _ in range(REPETITIONS))
        yield at_most(f"500 looks, found where nothing is: {name}", wrong, REPETITIONS, ALPHA)
        left = sum(decided(drawn(generator, gain), gain) for _ in range(REPETITIONS))
        yield at_most(f"500 looks, interval ever left the truth: {name}", left, REPETITIONS, ALPHA)
    generator = np.random.default_rng(6)
    for name, (drawn, gain) in list(compared.items())[1:]:
        found = sum(decided(drawn(generator, gain), 0.0) for _ in range(1000))
        yield at_least(f"found in 500 rows: {name}, gain {gain:g}", found, 1000, 0.9)


def decided(path: Any, mean: float) -> bool:
    """Whether the mean is rejected at any of the looks, one after every row."""
    test = SequentialTest(low=-1 - mean, high=1 - mean)
    test.update(path - mean)
    return test.decided


def kappas() -> Iterator[Claim]:
    margins = {"50:50": [0.5, 0.5], "80:20": [0.8, 0.2], "5 ratings": [0.1, 0.15, 0.2, 0.25, 0.3]}
    for rows in (30, 100):
        for name, shares in margins.items():
            for kappa in (0.0, 0.4, 0.7, 0.9):
                table = kappa * np.diag(shares) + (1 - kappa) * np.outer(shares, shares)
                generator, repetitions, covered = np.random.default_rng(7), REPETITIONS // 4, 0
                measure = weighted_kappa if len(shares) > 2 else cohen_kappa
                cells = [divmod(place, len(shares)) for place in range(len(shares) ** 2)]
                for _ in range(repetitions):
                    drawn = generator.choice(len(cells), rows, p=table.ravel())
                    people, judge = zip(*(cells[place] for place in drawn), strict=True)
                    low, high = measure(people, judge).ci95 or (-1.0, 1.0)
                    covered += low <= kappa <= high
                yield at_least(f"κ covered: {rows} labels, {name}, κ = {kappa:g}", covered, repetitions, 0.92)


def speed() -> Iterator[Claim]:
    generator = np.random.default_rng(8)
    for rows, most in ((1_000, 0.3), (100_000, 2.0)):
        a, b = generator.random((2, rows)).tolist()
        clusters = generator.integers(0, rows // 5, rows).tolist()
        for name, given in (("", None), (" in clusters", clusters)):
            start = time.process_time()
            paired_test(a, b, clusters=given)
            took = time.process_time() - start
            yield Claim(f"comparing {rows} rows{name}", f"{took:.3f} s", f"≤ {most:g} s", took <= most)
    tracemalloc.start()
    paired_test(a, b)
    megabytes = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    yield Claim("memory of comparing 100000 rows", f"{megabytes:.0f} MB", "≤ 64 MB", megabytes <= 64)


def main() -> int:
    claims = []
    print(f"{'claim':78} {'measured':>10} {'bound':>12}")
    for part in (false_findings, coverage, coverage_of_means, power, sequential, kappas, speed):
        for claim in part():
            claims.append(claim)
            shown = "ok" if claim.holds else "NOT"
            print(f"{claim.text:78} {claim.measured:>10} {claim.bound:>12}  {shown}", flush=True)
    failed = sum(not claim.holds for claim in claims)
    print(f"{len(claims) - failed} of {len(claims)} claims hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
