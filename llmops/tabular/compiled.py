"""Fitted pipelines made quick for few rows: arrays instead of a frame, and all trees of an ensemble in one walk.

For one row most of the time goes into calls: a `ColumnTransformer` cuts a pandas frame into pieces, and an ensemble
calls compiled code once for each tree (docs/adr/0022-few-rows-are-predicted-from-arrays.md). Here the same fitted
transformers are handed the same values as arrays. Whether that gives the same is tried out when a model is made, on
rows that are made up; a pipeline of another make than those known here gives something else or fails, and keeps its
frame.
"""

from __future__ import annotations

import copy
import itertools
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmops.tabular.schema import Column, RowSchema, columns_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

logger = logging.getLogger("llmops.tabular")

MOST_ROWS = 32
"""Up to so many rows one walk is quicker than a call for each tree (measured with 60 to 600 trees)."""
MOST_NODES = 1_000_000
"""Of a larger ensemble there is no second copy (34 bytes a node)."""
_TRIED_ROWS = 40
_NULLS = 0.2  # of the values made up for a nullable column


class ColumnArrays:
    """Arrays by name, as many values in each: what takes a frame's place."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self.shape = (len(next(iter(arrays.values()))), len(arrays))

    def __len__(self) -> int:
        return self.shape[0]


def compiled(estimator: Any, schema: RowSchema) -> Any | None:
    """A copy of a fitted estimator that predicts from `ColumnArrays`; None where it needs a frame."""
    import numpy as np
    import pandas as pd

    made_up = columns_of(schema, _made_up_rows(schema))
    first = {name: array[:1] for name, array in made_up.items()}
    try:
        quick = _compiled(estimator)
        with np.errstate(all="ignore"):
            for arrays, method in itertools.product((made_up, first), ("predict", "predict_proba")):
                if hasattr(estimator, method):
                    expected = getattr(estimator, method)(pd.DataFrame(arrays, copy=False))
                    if not _same(expected, getattr(quick, method)(ColumnArrays(arrays))):
                        return None
    except Exception as error:  # noqa: BLE001  whatever it is that does not work, frames do
        logger.debug("a %s is asked with frames: %s", type(estimator).__name__, error)
        return None
    return quick


def _same(expected: Array, found: Array) -> bool:
    import numpy as np

    if expected.dtype.kind != "f":
        return np.array_equal(expected, found)
    return np.allclose(expected, found, rtol=1e-9, atol=0, equal_nan=True)


def _made_up_rows(schema: RowSchema) -> list[dict[str, Any]]:
    """Rows that fit the schema and mean nothing, the same ones each time: with every category, and with nulls."""
    chance = random.Random(0)  # noqa: S311  no secret

    def value(column: Column) -> Any:
        if column.nullable and chance.random() < _NULLS:
            return None
        if column.kind == "text":
            return chance.choice(column.categories or ("a", "b", ""))
        if column.kind == "boolean":
            return chance.random() < 0.5
        number = chance.gauss(0.5, 10 ** chance.randrange(-1, 4))
        return round(number) if column.kind == "integer" else number

    return [{column.name: value(column) for column in schema.inputs} for _ in range(_TRIED_ROWS)]


def parts_of(estimator: Any) -> Iterator[Any]:
    """The estimator and every scikit-learn object it holds, fitted or not, each once and after its holder."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += held_by(part)


def held_by(part: Any) -> Iterator[Any]:
    """The scikit-learn objects that `part` holds itself, however deep in lists and mappings."""
    for value in getattr(part, "__dict__", {}).values():
        yield from _within(value)


def _within(value: Any) -> Iterator[Any]:
    if type(value).__module__.startswith("sklearn."):
        yield value
        return
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set):
        inner = value
    elif getattr(getattr(value, "dtype", None), "kind", "") == "O" and value.ndim:
        inner = value.flat
    for item in inner:
        yield from _within(item)


def _compiled(estimator: Any) -> Any:
    made = copy.deepcopy(estimator)
    for part in list(parts_of(made)):
        if any(hasattr(step, "feature_names_in_") for _, step in getattr(part, "steps", ())[1:]):
            raise TypeError("a step hands a frame to the next")
        # A part that knows its columns' names warns, at every call, that the array it is given has none.
        getattr(part, "__dict__", {}).pop("feature_names_in_", None)
        if type(part).__name__.startswith("HistGradientBoosting") and hasattr(part, "n_iter_"):
            _walk_boosting(part)
        elif type(part).__module__ == "sklearn.ensemble._forest" and getattr(part, "n_outputs_", 0) == 1:
            _walk_forest(part)
    return _reading_columns(made)


def _reading_columns(part: Any) -> Any:
    from sklearn.pipeline import make_pipeline

    kind = type(part).__name__
    if kind == "ColumnTransformer":
        return _Split(part)
    if kind == "Pipeline":
        part.steps[0] = (part.steps[0][0], _reading_columns(part.steps[0][1]))
    elif kind == "TransformedTargetRegressor":
        part.regressor_ = _reading_columns(part.regressor_)
    elif kind == "CalibratedClassifierCV":
        for one in part.calibrated_classifiers_:
            one.estimator = _reading_columns(one.estimator)
    else:
        return make_pipeline(_Whole(), part)
    return part


class _Whole:
    """All columns as one matrix."""

    def transform(self, columns: ColumnArrays) -> Array:
        """The matrix that the next step reads, of shape (rows, columns)."""
        return _matrix(list(columns.arrays.values()))


class _Split:
    """A fitted `ColumnTransformer`."""

    def __init__(self, fitted: Any) -> None:
        self._sparse = fitted.sparse_output_
        self._pieces = [
            (transformer, list(names))
            for _, transformer, names in fitted.transformers_
            if transformer != "drop" and len(names)
        ]

    def transform(self, columns: ColumnArrays) -> Any:
        """The matrix that the next step reads, of shape (rows, features)."""
        import numpy as np
        from scipy import sparse

        made: list[Any] = []
        for transformer, names in self._pieces:
            piece = _matrix([columns.arrays[name] for name in names])
            made.append(piece if isinstance(transformer, str) else transformer.transform(piece))
        if self._sparse:
            return sparse.hstack(made).tocsr()
        return np.hstack([piece.toarray() if sparse.issparse(piece) else piece for piece in made])


def _matrix(columns: Sequence[Array]) -> Array:
    import numpy as np

    is_mixed = any(column.dtype == object for column in columns)
    return np.column_stack([column.astype(object) for column in columns] if is_mixed else columns)


class _Trees:
    """Decision trees in common arrays, each with a place for every node of every tree."""

    def __init__(self, trees: Sequence[tuple[Array, ...]]) -> None:
        """trees: of each its nodes' columns, thresholds, children to the left and to the right, whether missing values
        go to the left, whether it is a leaf, and values; each of shape (nodes,), values perhaps (nodes, classes)."""
        import numpy as np

        sizes = [len(tree[0]) for tree in trees]
        self._roots = np.cumsum([0, *sizes[:-1]])
        column, self._threshold, left, right, missing, leaf, self._value = map(np.concatenate, zip(*trees, strict=True))
        own, shift, is_leaf = np.arange(sum(sizes)), np.repeat(self._roots, sizes), leaf != 0
        self._column, self._missing = np.where(is_leaf, 0, column), missing != 0
        # Of each node the places to the right and to the left, which lie beside each other; a leaf leads to itself.
        self._next = np.where(is_leaf, own, [right + shift, left + shift]).T.ravel()

    def values(self, rows: Array) -> Array:
        """Of the leaves that rows of shape (rows, columns) reach: shape (rows, trees) or (rows, trees, classes)."""
        import numpy as np

        node, row_start = np.tile(self._roots, (len(rows), 1)), np.arange(0, rows.size, rows.shape[1])[:, np.newaxis]
        while True:
            value = rows.take(row_start + self._column.take(node))
            goes_left = (value <= self._threshold.take(node)) | (np.isnan(value) & self._missing.take(node))
            before, node = node, self._next.take(2 * node + goes_left)
            if np.array_equal(node, before):
                values: Array = self._value[node]
                return values


def _walk_boosting(boosting: Any) -> None:
    """One stand-in for all trees of an output; trees that split by category are left alone."""
    trees = [tree for of_round in boosting._predictors for tree in of_round]
    if sum(len(tree.nodes) for tree in trees) > MOST_NODES or any(tree.nodes["is_categorical"].any() for tree in trees):
        return
    baseline = boosting._baseline_prediction
    of_outputs = zip(zip(*boosting._predictors, strict=True), baseline[0], strict=True)
    boosting._predictors = [[_boosted(trees_of_one, start) for trees_of_one, start in of_outputs]]
    boosting._baseline_prediction = 0 * baseline  # the stand-ins begin with it, so that sums keep their order


def _boosted(trees: Sequence[Any], start: float) -> Any:
    fields = ("feature_idx", "num_threshold", "left", "right", "missing_go_to_left", "is_leaf", "value")
    at_once = _Trees([tuple(tree.nodes[name] for name in fields) for tree in trees])

    def predict(rows: Array, **how: Any) -> Array:
        import numpy as np

        baseline = np.full(len(rows), start)
        if len(rows) > MOST_ROWS:
            return sum((tree.predict(rows, **how) for tree in trees), start=baseline)
        return _in_order(np.column_stack([baseline, at_once.values(rows)]))

    stand_in = copy.copy(trees[0])
    stand_in.predict = predict
    return stand_in


def _walk_forest(forest: Any) -> None:
    """One stand-in for all trees, which gives their mean."""
    from scipy.sparse import issparse

    trees = [tree.tree_ for tree in forest.estimators_]
    if sum(tree.node_count for tree in trees) > MOST_NODES:
        return
    fields = ("feature", "threshold", "children_left", "children_right", "missing_go_to_left")
    at_once = _Trees(
        [(*(getattr(tree, name) for name in fields), tree.children_left < 0, tree.value[:, 0]) for tree in trees]
    )
    is_classifier = hasattr(forest, "predict_proba")

    def mean(rows: Array, check_input: bool = False) -> Array:  # noqa: ARG001  as trees are called
        few = len(rows) <= MOST_ROWS if not issparse(rows) else False
        values = (_in_order(at_once.values(rows)) if few else sum(tree.predict(rows) for tree in trees)) / len(trees)
        return values if is_classifier else values[:, 0]

    stand_in = copy.copy(forest.estimators_[0])
    setattr(stand_in, "predict_proba" if is_classifier else "predict", mean)
    forest.estimators_ = [stand_in]


def _in_order(values: Array) -> Array:
    """The sum over the second axis, one after the other as a loop adds; `sum` of numpy does not."""
    return values.cumsum(axis=1)[:, -1]
