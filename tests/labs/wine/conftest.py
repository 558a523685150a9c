from __future__ import annotations

import pytest

from labs.wine.data import Halves, WineData, halves, load_wine
from llmops.settings import Settings


@pytest.fixture(scope="session")
def wine(tmp_path_factory: pytest.TempPathFactory) -> WineData:
    return load_wine(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def wines(wine: WineData) -> Halves:
    return halves(wine)
