"""Whether decision trees read from a file can be walked safely.

scikit-learn follows the indices of a tree's nodes without looking at them: a wrong one reads memory that is not the
tree's, or walks for ever. skops checks types, not contents, and leaves these to whoever loads a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmops.errors import Corrupted
from llmops.tabular.parts import held_by

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_HOLDERS = ("sklearn.tree.", "sklearn.ensemble._forest", "sklearn.ensemble._gb", "sklearn.ensemble._hist_gradient")
_LEAF = -1


def check_trees(estimator: Any) -> None:
    """Looks at every tree within a fitted estimator. Raises Corrupted."""
    _check(estimator, None, None, set())


def _check(part: Any, width: int | None, holder: Any, seen: set[int]) -> None:
    """width: columns that the trees below may read, the fewest that an estimator around them takes."""
    if id(part) in seen:
        return
    seen.add(id(part))
    kind = type(part).__name__
    if kind == "Tree":
        _check_tree(part, width or 0)
    elif kind == "TreePredictor":
        _check_predictor(part, width or 0, getattr(holder, "is_categorical_", None))
    else:
        if not type(part).__module__.startswith(_HOLDERS):
            width = None
        elif (own := getattr(part, "n_features_in_", None)) is not None:
            width = own if width is None else min(width, own)
        for inner in held_by(part):
            _check(inner, width, part, seen)


def _check_tree(tree: Any, width: int) -> None:
    """A `sklearn.tree._tree.Tree`: in forests, gradient boosting and single trees."""
    import numpy as np

    left, right = tree.children_left, tree.children_right
    inner = left != _LEAF
    own = np.flatnonzero(inner)
    _demand(tree.node_count > 0 and len(tree.value) == tree.node_count)
    _demand_children(left[inner], right[inner], own, tree.node_count)
    _demand_columns(tree.feature[inner], width)


def _check_predictor(predictor: Any, width: int, categorical: Array | None) -> None:
    """A tree of histogram gradient boosting."""
    import numpy as np

    nodes = predictor.nodes
    _demand(len(nodes) > 0 and nodes.dtype.names is not None)
    inner = nodes[nodes["is_leaf"] == 0]
    own = np.flatnonzero(nodes["is_leaf"] == 0)
    _demand_children(inner["left"], inner["right"], own, len(nodes))
    _demand_columns(inner["feature_idx"], width)
    by_category = inner[inner["is_categorical"] != 0]
    if len(by_category):
        _demand(categorical is not None and len(categorical) == width)
        _demand(bool(np.asarray(categorical)[by_category["feature_idx"]].all()))
        _demand(by_category["bitset_idx"].max() < len(predictor.raw_left_cat_bitsets))


def _demand_children(left: Array, right: Array, own: Array, count: int) -> None:
    """Trees are stored parents first, so an index that only grows ends in a leaf."""
    _demand(len(own) == 0 or bool((left > own).all() and (right > own).all()))
    _demand(len(own) == 0 or max(left.max(), right.max()) < count)


def _demand_columns(columns: Array, width: int) -> None:
    _demand(len(columns) == 0 or bool(columns.min() >= 0 and columns.max() < width))


def _demand(sound: bool) -> None:
    if not sound:
        raise Corrupted("a decision tree in it has nodes that point outside of it")
