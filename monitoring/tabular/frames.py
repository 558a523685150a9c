"""Predictions of the production log as a frame that `check` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from monitoring.tabular.observed import BLOCK, PREDICTION, PROBABILITY, TRUTH

if TYPE_CHECKING:
    import pandas as pd

    from llmops.production_log.predictions import PredictionBatch
    from llmops.tabular.schema import RowSchema

BlockOf = Callable[["PredictionBatch", int], Any]
"""From a batch and the place of one of its rows to the name of that row's block."""

AT, REQUEST = "at", "request_id"


def day_of(batch: PredictionBatch, _row: int) -> str:
    """The day (UTC) of the request. Rows that are replayed need one of their own: the day that they tell of."""
    return batch.at.strftime("%Y-%m-%d")


def frame_of(batches: Iterable[PredictionBatch], schema: RowSchema, block: BlockOf | None = day_of) -> pd.DataFrame:
    """A row for each row that was predicted: the schema's inputs, `prediction`, `truth` (missing where nobody has said
    it yet), `probability` of the predicted class where the model is a classifier, `block`, and `at` and `request_id` of
    the request.

    block: what names the block of a row; None when rows are independent. An input that a row lacks is missing.
    """
    import pandas as pd

    inputs: dict[str, list[Any]] = {name: [] for name in schema.names}
    kept: dict[str, list[Any]] = {name: [] for name in (PREDICTION, TRUTH, PROBABILITY, BLOCK, AT, REQUEST)}
    for batch in batches:
        for row, values in enumerate(batch.rows):
            for name, column in inputs.items():
                column.append(values.get(name))
            kept[PREDICTION].append(batch.predictions[row])
            kept[TRUTH].append(batch.truth[row])
            kept[PROBABILITY].append(_probability(batch, row))
            kept[BLOCK].append(block(batch, row) if block else None)
            kept[AT].append(batch.at)
            kept[REQUEST].append(batch.request_id)
    if block is None:
        del kept[BLOCK]
    if schema.task != "classification":
        del kept[PROBABILITY]
    frame = pd.DataFrame({**inputs, **kept})
    numbers = [column.name for column in schema.inputs if column.kind in ("integer", "number")]
    if schema.task == "regression":
        numbers += [PREDICTION, TRUTH]
    # A column of nothing but None is no number to pandas.
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _probability(batch: PredictionBatch, row: int) -> float | None:
    """Of the predicted class. Names of classes are texts there, whatever the classes are."""
    if batch.probabilities is None:
        return None
    predicted, found = batch.predictions[row], batch.probabilities[row]
    value = found.get(predicted if isinstance(predicted, str) else str(predicted))
    return float(value) if value is not None else None
