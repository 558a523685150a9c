"""The error of a window before its labels come, and whether that estimate may be believed.

Regression: a small gradient boosting model of each row's loss, fitted on the reference's inputs, predictions and labels
("direct loss estimation", as NannyML calls it). Classification: one minus the mean calibrated probability of the
predicted class (Hendrycks & Gimpel 2017; "confidence-based performance estimation"; calibration: Platt 1999).

Both are sound under covariate shift alone: rows of other kinds, answered as well as rows of their kind were in the
reference. What they cannot see is that the same rows now have other answers (more bicycles are rented at the same
hour in the same weather): then the estimate stays low while the error rises. So an estimate is believed only after the
latest ones came close to the error found when labels came, and while the rows are of a kind that the reference has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.tabular.loss import Losses, losses_of, numbered
from monitoring.tabular.observed import Array, ObservedRows, observe

if TYPE_CHECKING:
    import pandas as pd

    from llmops.tabular.schema import RowSchema
    from monitoring.tabular.settings import TabularSettings

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
    def fit(cls, reference: pd.DataFrame, schema: RowSchema, settings: TabularSettings) -> ErrorEstimator | None:
        """None when too few rows of the reference have labels, or a classifier's rows no probability.

        Raises UsageError: a column is missing or wrong.
        """
        return cls.of(observe(reference, schema, "reference"), schema, settings)

    @classmethod
    def of(cls, reference: ObservedRows, schema: RowSchema, settings: TabularSettings) -> ErrorEstimator | None:
        """As `fit`, of rows that are read already."""
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
            # Before labels, a relative error is one of the predictions.
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
    found: Array = model.predict_proba(_log_odds(probability))[:, 1]
    return found


def _log_odds(probability: Array) -> Array:
    inside = probability.clip(_CERTAIN, 1 - _CERTAIN)
    odds: Array = np.log(inside / (1 - inside))[:, None]
    return odds
