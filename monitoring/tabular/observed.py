"""The rows of a window as arrays: inputs, predictions, labels where they have come, and which rows belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from llmops.production_log.record import PredictionBatch
    from llmops.tabular.schema import RowSchema

PREDICTION, TRUTH, PROBABILITY, BLOCK = "prediction", "truth", "probability", "block"
RESERVED = (PREDICTION, TRUTH, PROBABILITY, BLOCK)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """One column. numeric: float64 with NaN where a value is missing; else labels, an object array of str and None."""

    data: Array
    numeric: bool

    @property
    def present(self) -> Array:
        """Which rows have a value."""
        if self.numeric:
            return np.isfinite(self.data)
        return np.array([value is not None for value in self.data], dtype=bool)


@dataclass(frozen=True, slots=True, eq=False)
class ObservedRows:
    """A window. inputs: by name, in the schema's order. prediction, truth: numbers of a regression, else labels.

    probability: of the predicted class, NaN where missing; None without the column. block: each row's block, numbered
    in the order of their names; None when rows are independent. blocks: how many there are; all rows when independent.
    duplicates: rows that repeat an earlier one of their block.
    """

    rows: int
    inputs: Mapping[str, Values]
    prediction: Values
    truth: Values
    probability: Array | None
    block: Array | None
    blocks: int
    duplicates: Array


def observe(frame: pd.DataFrame, schema: RowSchema, which: str) -> ObservedRows:
    """Reads a frame that holds the schema's inputs, `prediction` and `truth`, and may hold `probability` and `block`.

    which: `reference` or `current`, for errors.

    Raises:
        UsageError: a column is missing, holds values of another kind, or an input has one of the names above; a row
            has no block.
    """
    if taken := [name for name in schema.names if name in RESERVED]:
        raise UsageError(f"an input cannot be called {taken[0]}: the monitor uses that name")
    for name in (*schema.names, PREDICTION, TRUTH):
        if name not in frame.columns:
            raise UsageError(f"the {which} rows have no column {name!r}")
    inputs = {
        column.name: _values(frame, column.name, column.kind in ("integer", "number"), which)
        for column in schema.inputs
    }
    regression = schema.task == "regression"
    block = _blocks(frame, which)
    alike = [*schema.names, *([BLOCK] if block is not None else [])]
    return ObservedRows(
        rows=len(frame),
        inputs=inputs,
        prediction=_values(frame, PREDICTION, regression, which),
        truth=_values(frame, TRUTH, regression, which),
        probability=_values(frame, PROBABILITY, True, which).data if PROBABILITY in frame.columns else None,
        block=block,
        blocks=len(frame) if block is None else int(block.max(initial=-1)) + 1,
        duplicates=frame[alike].duplicated().to_numpy(),
    )


def _values(frame: pd.DataFrame, name: str, numeric: bool, which: str) -> Values:
    import pandas as pd

    column = frame[name]
    if not numeric:
        missing = column.isna().to_numpy()
        data = np.array([None if gone else _label(value) for value, gone in zip(column, missing, strict=True)], object)
        return Values(data, numeric=False)
    try:
        data = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise UsageError(f"column {name!r} of the {which} rows must hold numbers: {error}") from error
    return Values(np.where(np.isfinite(data), data, np.nan), numeric=True)


def _label(value: Any) -> str:
    """One text for each class, whatever pandas made of it: 1, 1.0 and True are what a nullable column turns them to."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _blocks(frame: pd.DataFrame, which: str) -> Array | None:
    """Numbers of the blocks in the order of their names: neighbours in time, where names are dates."""
    if BLOCK not in frame.columns:
        return None
    column = frame[BLOCK]
    if column.isna().any():
        raise UsageError(f"a row of the {which} rows has no block")
    names = column.to_numpy()
    try:
        return np.unique(names, return_inverse=True)[1].reshape(-1)
    except TypeError:  # of several types
        return np.unique(names.astype(str), return_inverse=True)[1].reshape(-1)


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
            # Names of classes are texts there, whatever the classes are.
            chances = batch.probabilities[row] if batch.probabilities is not None else {}
            kept[PROBABILITY].append(chances.get(str(batch.predictions[row])))
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
