"""Model versions in MLflow's Model Registry: weights by reference (source and sha256), never copied into the store."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmops.errors import UnknownVersion, UsageError
from llmops.hashing import canonical_json, content_hash
from llmops.registry.store import Store, translated
from llmops.versions import ModelVersion, Ref, pick

KIND_TAG = "llmops.kind"
_CONTENT_TAG, _HASH_TAG = "llmops.model", "llmops.content_hash"


class ModelRegistry:
    """Registers, reads and lists model versions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_version = functools.lru_cache(maxsize=1024)(self.get)

    def register(self, model: ModelVersion) -> tuple[ModelVersion, bool]:
        """The version with this content (`model.version` is ignored), and whether it is new.

        Raises:
            UsageError: the name belongs to an app or a prompt. StoreUnavailable.
        """
        for known in self.versions(model.name):
            if (known.sha256, known.format) == (model.sha256, model.format):
                return known, False
        content = {
            "source": model.source,
            "format": model.format,
            "sha256": model.sha256,
            "path": model.path.as_posix() if model.path else None,
            "licence": model.licence,
            "size_bytes": model.size_bytes,
            "provenance": dict(model.provenance),
        }
        identity = content_hash({"sha256": model.sha256, "format": model.format})
        shown = {key: str(value) for key, value in content.items() if value and key != "provenance"}
        tags = {_CONTENT_TAG: canonical_json(content), _HASH_TAG: identity, **shown}
        version = create_version(self._store, model.name, "model", tags, {**shown, **_flat(model.provenance)})
        return self.get(f"{model.name}@{version}"), True

    def get(self, ref: str) -> ModelVersion:
        """`name@2`, `name@alias` or `name` (the newest). Raises UnknownVersion, UsageError, StoreUnavailable."""
        parsed = Ref.parse(ref)
        versions = self.versions(parsed.name)
        if not versions:
            raise UnknownVersion(f"no model {parsed.name!r} is registered; run `llmops models pull` or `… register`")
        return pick(versions, parsed)

    def version(self, ref: str) -> ModelVersion:
        """`name@2`, from memory when it was read before: versions never change. Its aliases are those of that time.

        Raises UnknownVersion.
        """
        return self._read_version(ref)

    def versions(self, name: str) -> list[ModelVersion]:
        """Every version of a model, oldest first; none when there is no such model. Raises StoreUnavailable."""
        registered = self._store.registered_model(name)
        return [] if registered is None else self.of_registered(registered, all_versions(self._store, name))

    def of_registered(self, registered: Any, items: Iterable[Any]) -> list[ModelVersion]:
        """MLflow's registered model and versions as model versions, oldest first. Reads nothing."""
        return [_from_mlflow(item, aliases) for item, aliases in versions_with_tag(registered, items, _CONTENT_TAG)]

    def list_versions(self) -> list[ModelVersion]:
        """Every version of every model. Raises StoreUnavailable."""
        return [version for name in registered_names(self._store, "model") for version in self.versions(name)]


def registered_names(store: Store, kind: str) -> list[str]:
    """Names of the registered models of one kind: `model`, `app` or `tabular`. Raises StoreUnavailable."""
    return sorted(str(item.name) for item in store.registered_models() if item.tags.get(KIND_TAG) == kind)


def all_versions(store: Store, name: str) -> list[Any]:
    """MLflow's versions of the registered model `name`, in no order. Raises StoreUnavailable."""
    with translated(f"versions of {name}"):
        return list(store.client.search_model_versions(f"name = '{name}'"))


def versions_with_tag(registered: Any, items: Iterable[Any], tag: str) -> list[tuple[Any, tuple[str, ...]]]:
    """Of MLflow's versions those that carry `tag`, oldest first, each with the aliases that `registered` gives it."""
    aliases: dict[int, tuple[str, ...]] = {}
    for alias, version in sorted(registered.aliases.items()):
        aliases[int(version)] = (*aliases.get(int(version), ()), alias)
    tagged = sorted((item for item in items if tag in item.tags), key=lambda item: int(item.version))
    return [(item, aliases.get(int(item.version), ())) for item in tagged]


def claim_name(store: Store, name: str, kind: str) -> None:
    """Makes the registered model `name` of that kind when absent.

    Raises:
        UsageError: the name is taken by something of another kind. StoreUnavailable.
    """
    registered = store.registered_model(name)
    if registered is None:
        with translated(f"{kind} {name}"):
            if store.client.get_prompt(name) is not None:
                raise UsageError(f"{name}: a prompt has this name, and MLflow gives a name once; choose another")
            store.client.create_registered_model(name, tags={KIND_TAG: kind})
    elif registered.tags.get(KIND_TAG) != kind:
        raise UsageError(f"{name}: the registry holds something else by this name; choose another")


def create_version(store: Store, name: str, kind: str, tags: dict[str, str], params: dict[str, str]) -> int:
    """A new version of the registered model `name`, backed by an MLflow logged model without artifacts.

    Raises:
        UsageError: the name is taken by something of another kind. StoreUnavailable.
    """
    claim_name(store, name, kind)
    store.make_current()
    with translated(f"{kind} {name}"):
        short = {key: value[:5000] for key, value in params.items()}
        logged = store.client.create_logged_model(store.experiment(), name=name, params=short, model_type=kind)
        store.client.finalize_logged_model(logged.model_id, "READY")
        made = store.client.create_model_version(name, logged.model_uri, tags=tags, model_id=logged.model_id)
    return int(made.version)


def _flat(provenance: Any) -> dict[str, str]:
    return {f"provenance.{key}": str(value) for key, value in provenance.items()}


def _from_mlflow(item: Any, aliases: tuple[str, ...]) -> ModelVersion:
    content = json.loads(item.tags[_CONTENT_TAG])
    path = Path(content.pop("path")) if content["path"] else content.pop("path")
    return ModelVersion(
        name=item.name,
        version=int(item.version),
        path=path,
        aliases=aliases,
        model_id=item.source.removeprefix("models:/"),
        **content,
    )
