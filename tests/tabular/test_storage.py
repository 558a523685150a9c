"""Models in files: what is read, and what is refused."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.preprocessing import FunctionTransformer

from llmops.errors import CannotRun, Corrupted
from llmops.hashing import file_sha256
from llmops.tabular import RowSchema, TabularModel, load
from llmops.tabular.storage import make_canonical, read_estimator
from tests.tabular.fitted import CLASSES, KINDS, REGRESSION, fit, fitted, frame, rows_of

Write = Callable[..., Path]
ROWS = rows_of(frame(10, seed=2))


def refused(folder, kind=CannotRun):
    with pytest.raises(kind) as error:
        load(folder)
    text = str(error.value)
    assert str(folder) in text
    assert "\n" not in text
    return text


class Cruel:
    """What a stranger would have a server run."""

    def __reduce__(self):
        return os.system, ("touch /tmp/llmops-was-here",)


def unlisted(values):
    return values


@pytest.mark.parametrize(("name", "schema"), KINDS)
def test_what_was_fitted_predicts_the_same_when_read(write, name, schema):
    read = load(write(fitted(name, schema), schema))
    assert read.schema == schema
    assert read.predict(ROWS) == TabularModel(fitted(name, schema), schema).predict(ROWS)


def with_example(write, content, **saved):
    info = {"artifact_path": "input_example.json", "pandas_orient": "split", "type": "dataframe", **saved}
    folder = write(fitted("mean"), saved_input_example_info=info)
    (folder.parent / "input_example.json").write_text(content)
    (folder / "input_example.json").write_text(content)
    return folder


def split(*rows):
    return json.dumps({"columns": list(rows[0]), "data": [list(row.values()) for row in rows]})


def test_the_example_is_the_first_row_of_mlflows_where_there_is_one(write):
    assert load(with_example(write, split(*ROWS))).example == ROWS[0]
    assert load(write(fitted("mean"), name="without")).example is None


@pytest.mark.parametrize(
    ("content", "saved"),
    [
        ("", {}),
        ("[]", {}),
        ('{"columns": [], "data": []}', {}),
        (split({**ROWS[0], "hour": "eight"}), {}),
        (split({**ROWS[0], "more": 1}), {}),
        ("[" * 100_000, {}),
        (split(ROWS[0]) + " " * (1 << 20), {}),
        (split(ROWS[0]), {"artifact_path": "../input_example.json"}),
        (split(ROWS[0]), {"artifact_path": "missing.json"}),
        (split(ROWS[0]), {"type": "ndarray"}),
        (split(ROWS[0]), {"pandas_orient": "records"}),
    ],
)
def test_a_model_with_an_example_that_does_not_fit_is_read_without(write, content, saved):
    read = load(with_example(write, content, **saved))
    assert read.example is None
    assert len(read.predict(ROWS)) == len(ROWS)


def test_a_type_outside_of_the_list_is_named(write):
    estimator = fitted("ridge")
    estimator.steps.insert(1, ("own", FunctionTransformer(unlisted)))
    said = refused(write(estimator))
    assert "unlisted" in said
    assert said.endswith("It is not loaded")


def flavour(**changed):
    return {"flavors": {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops", **changed}}}


def test_types_that_the_folder_trusts_are_not_trusted(write):
    estimator = fitted("ridge")
    estimator.steps.insert(1, ("own", FunctionTransformer(os.system)))
    assert "posix.system" in refused(write(estimator, **flavour(skops_trusted_types=["posix.system"])))


@pytest.mark.parametrize(
    ("described", "kind", "said"),
    [
        (flavour(pickled_model="model.pkl", serialization_format="cloudpickle"), CannotRun,
         "model.pkl is not skops; a pickle runs whatever code is in it"),
        *((flavour(pickled_model=name), CannotRun, "there is no file")
          for name in ("../other.skops", "/etc/passwd", "absent.skops", "", ".")),
        ({"flavors": {"pytorch": {}}}, CannotRun, "no scikit-learn model"),
        ({"metadata": {}}, CannotRun, "no llmops_schema in its metadata"),
        ({"metadata": None}, CannotRun, "no llmops_schema in its metadata"),
        ({"metadata": {"llmops_schema": 3}}, Corrupted, "no schema of rows"),
    ],
)  # fmt: skip
def test_a_description_of_something_else_is_refused(write, described, kind, said):
    folder = write(fitted("mean"), **described)
    (folder / "model.pkl").write_bytes(pickle.dumps(Cruel()))
    skops.io.dump(fitted("mean"), folder.parent / "other.skops")
    assert said in refused(folder, kind)


@pytest.mark.parametrize("text", ["{", "[1]", "flavors: 3", "\x00", "- &a [*a]", "x" * (1 << 20) + "y"],
                         ids=range(6))  # fmt: skip
def test_a_broken_description_is_said_to_be_one(write, text):
    folder = write(fitted("mean"))
    (folder / "MLmodel").write_text(text)
    refused(folder, Corrupted)


def test_a_folder_without_a_model_is_named(tmp_path):
    assert "no MLflow model here: No such file" in refused(tmp_path)


def saved(array, **how):
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


def rewrite(path, change):
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, change(name, data))


CRUEL_ARRAY = saved(np.array([Cruel()], dtype=object), allow_pickle=True)
SCHEMAS = (b"", b"[]", b"{}", b'{"protocol": 2}', b"[" * 100_000, b'{"protocol": 10000}',
           b'{"protocol": 2, "__loader__": "Nothing", "__id__": 1}')  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(pickle.dumps(Cruel())), id="a pickle by the name of skops"),
        pytest.param(
            lambda path: rewrite(path, lambda name, data: CRUEL_ARRAY if name.endswith(".npy") else data),
            id="arrays of pickled objects",
        ),
        *(pytest.param(lambda path, size=size: path.write_bytes(path.read_bytes()[:size]), id=f"cut at {size}")
          for size in (0, 10, 5000, -1)),
        *(pytest.param(
            lambda path, schema=schema: rewrite(path, lambda name, data: schema if name == "schema.json" else data),
            id=f"schema {schema[:40]!r}",
          ) for schema in SCHEMAS),
    ],
)  # fmt: skip
def test_a_broken_file_is_said_to_be_one_and_runs_nothing(write, damage):
    folder = write(fitted("ridge"))
    damage(folder / "model.skops")
    assert "no skops file" in refused(folder, Corrupted)
    assert not Path("/tmp/llmops-was-here").exists()


def test_a_file_that_unpacks_to_too_much_is_not_read(write):
    folder = write(fitted("mean"))
    with zipfile.ZipFile(folder / "model.skops", "a") as file:
        file.writestr("bomb", b"")
        file.getinfo("bomb").file_size = 5 << 30
    assert "unpacks to 5,36" in refused(folder)


def test_one_array_that_is_named_again_and_again_is_not_read(write):
    folder = write(fitted("mean"))

    def repeated(name, data):
        if name != "schema.json":
            return data + bytes(1 << 24)
        schema = json.loads(data)
        array = next(node for node in nodes_of(schema) if "file" in node)
        many = [{**array, "__id__": number} for number in range(100)]
        schema["content"]["content"]["more"] = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode",
                                                "content": many, "__id__": -1}  # fmt: skip
        return json.dumps(schema).encode()

    rewrite(folder / "model.skops", repeated)
    assert "unpacks to 1,6" in refused(folder)


def nodes_of(value):
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from nodes_of(item)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        *((name, field, value)
          for name, field in (("forest", "left_child"), ("forest", "right_child"), ("boosting", "left"),
                              ("boosting of logarithms", "right"))
          for value in (0, 1, 1_000_000)),
        *((name, field, value)
          for name, field in (("forest", "feature"), ("boosting", "feature_idx"))
          for value in (5, -1, 1_000_000)),
        ("gradient boosting", "feature", 1_000_000),
    ],
)  # fmt: skip
def test_trees_whose_nodes_point_outside_of_them_or_back_are_refused(write, name, field, value):
    folder = write(fitted(name))

    def misled(_name, data):
        if not _name.endswith(".npy"):
            return data
        nodes = np.load(io.BytesIO(data))
        if field not in (nodes.dtype.names or ()) or len(nodes) < 3:
            return data
        nodes[field][1] = value
        if "is_leaf" in nodes.dtype.names:
            nodes["is_leaf"][1] = 0
            nodes["feature_idx"][1] = value if field == "feature_idx" else 0
        return saved(nodes)

    rewrite(folder / "model.skops", misled)
    assert "point outside of it" in refused(folder, Corrupted)


def test_what_is_no_fitted_estimator_for_such_rows_is_refused(write):
    assert "no fitted estimator" in refused(write({"a": [1, 2]}, name="a"))
    assert "no fitted estimator" in refused(write(clone(fitted("logistic", CLASSES)), CLASSES, "b"))
    fewer = RowSchema(REGRESSION.inputs[:-1], REGRESSION.output, "regression")
    assert "fitted on the columns" in refused(write(fitted("mean"), fewer, "c"))


def written(folder, name, schema, number):
    path = folder / f"{number}.skops"
    skops.io.dump(fit(name, schema), path)
    make_canonical(path)
    return path


@pytest.mark.parametrize(("name", "schema"), [("boosting", REGRESSION), ("boosting by category", REGRESSION),
                                              ("boosting of logarithms", REGRESSION), ("forest", REGRESSION),
                                              ("ridge", REGRESSION), ("logistic", CLASSES), ("isotonic", CLASSES),
                                              ("majority", CLASSES)])  # fmt: skip
def test_an_estimator_fitted_again_is_the_same_file(tmp_path, name, schema):
    first, second = (written(tmp_path, name, schema, number) for number in (1, 2))
    assert file_sha256(first) == file_sha256(second)
    predicted = read_estimator(first).predict(frame(5)).tolist()
    assert predicted == (pytest.approx(fit(name, schema).predict(frame(5)).tolist()) if schema is REGRESSION else
                         fit(name, schema).predict(frame(5)).tolist())  # fmt: skip


def test_its_parts_are_numbered_and_have_no_time_and_another_estimator_is_another_file(tmp_path):
    path = written(tmp_path, "mean", REGRESSION, 1)
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        assert {member.date_time[0] for member in file.infolist()} == {1980}
    assert names[-1] == "schema.json"
    assert [name.split(".")[0] for name in names[:-1]] == [str(number) for number in range(len(names) - 1)]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert file_sha256(written(tmp_path, "ridge", REGRESSION, 2)) != file_sha256(path)
