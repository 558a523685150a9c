"""Tabular models read from folders as MLflow writes them, with skops and a fixed list of types.

MLflow's own loading trusts the types that the model's folder says are to be trusted; here the list is the program's.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmops.errors import CannotRun, Corrupted, LlmopsError, first_line
from llmops.tabular.compiled import held_by
from llmops.tabular.model import TabularModel
from llmops.tabular.schema import RowSchema, columns_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

logger = logging.getLogger("llmops.tabular")

SCHEMA_KEY = "llmops_schema"
"""Where a folder's MLmodel has the schema, within its `metadata`."""
ALLOWED_TYPES = (
    "numpy.dtype",
    # A line in pieces (labs/insurance): it computes with numbers, and calls nothing that it is given.
    "numpy.interp",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    # How gradient boosting with categorical columns checks its numbers.
    "functools.partial",
    "sklearn.utils.validation.check_array",
)
"""Types that a file may hold beside those that skops trusts by itself: scikit-learn's estimators, numpy's arrays and
mathematical functions, plain values. The trees among them are looked at after loading."""

_MOST_BYTES = 1 << 30
_MOST_MLMODEL = 1 << 20
_MOST_EXAMPLE = 1 << 20
_SCHEMA = "schema.json"
_HOLDERS = ("sklearn.tree.", "sklearn.ensemble._forest", "sklearn.ensemble._gb", "sklearn.ensemble._hist_gradient")
_LEAF = -1
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def read_estimator(path: Path) -> Any:
    """The estimator in a skops file. Raises CannotRun: it holds types outside of the list, which are named, or is too
    large. Corrupted: it is no skops file, or trees in it are broken."""
    from skops.io import load as load_skops
    from skops.io.exceptions import UntrustedTypesFoundException

    _check_size(path)
    try:
        estimator = load_skops(path, trusted=list(ALLOWED_TYPES))
        check_trees(estimator)
    except UntrustedTypesFoundException as error:
        raise CannotRun(f"{path}: {first_line(error)} It is not loaded") from error
    except LlmopsError as error:
        raise Corrupted(f"{path}: {error}") from error
    except Exception as error:  # a file made to break its reader can raise anything
        raise Corrupted(f"{path}: no skops file of an estimator: {type(error).__name__}: {error}") from error
    return estimator


def load(folder: Path) -> TabularModel:
    """The model in a folder as MLflow writes it: `MLmodel` with the schema of its rows, and a skops file. Its example
    is the first row of MLflow's input example, where there is one that the schema takes. Raises CannotRun: the folder
    has no model, or one that is not skops (a pickle runs whatever code is in it), or types outside of the list, which
    are named. Corrupted: a file in it cannot be read, or is not what it should be."""
    described = _described(folder)
    flavour = described.get("flavors", {}).get("sklearn")
    if not isinstance(flavour, dict):
        raise CannotRun(f"{folder}: MLmodel has no scikit-learn model")
    name = str(flavour.get("pickled_model"))
    if flavour.get("serialization_format") != "skops":
        raise CannotRun(f"{folder}: {name} is not skops; a pickle runs whatever code is in it, and is not loaded")
    metadata = described.get("metadata")
    if not isinstance(metadata, dict) or SCHEMA_KEY not in metadata:
        raise CannotRun(f"{folder}: MLmodel has no {SCHEMA_KEY} in its metadata; log the model with llmops")
    path = folder / name
    if path.parent != folder or not path.is_file():
        raise CannotRun(f"{folder}: there is no file {name!r}")
    estimator = read_estimator(path)
    try:
        schema = RowSchema.from_json(metadata[SCHEMA_KEY])
        return TabularModel(estimator, schema, example=_example(folder, described, schema))
    except CannotRun as error:
        raise type(error)(f"{folder}: {error}") from error
    except Exception as error:  # whatever is missing in an estimator that was never fitted
        raise Corrupted(f"{path}: no fitted estimator: {type(error).__name__}: {error}") from error


def _example(folder: Path, described: Mapping[str, Any], schema: RowSchema) -> Mapping[str, Any] | None:
    """None where there is none, or one that does not fit: a model serves without."""
    saved = described.get("saved_input_example_info")
    if not isinstance(saved, dict) or saved.get("type") != "dataframe" or saved.get("pandas_orient") != "split":
        return None
    path = folder / str(saved.get("artifact_path"))
    try:
        if path.parent != folder or path.stat().st_size > _MOST_EXAMPLE:
            raise Corrupted(f"lies elsewhere, or is larger than {_MOST_EXAMPLE:,} bytes")
        table = json.loads(path.read_text(encoding="utf-8"))
        row = dict(zip(table["columns"], table["data"][0], strict=True))
        columns_of(schema, [row])
    except Exception as error:  # noqa: BLE001  whatever it is that is wrong with it, the estimator is not
        logger.warning("%s: no input example that fits: %s: %s", path, type(error).__name__, error)
        return None
    return row


def _described(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / "MLmodel"
    try:
        if path.stat().st_size > _MOST_MLMODEL:
            raise Corrupted(f"{path}: larger than {_MOST_MLMODEL:,} bytes")
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotRun(f"{folder}: no MLflow model here: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Corrupted(f"{path}: {first_line(error)}") from error
    if not isinstance(described, dict) or not isinstance(described.get("flavors", {}), dict):
        raise Corrupted(f"{path}: not what MLflow writes")
    return described


def _check_size(path: Path) -> None:
    """Before anything is read into memory; a part of the file may be named many times."""
    try:
        with zipfile.ZipFile(path) as file:
            sizes = {member.filename: member.file_size for member in file.infolist()}
            size = sum(sizes.values())
            if size <= _MOST_BYTES:
                size = sum(sizes.get(name, 0) for _, name in set(_named_files(json.loads(file.read(_SCHEMA)))))
    except Exception as error:  # a file made to break its reader can raise anything
        raise Corrupted(f"{path}: no skops file: {type(error).__name__}: {error}") from error
    if size > _MOST_BYTES:
        raise CannotRun(f"{path}: unpacks to {size:,} bytes; at most {_MOST_BYTES:,} are read")


def _named_files(schema: Any) -> Iterator[tuple[str, str]]:
    """Of each object that is kept in a file: its number and the file. skops reads an object once."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if isinstance(value.get("file"), str):
                yield str(value.get("__id__")), value["file"]


# Whether decision trees read from a file can be walked safely.
#
# scikit-learn follows the indices of a tree's nodes without looking at them: a wrong one reads memory that is not the
# tree's, or walks for ever. skops checks types, not contents, and leaves these to whoever loads a file.


def check_trees(part: Any, width: int | None = None, holder: Any = None, seen: set[int] | None = None) -> None:
    """Looks at every tree within a fitted estimator, and within its parts in turn. Raises Corrupted.

    width: columns that the trees below may read, the fewest that an estimator around them takes.
    holder: what holds the part.
    seen: ids of the parts looked at before.
    """
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    kind = type(part).__name__
    if kind == "Tree":  # of `sklearn.tree._tree`: in forests, gradient boosting and single trees
        inner = part.children_left != _LEAF
        _demand(len(part.value) == part.node_count)
        _check_nodes(inner, part.children_left, part.children_right, part.feature, width or 0)
    elif kind == "TreePredictor":
        _check_predictor(part, width or 0, getattr(holder, "is_categorical_", None))
    else:
        if not type(part).__module__.startswith(_HOLDERS):
            width = None
        elif (own := getattr(part, "n_features_in_", None)) is not None:
            width = own if width is None else min(width, own)
        for each in held_by(part):
            check_trees(each, width, part, seen)


def _check_predictor(predictor: Any, width: int, categorical: Array | None) -> None:
    """A tree of histogram gradient boosting."""
    import numpy as np

    nodes = predictor.nodes
    _demand(nodes.dtype.names is not None)
    _check_nodes(nodes["is_leaf"] == 0, nodes["left"], nodes["right"], nodes["feature_idx"], width)
    by_category = nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] != 0)]
    if len(by_category):
        _demand(categorical is not None and len(categorical) == width)
        _demand(bool(np.asarray(categorical)[by_category["feature_idx"]].all()))
        _demand(by_category["bitset_idx"].max() < len(predictor.raw_left_cat_bitsets))


def _check_nodes(inner: Array, left: Array, right: Array, columns: Array, width: int) -> None:
    """Of all nodes of a tree, of shape (nodes,): whether they have children, which, and the column they ask for."""
    import numpy as np

    _demand(len(inner) > 0)
    own, children, asked = np.flatnonzero(inner), np.stack([left[inner], right[inner]]), columns[inner]
    if len(own):  # trees are stored parents first, so an index that only grows ends in a leaf
        _demand(bool((children > own).all()) and children.max() < len(inner))
        _demand(asked.min() >= 0 and asked.max() < width)


def _demand(sound: bool) -> None:
    if not sound:
        raise Corrupted("a decision tree in it has nodes that point outside of it")


# skops files whose bytes depend on their content alone.
#
# skops names an object by its place in memory, an array's file by chance, and stamps each with the time, so that no two
# files of one estimator are equal. Here they are numbered in the order they are met, and have no time.


def make_canonical(path: Path) -> None:
    """Writes a skops file anew, in place. Raises OSError."""
    scratch = path.with_name(f".{path.name}.canonical")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as new:
        numbers: dict[int, int] = {}
        files: dict[str, str] = {}
        schema = _renamed(json.loads(old.read(_SCHEMA)), numbers, files)
        for name, renamed in files.items():
            new.writestr(zipfile.ZipInfo(renamed, _NO_TIME), old.read(name))
        text = json.dumps(schema, separators=(",", ":"))
        new.writestr(zipfile.ZipInfo(_SCHEMA, _NO_TIME), text)
    scratch.replace(path)


def _renamed(value: Any, numbers: dict[int, int], files: dict[str, str]) -> Any:
    """skops' schema with objects and files numbered in the order they are met."""
    if isinstance(value, list):
        return [_renamed(item, numbers, files) for item in value]
    if not isinstance(value, dict):
        return value
    renamed: dict[str, Any] = {}
    for key, item in value.items():
        # Among a node's own fields only: what a dictionary holds under such a key is a node, not a number or a text.
        if key == "__id__" and isinstance(item, int):
            renamed[key] = numbers.setdefault(item, len(numbers))
        elif key == "file" and isinstance(item, str):
            suffix = PurePosixPath(item).suffix
            renamed[key] = files.setdefault(item, f"{len(files)}{suffix}")
        else:
            renamed[key] = _renamed(item, numbers, files)
    return renamed
