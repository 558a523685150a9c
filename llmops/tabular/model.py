"""A fitted estimator with the schema of its rows: rows in, values and probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.errors import CannotRun
from llmops.tabular import compiled as quick
from llmops.tabular.schema import BadRow, RowSchema, columns_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Columns = Mapping[str, Array]

_LONGEST_REASON = 200
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
        schema takes, with values that mean something. Raises CannotRun: it was fitted on other columns, or predicts
        something else than the schema's task."""
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

        check_fits(estimator, schema)
        for part in quick.parts_of(estimator):  # each computes on the thread that calls it
            if getattr(part, "n_jobs", None) not in (None, 1):
                part.n_jobs = 1
        self.schema, self.example = schema, example
        # BLAS is left alone: its limit is the whole process's, and predictions hardly use it.
        self._threads = ThreadpoolController().select(user_api="openmp")
        self._classes: list[str] | None = None  # of a classifier that gives probabilities
        if schema.task == "classification" and hasattr(estimator, "predict_proba"):
            names = estimator.classes_.tolist()
            self._classes = [name if isinstance(name, str) else json.dumps(name) for name in names]
        # Whether `predict` is known to give the class of the highest probability, so that one computation does for
        # both; a classifier with a threshold of its own, for one, does not.
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        self._predicts_likeliest = type(last).__name__ in _LIKELIEST
        with self._threads.limit(limits=1):
            compiled = quick.compiled(estimator, schema)
        self._estimator = estimator if compiled is None else compiled
        self._read: Callable[[Columns], Any] = _frame if compiled is None else quick.ColumnArrays

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> Predictions:
        """Raises BadRow for the first row that the schema refuses or the model cannot compute."""
        return self.predict_columns(columns_of(self.schema, rows))

    def predict_columns(self, columns: Columns) -> Predictions:
        """columns: as `columns_of` gives them. Raises BadRow for the first row that the model cannot compute."""
        count = len(columns[self.schema.names[0]])
        if not count:
            return Predictions([], None if self._classes is None else [])
        try:
            return self._computed(columns)
        except ValueError as error:  # what estimators raise of values they refuse
            if count == 1:
                first_line = next(iter(str(error).splitlines()), "")[:_LONGEST_REASON]
                raise BadRow(0, None, f"cannot be computed: {first_line or type(error).__name__}") from error
        # The first row that cannot be computed is found in as few predictions as a search takes.
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
        """Raises ValueError, and BadRow for the first row that has a result which JSON cannot say."""
        import numpy as np

        given, chances = self._read(columns), None
        with self._threads.limit(limits=1), np.errstate(all="ignore"):
            if self._classes is not None:
                chances = self._estimator.predict_proba(given)
            if chances is not None and self._predicts_likeliest:
                values = self._estimator.classes_.take(chances.argmax(axis=1))
            else:
                values = np.asarray(self._estimator.predict(given))
        numbers = chances if chances is not None else values.reshape(len(values), -1)
        if numbers.dtype.kind == "f" and not (finite := np.isfinite(numbers).all(axis=1)).all():
            raise BadRow(int(finite.argmin()), None, "cannot be computed: the result is no finite number")
        if chances is None or self._classes is None:
            return Predictions(values.tolist())
        return Predictions(values.tolist(), [dict(zip(self._classes, row, strict=True)) for row in chances.tolist()])


def _frame(columns: Columns) -> Any:
    import pandas as pd

    return pd.DataFrame(columns, copy=False)


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
