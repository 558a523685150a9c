"""Folders of models as MLflow writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.tabular import RowSchema
from llmops.tabular.storage import SCHEMA_KEY
from tests.tabular.fitted import REGRESSION


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
