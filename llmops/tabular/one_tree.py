"""The trees of an ensemble as one tree, which a few rows walk in one call.

scikit-learn calls its compiled code once for each tree: for one row, the calls are nearly all of the time (measured
with 300 trees: 2 ms, of which the walks are a few µs). Here one tree has all of them below a router, which sends a row
to the tree that an additional column names; each row is handed over once for each tree. The code that walks is
scikit-learn's, and values are added in its order, so results are the same to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MOST_ROWS = 64
"""Up to so many rows one call is quicker than one for each tree (measured with 60 to 600 trees)."""

MOST_NODES = 1_000_000
"""Of a larger ensemble there is no second copy (64 bytes a node)."""
_MOST_VALUES = 2_000_000


def with_one_tree(estimator: Any) -> Any:
    """A copy of gradient boosting by histograms or of a forest, sharing its arrays, that predicts few rows quickly;
    other estimators as they are."""
    quick = copy.copy(estimator)
    if type(estimator).__name__ in ("HistGradientBoostingRegressor", "HistGradientBoostingClassifier"):
        trees = [tree for trees_of_round in estimator._predictors for tree in trees_of_round]
        if sum(len(tree.nodes) for tree in trees) <= MOST_NODES:
            quick._predict_iterations = _BoostedTrees(estimator, trees)
    elif _is_forest(estimator) and sum(tree.tree_.node_count for tree in estimator.estimators_) <= MOST_NODES:
        quick.estimators_ = [_Forest(estimator.estimators_)]
    return quick


def _is_forest(estimator: Any) -> bool:
    return type(estimator).__module__ == "sklearn.ensemble._forest" and getattr(estimator, "n_outputs_", 0) == 1


class _BoostedTrees:
    """`_predict_iterations` of gradient boosting by histograms: adds what its trees say to what stands there."""

    def __init__(self, boosting: Any, trees: Sequence[Any]) -> None:
        import numpy as np

        self._of_each_tree: Callable[..., None] = boosting._predict_iterations
        self._rounds = len(boosting._predictors)
        nodes = _below_a_router([tree.nodes for tree in trees], boosting.n_features_in_, _BOOSTING_FIELDS)
        bitsets = [tree.raw_left_cat_bitsets for tree in trees]
        starts = np.cumsum([0, *map(len, bitsets)])
        place = len(nodes) - sum(len(tree.nodes) for tree in trees)
        for tree, start in zip(trees, starts, strict=False):
            nodes["bitset_idx"][place : place + len(tree.nodes)] += np.uint32(start)
            place += len(tree.nodes)
        self._tree = type(trees[0])(nodes, trees[0].binned_left_cat_bitsets, np.concatenate(bitsets))
        known, columns = boosting._bin_mapper.make_known_categories_bitsets()
        self._categories = known, np.append(columns, np.zeros(1, columns.dtype))
        self._count = len(trees)

    def __call__(self, rows: Array, trees: Any, raw: Array, is_binned: bool, n_threads: int) -> None:
        import numpy as np

        if is_binned or not _few(rows, self._count):
            self._of_each_tree(rows, trees, raw, is_binned, n_threads)
            return
        values = self._tree.predict(_for_each_tree(rows, self._count), *self._categories, n_threads)
        of_rounds = values.reshape(len(rows), self._rounds, raw.shape[1])
        # cumsum adds one after the other, as a loop over trees does; sum does not.
        raw[:] = np.concatenate([raw[:, np.newaxis], of_rounds], axis=1).cumsum(axis=1)[:, -1]


class _Forest:
    """A forest as the only tree of a forest: what it gives is the mean of its trees."""

    def __init__(self, trees: Sequence[Any]) -> None:
        import numpy as np
        from sklearn.tree._tree import Tree

        self._trees, self._count = trees, len(trees)
        inner = [tree.tree_ for tree in trees]
        states = [tree.__getstate__() for tree in inner]
        nodes = _below_a_router([state["nodes"] for state in states], trees[0].n_features_in_, _FOREST_FIELDS)
        routers = np.zeros((self._count - 1, *states[0]["values"].shape[1:]))
        self._tree = Tree(trees[0].n_features_in_ + 1, inner[0].n_classes, inner[0].n_outputs)
        self._tree.__setstate__(
            {
                "max_depth": max(state["max_depth"] for state in states) + self._count,
                "node_count": len(nodes),
                "nodes": nodes,
                "values": np.concatenate([routers, *(state["values"] for state in states)]),
            }
        )

    def _support_missing_values(self, rows: Array) -> bool:
        return bool(self._trees[0]._support_missing_values(rows))

    def predict(self, rows: Array, check_input: bool = True) -> Array:  # noqa: ARG002  as its trees have it
        """The mean of the trees' predictions."""
        return self._mean(rows, "predict")

    def predict_proba(self, rows: Array, check_input: bool = True) -> Array:  # noqa: ARG002  as its trees have it
        """The mean of the trees' probabilities."""
        return self._mean(rows, "predict_proba")

    def _mean(self, rows: Array, method: str) -> Array:
        import numpy as np
        from scipy.sparse import issparse

        if issparse(rows) or not _few(rows, self._count):
            total: Any = 0.0
            for tree in self._trees:
                total = total + getattr(tree, method)(rows, check_input=False)
        else:
            values = self._tree.predict(_for_each_tree(rows, self._count))
            of_trees = values.reshape(len(rows), self._count, -1)
            total = of_trees.cumsum(axis=1)[:, -1]
            if method == "predict":
                total = total[:, 0]
        return np.asarray(total / self._count)


_BOOSTING_FIELDS = {"column": "feature_idx", "threshold": "num_threshold", "left": "left", "right": "right"}
_FOREST_FIELDS = {"column": "feature", "threshold": "threshold", "left": "left_child", "right": "right_child"}


def _few(rows: Array, count: int) -> bool:
    return len(rows) <= MOST_ROWS and rows.size * count <= _MOST_VALUES


def _for_each_tree(rows: Array, count: int) -> Array:
    """Each row once for every tree, with the tree's number behind its columns."""
    import numpy as np

    repeated = np.empty((len(rows) * count, rows.shape[1] + 1), dtype=rows.dtype)
    repeated[:, :-1] = np.repeat(rows, count, axis=0)
    repeated[:, -1] = np.tile(np.arange(count), len(rows))
    return repeated


def _below_a_router(trees: Sequence[Array], width: int, fields: dict[str, str]) -> Array:
    """The nodes of all trees in one array, behind nodes that lead to tree `n` by a column `width` that holds `n`."""
    import numpy as np

    routers = len(trees) - 1
    nodes = np.concatenate([np.zeros(routers, dtype=trees[0].dtype), *trees])
    roots = routers + np.cumsum([0, *map(len, trees[:-1])])
    left, right = fields["left"], fields["right"]
    for root, tree in zip(roots, trees, strict=True):
        own = nodes[root : root + len(tree)]
        inner = own["is_leaf"] == 0 if "is_leaf" in (own.dtype.names or ()) else own[left] != -1
        for side in (left, right):
            own[side][inner] += own[side].dtype.type(root)
    free = iter(range(routers))

    def lead(first: int, last: int) -> int:
        """The node that leads to the trees from `first` to `last`."""
        if first == last:
            return int(roots[first])
        place, middle = next(free), (first + last) // 2
        nodes[fields["column"]][place] = width
        nodes[fields["threshold"]][place] = middle + 0.5
        nodes[left][place] = lead(first, middle)
        nodes[right][place] = lead(middle + 1, last)
        return place

    lead(0, routers)
    return nodes
