"""The error of a window: found, whether it is surely higher than the reference's, and estimated before its labels come.

The error of a regression is the root of the mean squared error, the mean absolute error, that as a share of the mean
label, or the ratio of all labels to all predictions; of a classifier the share of wrong labels. A rise is tested
one-sided:

- a classifier's, with independent rows: Fisher's exact test;
- anything else: the permutation test of `permutation`, whole blocks at a time; independent rows are blocks of one, or
  of a few where there are thousands.

The question is whether the window could be some more of the reference, so a reference must be of rows that the model
had not been fitted on. A rise that is certain and small raises no alarm: `TabularSettings.rise_floor`.

Estimates. Regression: a small gradient boosting model of each row's loss, fitted on the reference's inputs, predictions
and labels ("direct loss estimation", as NannyML calls it). Classification: one minus the mean calibrated probability of
the predicted class (Hendrycks & Gimpel 2017; "confidence-based performance estimation"; calibration: Platt 1999).

Both are sound under covariate shift alone: rows of other kinds, answered as well as rows of their kind were in the
reference. What they cannot see is that the same rows now have other answers (more bicycles are rented at the same
hour in the same weather): then the estimate stays low while the error rises. So an estimate is believed only after the
latest ones came close to the error found when labels came, and while the rows are of a kind that the reference has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.evaluation.statistics import (
    MeanEstimate,
    estimate_mean,
    independent_rows,
    normal_quantile,
    t_quantile,
    wilson_interval,
)
from monitoring.decide.drift import compare_flags
from monitoring.store.summaries import FlagSummary
from monitoring.tabular.observed import Array, ObservedRows
from monitoring.tabular.permutation import BlockDraws, BlockTable, block_sums, compare_blocks, inflation, rise_of_mean
from monitoring.tabular.settings import Loss, TabularSettings

if TYPE_CHECKING:
    from llmops.tabular.schema import RowSchema

_MOST_LOG = 50.0  # of a factor: what is wider says nothing
MOST_UNITS = 1_000
"""Independent rows are put together by a few until there are at most so many units to permute."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """What each labelled row cost; the error is made of their weighted mean.

    values: squared or absolute errors, labels for a ratio, or 1 for a wrong label. block: each row's block, numbered
    from 0 without gaps; None when rows are independent. boolean: the values are 0 and 1. root: the error is the root
    of the mean. weights: of relative errors the size of the label, so that the mean is the MAE over the mean label; of
    a ratio the prediction; None: all alike.
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
    """`rmse`, `mae`, `relative_error`, `actual_over_expected` or `error_rate`."""
    metrics = {"squared": "rmse", "absolute": "mae", "relative": "relative_error", "ratio": "actual_over_expected"}
    return "error_rate" if task == "classification" else metrics[loss]


def losses_of(observed: ObservedRows, loss: Loss) -> Losses:
    """Of the rows that have both a prediction and a label."""
    known = observed.prediction.present & observed.truth.present
    predicted, truth = observed.prediction.data[known], observed.truth.data[known]
    if not observed.truth.numeric:
        return Losses((predicted != truth).astype(float), numbered(observed.block, known), boolean=True, root=False)
    if loss == "ratio":
        return Losses(truth, numbered(observed.block, known), boolean=False, root=False, weights=np.abs(predicted))
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
    mean_loss = widened(estimate_mean(sums, sizes), correlation, len(sums))
    reach = t_quantile(mean_loss.degrees)
    if losses.boolean:
        rows = float(len(losses.values))
        if losses.block is not None:
            rows = independent_rows(mean_loss, sizes, mean_loss.mean * (1 - mean_loss.mean))
        return wilson_interval(mean_loss.mean, rows, normal_quantile() if losses.block is None else reach)
    if not mean_loss.mean:
        return 0.0, 0.0
    factor = math.exp(min(reach * mean_loss.error / mean_loss.mean, _MOST_LOG))
    return losses.in_unit(mean_loss.mean / factor), losses.in_unit(mean_loss.mean * factor)


def widened(estimate: MeanEstimate, correlation: float, blocks: int) -> MeanEstimate:
    """The estimate of a mean over blocks, its error widened for a correlation of neighbours."""
    degrees = max(estimate.degrees * (1 - correlation**2) / (1 + correlation**2), 1.0)
    return MeanEstimate(estimate.mean, estimate.error * math.sqrt(inflation(correlation, blocks)), degrees)


def compare_losses(reference: Losses, current: Losses) -> Rise:
    """Whether the current losses are larger, p one-sided. Needs two units or more in each."""
    if current.boolean and current.block is None:
        fisher = compare_flags(FlagSummary.of(reference.values), FlagSummary.of(current.values), only_rise=True)
        return Rise("fisher-exact-greater", fisher.p_value, units=(reference.units, current.units))
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


PastEstimate = tuple[float, float]
"""What was estimated for an earlier window, and the error found once its labels had come."""

FEWEST_LABELS = 100
"""Rows of the reference that a model of a regression's losses is fitted on, at least; a fifth for calibration."""
_PARTS = 3
_CERTAIN = 1e-6


@dataclass(frozen=True, slots=True)
class Trust:
    """trusted: whether an estimate may raise an alarm. why: in words. miss: the largest of the latest, relative."""

    trusted: bool
    why: str
    miss: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ErrorEstimator:
    """Fitted on a reference; estimates the loss of each row of other windows. Fit it once for each reference.

    expected: the loss of each row of the reference. labels: of each input that is no number. model: of losses; of a
    classifier the one that calibrates, None where there is nothing to calibrate on.
    """

    expected: Losses
    labels: Mapping[str, Array]
    model: Any
    classifier: bool

    @classmethod
    def fit(cls, reference: ObservedRows, schema: RowSchema, settings: TabularSettings) -> ErrorEstimator | None:
        """None when too few rows of the reference have labels, or a classifier's rows no probability."""
        losses = losses_of(reference, settings.loss)
        known = reference.prediction.present & reference.truth.present
        if schema.task == "classification":
            return cls._calibrated(reference, losses, known)
        if len(losses.values) < FEWEST_LABELS:
            return None
        labels = {name: np.unique(values.data[values.present]) for name, values in reference.inputs.items()}
        labels = {name: found for name, found in labels.items() if not reference.inputs[name].numeric}
        design = _design(reference, labels)[known]
        # The expected loss of each row by a model that has not seen it: what a window's own can be compared with.
        units = np.arange(len(design)) if losses.block is None else losses.block
        part, unseen = units * _PARTS // (int(units.max()) + 1), np.empty(len(design))
        for number in range(_PARTS):
            inside = part == number
            if inside.any():
                unseen[inside] = _foreseen(_boosted(design[~inside], losses.values[~inside]), design[inside])
        expected = Losses(
            unseen,
            losses.block,
            boolean=False,
            root=losses.root,
            # Before labels, a relative error is one of the predictions, as a ratio is always.
            weights=None if losses.weights is None else np.abs(reference.prediction.data[known]),
        )
        return cls(expected, labels, _boosted(design, losses.values), classifier=False)

    @classmethod
    def _calibrated(cls, reference: ObservedRows, losses: Losses, known: Array) -> ErrorEstimator | None:
        if reference.probability is None:
            return None
        given = np.isfinite(reference.probability)
        both = known & given
        wrong = losses.values[given[known]]
        if len(wrong) < FEWEST_LABELS / 5:
            return None
        model = None  # where all rows agree: then there is nothing to calibrate on
        if wrong.min() != wrong.max():
            from sklearn.linear_model import LogisticRegression

            model = LogisticRegression().fit(_log_odds(reference.probability[both]), wrong.astype(int))
        values = _wrong(model, reference.probability[both])
        return cls(Losses(values, numbered(reference.block, both), boolean=False, root=False), {}, model, True)

    def losses(self, window: ObservedRows) -> Losses | None:
        """The expected loss of each row that has a prediction; None when none has, or a classifier's no probability."""
        rows, probability = window.prediction.present, window.probability
        if self.classifier:
            rows = rows & np.isfinite(probability) if probability is not None else np.zeros_like(rows)
        if not rows.any():
            return None
        if probability is not None and self.classifier:
            values = _wrong(self.model, probability[rows])
        else:
            values = _foreseen(self.model, _design(window, self.labels)[rows])
        weights = np.abs(window.prediction.data[rows]) if self.expected.weights is not None else None
        return Losses(values, numbered(window.block, rows), boolean=False, root=self.expected.root, weights=weights)


def trust_of(past: Sequence[PastEstimate], outside: float, settings: TabularSettings) -> Trust:
    """past: oldest first. outside: the share of the window's rows that the reference does not cover."""
    latest = past[-settings.trust_after :]
    if len(latest) < settings.trust_after:
        return Trust(False, f"{len(latest)} of {settings.trust_after} estimates have been held against labels so far")
    miss = max(
        abs(estimated - error) / error if error else float(estimated != 0)  # relative
        for estimated, error in latest
    )
    if miss > settings.trust_within:
        return Trust(False, f"of the last {len(latest)} estimates one missed the error found later by {miss:.0%}", miss)
    if outside > settings.estimate_outside_at_most:
        return Trust(False, f"{outside:.0%} of the rows have values that the reference does not cover", miss)
    return Trust(True, f"the last {len(latest)} estimates came within {miss:.0%} of the error found later", miss)


def _design(window: ObservedRows, labels: Mapping[str, Array]) -> Array:
    """Inputs and prediction as numbers; labels as places among the reference's, NaN for others."""
    columns = []
    for name, values in window.inputs.items():
        places = {label: float(place) for place, label in enumerate(labels.get(name, ()))}
        coded = [places.get(value, np.nan) for value in values.data] if not values.numeric else values.data
        columns.append(np.asarray(coded, dtype=np.float64))
    return np.column_stack([*columns, window.prediction.data])


def _boosted(design: Array, losses: Array) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=60, max_leaf_nodes=15, min_samples_leaf=30, l2_regularization=1.0, early_stopping=False, random_state=0
    )
    with _one_thread():
        return model.fit(design, losses)


def _foreseen(model: Any, design: Array) -> Array:
    with _one_thread():
        losses: Array = model.predict(design).clip(min=0.0)
    return losses


def _one_thread() -> Any:
    """Threads that wait for each other on a busy machine take up to a hundred times as long."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(1)


def _wrong(model: Any, probability: Array) -> Array:
    if model is None:
        return 1.0 - probability
    probabilities: Array = model.predict_proba(_log_odds(probability))[:, 1]
    return probabilities


def _log_odds(probability: Array) -> Array:
    inside = probability.clip(_CERTAIN, 1 - _CERTAIN)
    odds: Array = np.log(inside / (1 - inside))[:, None]
    return odds
