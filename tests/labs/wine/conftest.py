from __future__ import annotations

import pytest

from labs.data import LabData, Split
from labs.wine.data import halves, load_wine
from llmops.settings import Settings


@pytest.fixture(scope="session")
def wine(tmp_path_factory: pytest.TempPathFactory) -> LabData:
    return load_wine(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def wines(wine: LabData) -> Split:
    return halves(wine)
