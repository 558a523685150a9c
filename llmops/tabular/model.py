"""A fitted estimator with the schema of its rows: rows in, values and probabilities out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.errors import CannotRun
from llmops.tabular.frameless import Columns as FramelessColumns
from llmops.tabular.frameless import frameless
from llmops.tabular.made_up import made_up_rows
from llmops.tabular.parts import parts_of
from llmops.tabular.schema import BadRow, RowSchema, columns_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Columns = Mapping[str, Array]

logger = logging.getLogger("llmops.tabular")

_LONGEST_REASON = 200
_TRIED_ROWS = 40
_LIKELIEST = (
    "HistGradientBoostingClassifier",
    "RandomForestClassifier",
    "LogisticRegression",
    "CalibratedClassifierCV",
)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of rows, in their order, as JSON values.

    values: numbers of a regression, classes of a classification. probabilities: of each class by its name (a class that
    is no text is named as JSON writes it), where the model is a classifier that gives them; else None.
    """

    values: list[Any]
    probabilities: list[dict[str, float]] | None = None

    def __len__(self) -> int:
        return len(self.values)


class TabularModel:
    """Predicts with a fitted scikit-learn estimator. Safe to share between threads.

    A prediction runs on the thread that asks for it: the estimator's own threads would fight with a server's workers
    over the same cores (measured on two busy cores: gradient boosting takes 15 times longer with them).
    """

    def __init__(self, estimator: Any, schema: RowSchema, *, example: Mapping[str, Any] | None = None) -> None:
        """estimator: fitted on a frame with the schema's inputs; it now belongs to this object. example: a row that the
        schema takes, with values that mean something.

        Raises:
            CannotRun: it was fitted on other columns, or predicts something else than the schema's task.
        """
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

        check_fits(estimator, schema)
        _without_workers(estimator)
        self.schema, self.example = schema, example
        # BLAS is left alone: its limit is the whole process's, and predictions hardly use it.
        self._threads = ThreadpoolController().select(user_api="openmp")
        self._classes = _class_names(estimator, schema)
        self._likeliest = _predicts_likeliest(estimator)
        self._estimator, self._read = self._quickest(estimator)

    @property
    def reads_frames(self) -> bool:
        """Whether each prediction makes a pandas frame, for want of a quicker way to the same result."""
        return self._read is _frame

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> Predictions:
        """Raises BadRow for the first row that the schema refuses or the model cannot compute."""
        return self.predict_columns(columns_of(self.schema, rows))

    def predict_columns(self, columns: Columns) -> Predictions:
        """columns: as `columns_of` gives them. Raises BadRow for the first row that the model cannot compute: a number
        too large for it, a text it never saw."""
        count = len(columns[self.schema.names[0]])
        if not count:
            return Predictions([], None if self._classes is None else [])
        try:
            return self._computed(columns)
        except ValueError as error:  # what estimators raise of values they refuse
            if count == 1:
                raise BadRow(0, None, f"cannot be computed: {_reason(error)}") from error
        return self._computed_in_halves(columns, count)

    def _computed_in_halves(self, columns: Columns, count: int) -> Predictions:
        """Finds the first row that cannot be computed in as few predictions as a search takes."""
        half = count // 2
        first = self.predict_columns({name: array[:half] for name, array in columns.items()})
        try:
            second = self.predict_columns({name: array[half:] for name, array in columns.items()})
        except BadRow as bad:
            raise BadRow(bad.row + half, bad.column, bad.problem) from bad
        chances = None
        if first.probabilities is not None and second.probabilities is not None:
            chances = first.probabilities + second.probabilities
        return Predictions(first.values + second.values, chances)

    def _computed(self, columns: Columns) -> Predictions:
        """Raises ValueError, and BadRow where a result is no finite number."""
        values, chances = self._asked(self._estimator, self._read(columns))
        if chances is None or self._classes is None:
            if self.schema.task == "regression":
                _check_finite(values.reshape(-1, 1))
            return Predictions(values.tolist())
        _check_finite(chances)
        named = [dict(zip(self._classes, row, strict=True)) for row in chances.tolist()]
        return Predictions(values.tolist(), named)

    def _asked(self, estimator: Any, given: Any) -> tuple[Array, Array | None]:
        """The estimator's values and, of a classifier that gives them, probabilities."""
        import numpy as np

        with self._threads.limit(limits=1), np.errstate(all="ignore"):
            if self._classes is None:
                return np.asarray(estimator.predict(given)), None
            chances = estimator.predict_proba(given)
            if self._likeliest:
                return estimator.classes_.take(chances.argmax(axis=1)), chances
            return np.asarray(estimator.predict(given)), chances

    def _quickest(self, estimator: Any) -> tuple[Any, Callable[[Columns], Any]]:
        """The estimator, and what makes of columns what it reads: without frames, where that is tried and found to give
        the same."""
        made_up = columns_of(self.schema, made_up_rows(self.schema, _TRIED_ROWS))
        first = {name: array[:1] for name, array in made_up.items()}
        try:
            quick = frameless(estimator)
            if quick is not None and all(self._agree(estimator, quick, columns) for columns in (made_up, first)):
                return quick, FramelessColumns
        except Exception as error:  # noqa: BLE001  whatever it is that does not work, frames do
            logger.debug("a %s is asked with frames: %s", type(estimator).__name__, error)
        return estimator, _frame

    def _agree(self, estimator: Any, quick: Any, columns: Columns) -> bool:
        expected, found = self._asked(estimator, _frame(columns)), self._asked(quick, FramelessColumns(columns))
        return all(map(_same, expected, found))


def _frame(columns: Columns) -> Any:
    import pandas as pd

    return pd.DataFrame(columns, copy=False)


def _same(expected: Array | None, found: Array | None) -> bool:
    import numpy as np

    if expected is None or found is None:
        return expected is found
    if expected.dtype.kind != "f":
        return np.array_equal(expected, found)
    return np.allclose(expected, found, rtol=1e-9, atol=0, equal_nan=True)


def _check_finite(numbers: Array) -> None:
    """Raises BadRow for the first row that has a result which JSON cannot say."""
    import numpy as np

    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])
        raise BadRow(row, None, "cannot be computed: the result is no finite number")


def _reason(error: ValueError) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return first_line[:_LONGEST_REASON] or type(error).__name__


def check_fits(estimator: Any, schema: RowSchema) -> None:
    """Raises CannotRun where a fitted estimator reads other columns than the schema has, or is not for its task."""
    from sklearn.base import is_classifier, is_regressor

    fits = is_classifier(estimator) if schema.task == "classification" else is_regressor(estimator)
    if not fits:
        raise CannotRun(f"a {type(estimator).__name__} is no model for {schema.task}")
    trained_on = getattr(estimator, "feature_names_in_", None)
    if trained_on is not None and tuple(trained_on) != schema.names:
        raise CannotRun(
            f"the estimator was fitted on the columns {', '.join(map(str, trained_on))};"
            f" the schema has {', '.join(schema.names)}"
        )


def _without_workers(estimator: Any) -> None:
    """Every part computes on the thread that calls it."""
    for part in parts_of(estimator):
        if getattr(part, "n_jobs", None) not in (None, 1):
            part.n_jobs = 1


def _class_names(estimator: Any, schema: RowSchema) -> list[str] | None:
    """Of a classifier that gives probabilities; else None."""
    if schema.task == "regression" or not hasattr(estimator, "predict_proba"):
        return None
    return [name if isinstance(name, str) else json.dumps(name) for name in estimator.classes_.tolist()]


def _predicts_likeliest(estimator: Any) -> bool:
    """Whether `predict` is known to give the class of the highest probability, so that one computation does for both;
    a classifier with a threshold of its own, for one, does not."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return type(last).__name__ in _LIKELIEST
