"""Pipelines that read columns instead of a pandas frame.

A `ColumnTransformer` cuts a frame into pieces, for which pandas takes longer than most estimators do for a row. Here
the same fitted transformers are handed the same values as arrays. Whether that gives the same results is tried out when
a model is made, on rows that are made up; a pipeline that is unlike those known here keeps its frame.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmops.tabular.one_tree import with_one_tree
from llmops.tabular.parts import parts_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Columns:
    """Arrays by name, as many values in each: what takes a frame's place."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self.shape = (len(next(iter(arrays.values()))), len(arrays))

    def __len__(self) -> int:
        return self.shape[0]


class _Unknown(Exception):
    """A part of another make than those known here."""


def frameless(estimator: Any) -> Any | None:
    """A copy of a fitted estimator, sharing what it learned, whose `predict` reads `Columns`; None where it is of
    another make than those known here."""
    try:
        made = _frameless(estimator)
    except _Unknown:
        return None
    # A part that knows its columns' names would warn, at every call, that the array it is given has none.
    named = any(
        "feature_names_in_" in getattr(part, "__dict__", ()) for part in parts_of(made) if not isinstance(part, _Split)
    )
    return None if named else made


def _frameless(part: Any) -> Any:
    known: dict[str, Callable[[Any], Any]] = {
        "Pipeline": _pipeline,
        "ColumnTransformer": _Split,
        "TransformedTargetRegressor": _transformed,
        "CalibratedClassifierCV": _calibrated,
    }
    kind = type(part).__name__
    if not type(part).__module__.startswith("sklearn."):
        raise _Unknown
    return known[kind](part) if kind in known else _of_all_columns(part)


def _of_all_columns(part: Any) -> Any:
    """A part that reads the whole frame."""
    from sklearn.pipeline import Pipeline

    if not hasattr(part, "feature_names_in_"):
        raise _Unknown
    reader = _Whole(list(part.feature_names_in_))
    return Pipeline([("columns", reader), ("part", with_one_tree(_changed(part)))])


def _changed(part: Any, **fields: Any) -> Any:
    """A shallow copy with other fields, and without the names of columns."""
    made = copy.copy(part)
    vars(made).update(fields)
    vars(made).pop("feature_names_in_", None)
    return made


def _pipeline(pipeline: Any) -> Any:
    (first, reader), *others = pipeline.steps
    last = [(name, _last(step)) for name, step in others[-1:]]
    return _changed(pipeline, steps=[(first, _frameless(reader)), *others[:-1], *last])


def _last(step: Any) -> Any:
    """What predicts, reading a matrix already."""
    if type(step).__name__ == "TransformedTargetRegressor":
        return _changed(step, regressor_=with_one_tree(step.regressor_))
    if type(step).__name__ == "CalibratedClassifierCV":
        return _changed(step, calibrated_classifiers_=_each(step, with_one_tree))
    return with_one_tree(step)


def _transformed(regressor: Any) -> Any:
    return _changed(regressor, regressor_=_frameless(regressor.regressor_))


def _calibrated(classifier: Any) -> Any:
    return _changed(classifier, calibrated_classifiers_=_each(classifier, _frameless))


def _each(calibrated: Any, change: Callable[[Any], Any]) -> list[Any]:
    return [_changed(one, estimator=change(one.estimator)) for one in calibrated.calibrated_classifiers_]


class _Whole:
    """All columns as one matrix."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def transform(self, columns: Columns) -> Array:
        """The matrix that the next step reads."""
        return _matrix([columns.arrays[name] for name in self._names])


class _Split:
    """A fitted `ColumnTransformer`."""

    def __init__(self, fitted: Any) -> None:
        if fitted.transformer_weights or hasattr(fitted, "_sklearn_output_config"):
            raise _Unknown
        self._sparse = fitted.sparse_output_
        self._pieces: list[tuple[Any, Sequence[str]]] = []
        for _, transformer, columns in fitted.transformers_:
            if isinstance(transformer, str) and transformer == "drop":
                continue
            if not isinstance(columns, Sequence) or isinstance(columns, str):  # a slice, a mask, or one column as such
                raise _Unknown
            if not all(isinstance(column, str) for column in columns):
                raise _Unknown
            if columns:
                self._pieces.append((_nameless(transformer), list(columns)))

    def transform(self, columns: Columns) -> Any:
        """The matrix that the next step reads."""
        import numpy as np
        from scipy import sparse

        made: list[Any] = []
        for transformer, names in self._pieces:
            piece = _matrix([columns.arrays[name] for name in names])
            made.append(piece if isinstance(transformer, str) else transformer.transform(piece))
        if self._sparse:
            return sparse.hstack(made).tocsr()
        return np.hstack([piece.toarray() if sparse.issparse(piece) else piece for piece in made])


def _nameless(transformer: Any) -> Any:
    """A transformer that was fitted on a frame, for arrays."""
    if isinstance(transformer, str):  # "passthrough"
        return transformer
    if type(transformer).__name__ == "Pipeline":
        return _changed(transformer, steps=[(name, _nameless(step)) for name, step in transformer.steps])
    return _changed(transformer)


def _matrix(columns: Sequence[Array]) -> Array:
    import numpy as np

    if any(column.dtype == object for column in columns):
        matrix = np.empty((len(columns[0]), len(columns)), dtype=object)
        for place, column in enumerate(columns):
            matrix[:, place] = column
        return matrix
    return np.column_stack(columns)
