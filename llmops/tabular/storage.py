"""Tabular models read from folders as MLflow writes them, with skops and a fixed list of types.

MLflow's own loading trusts the types that the model's folder says are to be trusted; here the list is the program's.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun, Corrupted, LlmopsError
from llmops.tabular.model import TabularModel
from llmops.tabular.rows import columns_of
from llmops.tabular.schema import RowSchema
from llmops.tabular.trees import check_trees

logger = logging.getLogger("llmops.tabular")

SCHEMA_KEY = "llmops_schema"
"""Where a folder's MLmodel has the schema, within its `metadata`."""
ALLOWED_TYPES = (
    "numpy.dtype",
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


def read_estimator(path: Path) -> Any:
    """The estimator in a skops file.

    Raises:
        CannotRun: it holds types outside of the list, which are named, or is too large.
        Corrupted: it is no skops file, or trees in it are broken.
    """
    from skops.io import load as load_skops
    from skops.io.exceptions import UntrustedTypesFoundException

    _check_size(path)
    try:
        estimator = load_skops(path, trusted=list(ALLOWED_TYPES))
        check_trees(estimator)
    except UntrustedTypesFoundException as error:
        raise CannotRun(f"{path}: {str(error).splitlines()[0]} It is not loaded") from error
    except LlmopsError as error:
        raise Corrupted(f"{path}: {error}") from error
    except Exception as error:  # a file made to break its reader can raise anything
        raise Corrupted(f"{path}: no skops file of an estimator: {type(error).__name__}: {error}") from error
    return estimator


def load(folder: Path) -> TabularModel:
    """The model in a folder as MLflow writes it: `MLmodel` with the schema of its rows, and a skops file. Its example
    is the first row of MLflow's input example, where there is one that the schema takes.

    Raises:
        CannotRun: the folder has no model, or one that is not skops (a pickle runs whatever code is in it), or types
            outside of the list, which are named.
        Corrupted: a file in it cannot be read, or is not what it should be.
    """
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
        raise Corrupted(f"{path}: {str(error).splitlines()[0]}") from error
    if not isinstance(described, dict) or not isinstance(described.get("flavors", {}), dict):
        raise Corrupted(f"{path}: not what MLflow writes")
    return described


def _check_size(path: Path) -> None:
    """Before anything is read into memory; a part of the file may be named many times."""
    try:
        with zipfile.ZipFile(path) as file:
            sizes = {member.filename: member.file_size for member in file.infolist()}
            _demand_small(path, sum(sizes.values()))
            schema = json.loads(file.read(_SCHEMA))
    except CannotRun:
        raise
    except Exception as error:  # a file made to break its reader can raise anything
        raise Corrupted(f"{path}: no skops file: {type(error).__name__}: {error}") from error
    _demand_small(path, sum(sizes.get(name, 0) for _, name in set(_named_files(schema))))


def _demand_small(path: Path, size: int) -> None:
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
