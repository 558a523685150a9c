"""The error of a window, and whether it is surely higher than the reference's.

The error of a regression is the root of the mean squared error, the mean absolute error, or that as a share of the mean
label; of a classifier the share of wrong labels. A rise is tested one-sided:

- a classifier's, with independent rows: Fisher's exact test;
- anything else: the permutation test of `permutation`, whole blocks at a time; independent rows are blocks of one, or
  of a few where there are thousands.

The question is whether the window could be some more of the reference, so a reference must be of rows that the model
had not been fitted on. A rise that is certain and small raises no alarm: `TabularSettings.rise_floor`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmops.evaluation.statistics import CONFIDENCE, MeanEstimate, estimate_mean, independent_rows, wilson_interval
from monitoring.decide.drift import compare_flags
from monitoring.store.summaries import FlagSummary
from monitoring.tabular.observed import Array, ObservedRows
from monitoring.tabular.permutation import (
    BlockDraws,
    BlockTable,
    block_sums,
    compare_blocks,
    inflation,
    rise_of_mean,
)
from monitoring.tabular.settings import Loss

_MOST_LOG = 50.0  # of a factor: what is wider says nothing
MOST_UNITS = 1_000
"""Independent rows are put together by a few until there are at most so many units to permute."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """What each labelled row cost; the error is made of their weighted mean.

    values: squared or absolute errors, or 1 for a wrong label. block: each row's block, numbered from 0 without gaps;
    None when rows are independent. boolean: the values are 0 and 1. root: the error is the root of the mean. weights:
    of relative errors the size of the label, so that the mean is the MAE over the mean label; None: all alike.
    """

    values: Array
    block: Array | None
    boolean: bool
    root: bool
    weights: Array | None = None

    @property
    def units(self) -> int:
        """Blocks, or rows when they are independent."""
        return len(self.values) if self.block is None else int(self.block.max(initial=-1)) + 1

    @property
    def error(self) -> float | None:
        """In the metric's unit; None without rows."""
        if not len(self.values):
            return None
        weight = len(self.values) if self.weights is None else float(self.weights.sum())
        return self.in_unit(float(self.values.sum()) / weight) if weight else None

    def in_unit(self, mean: float) -> float:
        """A mean of losses as an error: its root for squared ones."""
        return math.sqrt(max(mean, 0.0)) if self.root else mean


@dataclass(frozen=True, slots=True)
class Rise:
    """Whether the mean loss rose.

    test: `fisher-exact-greater`, `block-permutation`, or `none` (why: `note`). correlation: of neighbouring blocks;
    units: blocks or rows that were permuted, of the reference and of the window.
    """

    test: str
    p_value: float
    correlation: float = 0.0
    units: tuple[int, int] = (0, 0)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "units": list(self.units)}


def metric_of(task: str, loss: Loss) -> str:
    """`rmse`, `mae`, `relative_error` or `error_rate`."""
    metrics = {"squared": "rmse", "absolute": "mae", "relative": "relative_error"}
    return "error_rate" if task == "classification" else metrics[loss]


def losses_of(observed: ObservedRows, loss: Loss) -> Losses:
    """Of the rows that have both a prediction and a label."""
    known = observed.prediction.present & observed.truth.present
    predicted, truth = observed.prediction.data[known], observed.truth.data[known]
    if not observed.truth.numeric:
        return Losses((predicted != truth).astype(float), numbered(observed.block, known), boolean=True, root=False)
    error = truth - predicted
    values = error**2 if loss == "squared" else np.abs(error)
    weights = np.abs(truth) if loss == "relative" else None
    return Losses(values, numbered(observed.block, known), boolean=False, root=loss == "squared", weights=weights)


def numbered(block: Array | None, rows: Array) -> Array | None:
    """The blocks of some rows, numbered anew without gaps; the order stays."""
    return None if block is None else np.unique(block[rows], return_inverse=True)[1].reshape(-1)


def error_interval(losses: Losses, correlation: float) -> tuple[float, float] | None:
    """95 % interval of the error; None with fewer than two blocks or rows.

    Student's on the logarithm, since losses are skewed, with the cluster-robust error CR2, widened for the correlation
    of neighbouring blocks, and fewer degrees of freedom for it (Bayley & Hammersley 1946). Wilson's for error rates, of
    as many rows as are worth independent ones. Simulated with lognormal days: it covers 90 to 95 %.
    """
    if losses.units < 2 or losses.error is None:
        return None
    cells, sizes = _sums(losses, 1)
    sums = cells[:, 0]
    found = widened(estimate_mean(sums, sizes), correlation, len(sums))
    reach = _t_quantile(found.degrees)
    if losses.boolean:
        rows = float(len(losses.values))
        if losses.block is not None:
            rows = independent_rows(found, sizes, found.mean * (1 - found.mean))
        return wilson_interval(found.mean, rows, _t_quantile(math.inf) if losses.block is None else reach)
    if not found.mean:
        return 0.0, 0.0
    factor = math.exp(min(reach * found.error / found.mean, _MOST_LOG))
    return losses.in_unit(found.mean / factor), losses.in_unit(found.mean * factor)


def widened(found: MeanEstimate, correlation: float, blocks: int) -> MeanEstimate:
    """The estimate of a mean over blocks, its error widened for a correlation of neighbours."""
    degrees = max(found.degrees * (1 - correlation**2) / (1 + correlation**2), 1.0)
    return MeanEstimate(found.mean, found.error * math.sqrt(inflation(correlation, blocks)), degrees)


def compare_losses(reference: Losses, current: Losses) -> Rise:
    """Whether the current losses are larger, p one-sided. Needs two units or more in each."""
    if current.boolean and current.block is None:
        found = compare_flags(FlagSummary.of(reference.values), FlagSummary.of(current.values), only_rise=True)
        return Rise("fisher-exact-greater", found.p_value, units=(reference.units, current.units))
    table = table_of(reference, current)
    draws = BlockDraws(table.reference, table.current)
    tested = compare_blocks(table, rise_of_mean, draws, neighbours_alike=current.block is not None)
    return Rise("block-permutation", tested.p_value, tested.correlation, tested.blocks)


def table_of(reference: Losses, current: Losses) -> BlockTable:
    """Both windows' losses, summed over blocks."""
    together = -(-(len(reference.values) + len(current.values)) // MOST_UNITS)
    parts = [_sums(losses, together) for losses in (reference, current)]
    cells, sizes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return BlockTable(cells, sizes, len(parts[0][1]))


def _sums(losses: Losses, together: int) -> tuple[Array, Array]:
    """Losses and weights summed over blocks. together: independent rows that make a block."""
    rows = len(losses.values)
    if losses.block is not None:
        block, blocks = losses.block, losses.units
    else:
        blocks = max(rows // together, 1)
        block = np.minimum(np.arange(rows) // together, blocks - 1)
    sizes = np.bincount(block, weights=losses.weights, minlength=blocks).astype(float)
    return block_sums(block, blocks, losses.values[:, None]), sizes


def _t_quantile(degrees: float) -> float:
    from scipy import special

    upper = 0.5 + CONFIDENCE / 2
    return float(special.ndtri(upper) if math.isinf(degrees) else special.stdtrit(degrees, upper))
