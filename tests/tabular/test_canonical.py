"""The same estimator is the same file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import skops.io

from llmops.hashing import file_sha256
from llmops.tabular import RowSchema
from llmops.tabular.storage import make_canonical, read_estimator
from tests.tabular.fitted import CLASSES, REGRESSION, fit, frame


def written(folder: Path, name: str, schema: RowSchema, number: int) -> Path:
    path = folder / f"{number}.skops"
    skops.io.dump(fit(name, schema), path)
    make_canonical(path)
    return path


@pytest.mark.parametrize(("name", "schema"), [("boosting", REGRESSION), ("boosting by category", REGRESSION),
                                              ("boosting of logarithms", REGRESSION), ("forest", REGRESSION),
                                              ("ridge", REGRESSION), ("logistic", CLASSES), ("isotonic", CLASSES),
                                              ("majority", CLASSES)])  # fmt: skip
def test_an_estimator_fitted_again_is_the_same_file(tmp_path: Path, name: str, schema: RowSchema) -> None:
    first, second = (written(tmp_path, name, schema, number) for number in (1, 2))

    assert file_sha256(first) == file_sha256(second)
    predicted = read_estimator(first).predict(frame(5)).tolist()
    assert predicted == (pytest.approx(fit(name, schema).predict(frame(5)).tolist()) if schema is REGRESSION else
                         fit(name, schema).predict(frame(5)).tolist())  # fmt: skip


def test_another_estimator_is_another_file(tmp_path: Path) -> None:
    assert file_sha256(written(tmp_path, "ridge", REGRESSION, 1)) != file_sha256(
        written(tmp_path, "mean", REGRESSION, 2)
    )


def test_its_parts_are_numbered_and_have_no_time(tmp_path: Path) -> None:
    path = written(tmp_path, "mean", REGRESSION, 1)

    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        assert {member.date_time[0] for member in file.infolist()} == {1980}
    assert names[-1] == "schema.json"
    assert [name.split(".")[0] for name in names[:-1]] == [str(number) for number in range(len(names) - 1)]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
