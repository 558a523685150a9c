"""Successive halving: many candidates on few rows, the better half of them on twice as many, and so on.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", 2016. The rows of a
rung include those of the one before, whose answers are not made again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import UsageError

_FEWEST_ROWS = 8
"""Of the first rung: fewer say nothing of a candidate."""


@dataclass(frozen=True, slots=True)
class Rung:
    """So many candidates on so many rows, the first ones of selection."""

    candidates: int
    rows: int


def schedule(available: int, rows: int, budget: int) -> list[Rung]:
    """The rungs of the largest race that the budget allows.

    available: candidates that there can be.
    rows: to select by; the last rung takes all of them.
    budget: answers that may be asked for; those of the current prompt to all rows are part of it.

    Raises UsageError: it does not even pay for one candidate.
    """
    if budget < 2 * rows:
        raise UsageError(f"budget: {rows} rows select, so that one candidate and the current prompt need {2 * rows}")
    sizes = [rows]
    while sizes[0] // 2 >= _FEWEST_ROWS:
        sizes.insert(0, sizes[0] // 2)

    def rungs(entrants: int) -> list[Rung]:
        return [Rung(-(-entrants // 2**number), size) for number, size in enumerate(sizes)]

    entrants = 1
    while entrants < available and rows + cost(rungs(entrants + 1)) <= budget:
        entrants += 1
    return rungs(entrants)


def cost(rungs: Sequence[Rung]) -> int:
    """Answers that a race asks for."""
    before = 0
    total = 0
    for rung in rungs:
        total += rung.candidates * (rung.rows - before)
        before = rung.rows
    return total


Score = Callable[[Sequence[int], int, int], Awaitable[Any]]
"""Scores of these candidates on the rows from the second number to the third: an array, one line a candidate; more is
better."""


async def race(rungs: Sequence[Rung], score: Score, lengths: Sequence[int]) -> list[list[float]]:
    """Means of each candidate at each rung that it reached, the candidates in their order.

    lengths: of the candidates; of two with the same mean, the shorter goes on.
    """
    import numpy as np

    alive = list(range(rungs[0].candidates))
    scores = np.full((len(alive), rungs[-1].rows), np.nan)
    means: list[list[float]] = [[] for _ in alive]
    before = 0
    for rung in rungs:
        alive = ranked(means, alive, lengths)[: rung.candidates]
        scores[alive, before : rung.rows] = await score(alive, before, rung.rows)
        before = rung.rows
        for position in alive:
            means[position].append(float(scores[position, : rung.rows].mean()))
    return means


def ranked(means: Sequence[Sequence[float]], among: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Candidates, the best first: those that went further, then by their last mean, the shorter before the longer."""
    return sorted(among, key=lambda each: (-len(means[each]), [-mean for mean in means[each][-1:]], lengths[each]))
