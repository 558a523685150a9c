"""Runs two cells on more and more rows, drawn by chance, until the primary metric tells them apart."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmops.errors import UsageError
from llmops.eval_runs.matrix import Cell, CellRun, Matrix, RowChoice
from llmops.evaluation.comparison import sampling_position
from llmops.evaluation.generating import Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.metric_comparison import number_of
from llmops.evaluation.runner import answered, score_rows
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.sequential import SequentialTest
from llmops.evaluation.suite import Suite, primary_scorer
from llmops.hashing import JsonData
from llmops.ray_cluster import LOCAL

_LOOKS = 20  # at most, at equal distances
_FEWEST_ROWS = 10  # a look


@dataclass(frozen=True, slots=True)
class EarlyStop(JsonData):
    """Why a run ended.

    rows: how many were taken, `of` so many; failed: of them, those that lack a score on one side.
    p_value, ci95: of the difference b − a in the primary metric, a failed row counted as its worst.
    decided: it is shown, and would be whatever the failed rows had scored.
    """

    rows: int
    of: int
    decided: bool
    p_value: float
    ci95: tuple[float, float]
    failed: int = 0


async def run_until_decided(matrix: Matrix, suite: Suite, cells: Sequence[Cell]) -> tuple[list[CellRun], EarlyStop]:
    """Both cells' runs on the rows that it took, and why it took no more.

    Looking after every step would make an ordinary test cry wolf; this one may be looked at as often as one likes.

    Raises UsageError: not two cells, or a primary metric that is not within 0 and 1; else as `Matrix.run`.
    """
    if matrix.options.on != LOCAL:
        raise UsageError("--stop-early looks at few rows at a time: it goes with --on local")
    if len(cells) != 2:
        raise UsageError(f"stopping early compares two cells; {len(cells)} were given")
    if suite.cluster_by is not None:
        raise UsageError("stopping early needs rows that are independent; this suite has cluster_by")
    limit, seed = matrix.options.limit, matrix.options.seed or 0
    total = min(suite.n_rows, limit or suite.n_rows)
    looks = max(1, min(_LOOKS, total // _FEWEST_ROWS))
    primary = primary_scorer(suite)
    if primary is None or primary.worst not in (0.0, 1.0):
        raise UsageError(f"stopping early needs a primary metric from 0 to 1; {suite.gate.primary} is none")
    # With failed rows at their worst; with those of b at their worst and of a at their best; the other way round.
    tests = test, least, most = SequentialTest(), SequentialTest(), SequentialTest()
    share, failed, decided = 0.0, 0, False
    for look in range(1, looks + 1):
        before, share = share, look / looks
        chosen = RowChoice(limit, share, seed)
        for cell in cells:
            await matrix.generate([cell], chosen)
        tasks = [matrix.task(cell, chosen) for cell in cells]
        differences_seen = await asyncio.to_thread(_differences, tasks, primary, matrix.cache, seed, before)
        for each, differences in zip(tests, zip(*differences_seen, strict=True), strict=False):
            each.update(differences)
        failed += sum(low != high for _, low, high in differences_seen)
        decided = all(each.decided for each in tests) and least.mean * most.mean > 0
        if decided:
            break
    stop = EarlyStop(test.n, total, decided, test.p_value, test.interval, failed)
    shown = f"{seed}: after {stop.rows} of {total} rows"
    return await matrix.run(cells, RowChoice(limit, share, seed), shown), stop


def _differences(
    tasks: Sequence[Task], primary: Scorer, cache: GenerationCache, seed: int, after: float
) -> list[tuple[float, float, float]]:
    """b − a of the rows drawn since the look before, in the order of the draw: where one has no score, with that at
    its worst; and the least and the greatest that it could be."""
    worst = primary.worst or 0.0
    drawn = []
    for left, right in zip(*(score_rows(answered(task, cache), [primary], cache) for task in tasks), strict=True):
        position = sampling_position(seed, left.row.id)
        if position >= after:
            scores = [number_of(result, primary) for result in (left, right)]
            a, b = (worst if math.isnan(score) else score for score in scores)
            best_a, best_b = (1 - worst if math.isnan(score) else score for score in scores)
            drawn.append((position, (b - a, *sorted((b - best_a, best_b - a)))))
    return [(difference, least, most) for _, (difference, least, most) in sorted(drawn)]
