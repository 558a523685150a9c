"""Folders of models as MLflow writes them, and quiet for the cores of whoever else tests here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.tabular import RowSchema
from llmops.tabular.storage import SCHEMA_KEY
from tests.tabular.fitted import REGRESSION


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(estimator: Any, schema: RowSchema = REGRESSION, name: str = "model", **described: Any) -> Path:
        import skops.io
        import yaml

        folder = tmp_path / name
        folder.mkdir()
        skops.io.dump(estimator, folder / "model.skops")
        flavours = {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}}
        content = {"flavors": flavours, "metadata": {SCHEMA_KEY: schema.to_json()}, **described}
        (folder / "MLmodel").write_text(yaml.safe_dump(content))
        return folder

    return write
