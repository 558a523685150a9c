"""Drift of columns: inputs, prediction and, once labels have come, the target.

All columns of a window are one family: Benjamini-Hochberg runs over those that can be tested, at
`TabularSettings.alpha("drift", …)`. A column has drifted when its adjusted p is at most that and its effect reaches the
floor. An effect is the share of rows that would have to change for both windows to agree, as everywhere in the monitor
(`decide.drift`).

Independent rows: Kolmogorov-Smirnov for numbers, Fisher's exact test or chi-square for labels (`decide.drift`). Rows in
blocks: the same statistics, with p-values from permuting whole blocks (`permutation`).

Drift is not harm: a season moves every input of a model that copes with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from monitoring.decide.drift import NOT_TESTED, Comparison, adjusted_in_family, compare_labels, compare_numbers
from monitoring.store.summaries import LabelSummary, NumberSummary
from monitoring.tabular.observed import PREDICTION, TRUTH, Array, ObservedRows, Values
from monitoring.tabular.permutation import (
    BlockDraws,
    BlockTable,
    compare_blocks,
    kolmogorov_smirnov,
    root_chi_square,
)

if TYPE_CHECKING:
    from monitoring.tabular.settings import TabularSettings

Role = Literal["input", "prediction", "target"]

MOST_BINS = 64
"""Of numbers in blocks: a distance over so many equally full bins is at most 1/64 below the true one."""
_FEWEST_DRAWS, _MOST_DRAWS = 999, 29_999


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column. before, after: mean of numbers, commonest label; None without values."""

    role: Role
    result: Comparison
    p_adjusted: float
    drifted: bool
    before: float | str | None
    after: float | str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            **self.result.to_json(self.p_adjusted),
            "drifted": self.drifted,
            "before": self.before,
            "after": self.after,
        }


def drift_of(
    reference: ObservedRows,
    current: ObservedRows,
    settings: TabularSettings,
    alpha: float,
    target: str,
    *,
    labelled: bool,
) -> dict[str, ColumnDrift]:
    """By column, in the schema's order, then `prediction`, then the target by its own name.

    alpha: what an adjusted p is held against.
    target: the output's name.
    labelled: whether the target has come.

    Raises nothing: what cannot be tested has p = 1.
    """
    pairs: dict[str, tuple[Role, Values, Values]] = {
        name: ("input", values, current.inputs[name]) for name, values in reference.inputs.items()
    }
    pairs[PREDICTION] = "prediction", reference.prediction, current.prediction
    if labelled:
        pairs[target if target not in pairs else TRUTH] = "target", reference.truth, current.truth
    draws = None  # for independent rows
    if reference.block is not None and min(reference.blocks, current.blocks) >= settings.minimum_blocks:
        # So many that one drifted column among the others can reach the level.
        most = min(max(math.ceil(2 * len(pairs) / alpha), _FEWEST_DRAWS), _MOST_DRAWS)
        draws = BlockDraws(reference.blocks, current.blocks, most)
    blocks = reference.block, current.block
    results = {
        name: _compare(before, after, blocks, draws, settings.minimum_rows)
        for name, (_, before, after) in pairs.items()
    }
    adjusted = adjusted_in_family(results)
    found = {}
    for name, (role, before, after) in pairs.items():
        drifted = adjusted[name] <= alpha and abs(results[name].effect) >= settings.effect_floor
        found[name] = ColumnDrift(role, results[name], adjusted[name], drifted, level(before), level(after))
    return found


def level(values: Values) -> float | str | None:
    """What a column is like, in one value; of equally frequent labels the first."""
    there = values.data[values.present]
    if not len(there):
        return None
    if values.numeric:
        return float(there.mean())
    labels, counts = np.unique(there.astype(str), return_counts=True)
    return str(labels[counts.argmax()])


def _compare(
    before: Values,
    after: Values,
    blocks: tuple[Array | None, Array | None],
    draws: BlockDraws | None,
    minimum_rows: int,
) -> Comparison:
    values = [each.data[each.present] for each in (before, after)]
    if min(map(len, values)) < minimum_rows or (blocks[0] is not None and draws is None):
        return NOT_TESTED
    codes, cells = _coded(values, before.numeric, most=MOST_BINS if draws else 0)
    if cells < 2:
        return NOT_TESTED
    if draws is None:
        counted = [np.unique(each, return_counts=True) for each in codes]
        if before.numeric:  # bins are the values' own ranks, so that no two values share one
            return compare_numbers(*(NumberSummary(n=int(n.sum()), bins=bins, counts=n) for bins, n in counted))
        return compare_labels(
            *(LabelSummary(dict(zip(map(str, bins), n.tolist(), strict=True))) for bins, n in counted)
        )
    where = [block[each.present] for block, each in zip(blocks, (before, after), strict=True) if block is not None]
    return _compare_in_blocks(codes, cells, where, draws, numeric=before.numeric)


def _coded(values: list[Array], numeric: bool, most: int) -> tuple[list[Array], int]:
    """Values of both windows as numbers of cells, from 0; how many cells. most: bins of numbers at most, 0 for all."""
    pooled = np.concatenate(values)
    levels = np.unique(pooled if numeric else pooled.astype(str))
    if numeric and most and len(levels) > most:
        edges = np.unique(np.quantile(pooled, np.linspace(0, 1, most + 1)[1:-1], method="lower"))
        return [np.searchsorted(edges, each) for each in values], len(edges) + 1
    return [np.searchsorted(levels, each if numeric else each.astype(str)) for each in values], len(levels)


def _compare_in_blocks(
    codes: list[Array], cells: int, blocks: list[Array], draws: BlockDraws, *, numeric: bool
) -> Comparison:
    counts = [
        np.bincount(block * cells + code, minlength=number * cells).reshape(number, cells).astype(np.float32)
        for code, block, number in zip(codes, blocks, (draws.reference, draws.current), strict=True)
    ]
    # Numbers are counted in their bin or in a lower one: what distances are made of, and what neighbouring days have in
    # common, which single bins hardly show.
    together = np.concatenate(counts)
    in_cells = np.cumsum(together, axis=1)[:, :-1] if numeric else together
    table = BlockTable(in_cells, together.sum(axis=1), draws.reference)
    totals = table.cells[: table.reference].sum(axis=0), table.cells[table.reference :].sum(axis=0)
    rows = [float(table.sizes[: table.reference].sum()), float(table.sizes[table.reference :].sum())]
    before, after = (total / of for total, of in zip(totals, rows, strict=True))
    if numeric:
        tested = compare_blocks(table, kolmogorov_smirnov, draws)
        # Where the reference's distribution function lies above, the current values are larger.
        direction = int(np.sign((before - after)[np.abs(before - after).argmax()]))
        return Comparison("ks-blocks", tested.statistic, tested.p_value, tested.statistic, direction)
    tested = compare_blocks(table, root_chi_square((totals[0] + totals[1]) / sum(rows)), draws)
    chi_square = tested.statistic**2 * rows[0] * rows[1] / sum(rows)
    effect = float(np.abs(after - before).sum() / 2)
    return Comparison("chi-square-blocks", chi_square, tested.p_value, effect)
