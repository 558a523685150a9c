"""Tests of two windows whose rows come in blocks: rows of a block (a day) depend on each other, in whatever way.

The test is a permutation test of whole blocks: were both windows the same process, any blocks might have been the
current ones. That is exact when blocks are exchangeable (Fisher 1935; Lehmann & Romano, "Testing Statistical
Hypotheses", 2005, 15.2), however skewed the values are. Days are not: a day is like the day before. So the deviations
of the permuted statistic are stretched by what that correlation does to the variance of a window's mean, for blocks of
an AR(1) process: a design effect, as in Rao & Scott ("The analysis of categorical data from complex sample surveys",
1981). The correlation is measured inside stretches of 14 blocks, so that what moves more slowly counts as change and
not as noise; it is corrected for the bias of short stretches (Marriott & Pope 1954) and taken one standard error higher
than found.

Draws stop early where the outcome is plain (Besag & Clifford, "Sequential Monte Carlo p-values", 1991), which leaves
the p-value valid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Statistic = Callable[[Array, Array], Array]
"""From the cells' shares (or means) in current and in reference blocks, one row for each draw, to a number for each:
0 where both agree, larger the more they differ."""

STRETCH = 14
"""Blocks in which the correlation of neighbours is measured: a fortnight of days."""
MOST_CORRELATION = 0.95
DRAWS = 9_999
_ENOUGH = 40  # draws at least as extreme as what was seen, after which no more are needed
_CHUNK = 500
_SEED = 90_210
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """Sums of blocks, those of the reference first, each window's in the order of time.

    cells: one row for each block, one column for each quantity that is summed over its rows. sizes: the rows in each
    block. reference: how many of the blocks are the reference's.
    """

    cells: Array
    sizes: Array
    reference: int

    @property
    def current(self) -> int:
        return len(self.cells) - self.reference


@dataclass(frozen=True, slots=True)
class BlockTest:
    """statistic: as seen. correlation: of neighbouring blocks. blocks: reference's and current's."""

    statistic: float
    p_value: float
    correlation: float
    blocks: tuple[int, int]


class BlockDraws:
    """Random choices of which blocks are the current ones; drawn once, used for every column."""

    def __init__(self, reference: int, current: int, most: int = DRAWS) -> None:
        self.reference, self.current, self.most = reference, current, most
        self._chance = np.random.default_rng(_SEED)
        self._chunks: list[Array] = []

    def chunk(self, number: int) -> Array:
        """Some draws as rows of 0 and 1, a column for each block; empty when `most` are drawn."""
        while len(self._chunks) <= number:
            rows = min(_CHUNK, self.most - _CHUNK * len(self._chunks))
            if rows <= 0:
                return np.zeros((0, self.reference + self.current), dtype=bool)
            keys = self._chance.random((rows, self.reference + self.current), dtype=np.float32)
            chosen = np.argpartition(keys, self.current - 1, axis=1)[:, : self.current]
            draw = np.zeros(keys.shape, dtype=bool)
            np.put_along_axis(draw, chosen, True, axis=1)
            self._chunks.append(draw)
        return self._chunks[number]


def block_sums(block: Array, blocks: int, values: Array) -> Array:
    """values (rows × cells) summed over the rows of each block."""
    sums = np.zeros((blocks, values.shape[1]), dtype=np.float64)
    np.add.at(sums, block, values)
    return sums


def compare_blocks(
    table: BlockTable, statistic: Statistic, draws: BlockDraws, *, neighbours_alike: bool = True
) -> BlockTest:
    """The permutation test of the module, for large values of the statistic.

    draws: of as many blocks as the table has, unless some of its blocks are empty. neighbours_alike: whether a block
    may be like the one before; False where blocks are independent.
    """
    filled = table.sizes > 0  # a column's rows may be missing in some
    full = BlockTable(table.cells[filled], table.sizes[filled], int(filled[: table.reference].sum()))
    blocks = (full.reference, full.current)
    if min(blocks) == 0:
        return BlockTest(0.0, 1.0, 0.0, blocks)
    if blocks != (draws.reference, draws.current):
        draws = BlockDraws(*blocks, draws.most)
    correlation = neighbour_correlation(full) if neighbours_alike else 0.0
    actual = (np.arange(len(full.cells)) >= full.reference)[None, :]
    seen = float(statistic(*_shares(full, actual))[0])
    stretch = math.sqrt(design_effect(correlation, *blocks))
    critical = (seen - _ROUNDING * abs(seen)) / stretch
    beyond = drawn = number = 0
    while len(chunk := draws.chunk(number)):
        hits = statistic(*_shares(full, chunk)) >= critical
        if beyond + int(hits.sum()) >= _ENOUGH:
            last = int(np.searchsorted(np.cumsum(hits), _ENOUGH - beyond)) + 1
            return BlockTest(seen, _ENOUGH / (drawn + last), correlation, blocks)
        beyond, drawn, number = beyond + int(hits.sum()), drawn + len(chunk), number + 1
    return BlockTest(seen, (1 + beyond) / (1 + drawn), correlation, blocks)


def neighbour_correlation(table: BlockTable) -> float:
    """Of neighbouring blocks' means within stretches of a fortnight, pooled over cells; see the module.

    0 where it cannot be told from none, and at most MOST_CORRELATION.
    """
    means = table.cells / table.sizes[:, None]
    products = squares = 0.0
    used = stretches = 0
    for window in (means[: table.reference], means[table.reference :]):
        for stretch in np.array_split(window, max(1, len(window) // STRETCH)):
            centred = stretch - stretch.mean(axis=0)
            products += float((centred[1:] * centred[:-1]).sum())
            squares += float((centred**2).sum())
            used, stretches = used + len(stretch), stretches + 1
    if squares <= 0:
        return 0.0
    found, mean_length = products / squares, used / stretches
    unbiased = (found + 1 / mean_length) / (1 - 3 / mean_length) if mean_length > 3 else found
    unbiased = min(max(unbiased, -1.0), 1.0)
    return min(max(unbiased + math.sqrt((1 - unbiased**2) / used), 0.0), MOST_CORRELATION)


def inflation(correlation: float, blocks: int) -> float:
    """The variance of the mean of so many blocks of an AR(1) process, over that of independent ones."""
    lags = np.arange(1, blocks)
    return 1.0 + 2.0 * float(((1 - lags / blocks) * correlation**lags).sum())


def design_effect(correlation: float, reference: int, current: int) -> float:
    """The same of the difference of two means."""
    before, after = inflation(correlation, reference) / reference, inflation(correlation, current) / current
    return (before + after) / (1 / reference + 1 / current)


def kolmogorov_smirnov(current: Array, reference: Array) -> Array:
    """The largest distance of both distribution functions; cells: their values, that is the shares up to each bin."""
    distances: Array = np.abs(current - reference).max(axis=1)
    return distances


def root_chi_square(pooled: Array) -> Statistic:
    """The root of Pearson's chi-square over the number of rows, up to a factor. pooled: share of each label."""

    def statistic(current: Array, reference: Array) -> Array:
        root: Array = np.sqrt(((current - reference) ** 2 / pooled).sum(axis=1))
        return root

    return statistic


def rise_of_mean(current: Array, reference: Array) -> Array:
    """How much larger the first cell's mean is; below 0 where it fell."""
    rise: Array = current[:, 0] - reference[:, 0]
    return rise


def _shares(table: BlockTable, chosen: Array) -> tuple[Array, Array]:
    """Cells over rows, in the chosen blocks and in the others."""
    # Counts come as float32, which holds them exactly up to 2^24 and is twice as fast.
    kind = np.float32 if table.cells.dtype == np.float32 else np.float64
    weights = np.column_stack([table.cells, table.sizes]).astype(kind)
    sums: Array = np.matmul(chosen.astype(kind), weights).astype(np.float64)
    rest = weights.astype(np.float64).sum(axis=0) - sums
    return sums[:, :-1] / sums[:, -1:], rest[:, :-1] / rest[:, -1:]
