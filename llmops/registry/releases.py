"""Releases: versions of an app's registered model, each binding a prompt version, a model version and parameters.

The aliases `champion`, `challenger` and `previous` live on them; moving one changes prompt and model together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from llmops.generation import GenerationParameters
from llmops.hashing import canonical_json, content_hash
from llmops.registry.models import ModelRegistry, all_versions, create_version, registered_names, versions_with_tag
from llmops.registry.moves import Moves
from llmops.registry.promotions import Promotions, Wording
from llmops.registry.prompts import PromptRegistry
from llmops.registry.store import Store, translated
from llmops.release_guards import check_guards
from llmops.versions import (
    ModelVersion,
    PromptVersion,
    Ref,
    Release,
    release_content,
    release_content_hash,
)

_CONTENT_TAG, _HASH_TAG = "llmops.release", "llmops.content_hash"


class ReleaseRegistry(Promotions[Release]):
    """Creates and reads releases; how they are gated and promoted is in `Promotions`."""

    wording = Wording(
        kind="app",
        version="release",
        make="run `llmops release create {name} …`",
        gate="run `llmops eval gate {ref} --suite SUITE`",
    )

    def __init__(self, store: Store, moves: Moves, prompts: PromptRegistry, models: ModelRegistry) -> None:
        super().__init__(store, moves)
        self._prompts, self._models = prompts, models
        self._contents: dict[tuple[str, int], Release] = {}  # without aliases, which alone can change

    def create(
        self,
        app: str,
        prompt: PromptVersion,
        model: ModelVersion,
        parameters: GenerationParameters,
        guards: Mapping[str, Any] | None = None,
    ) -> tuple[Release, bool]:
        """The release with this content, and whether it is new. Raises UsageError, StoreUnavailable."""
        content = release_content(prompt.ref, model.ref, parameters, check_guards(guards or {}))
        identity = content_hash(content)
        with self.moves.turn():
            for known in self.versions(app):
                if release_content_hash(known.prompt.ref, known.model.ref, known.parameters, known.guards) == identity:
                    return known, False
            release = self._create(app, content, identity)
            self.moves.note("register", release.ref, {"prompt": prompt.ref, "model": model.ref, "content": identity})
        with translated(f"release {release.ref}"):
            self._store.client.link_prompt_version_to_model(prompt.name, str(prompt.version), release.model_id)
        return release, True

    def apps(self) -> list[str]:
        """Names of the apps that have releases. Raises StoreUnavailable."""
        return registered_names(self._store, "app")

    def versions(self, app: str) -> list[Release]:
        """Every release of an app, oldest first; none when there is no such app. Cheap when repeated: versions never
        change, so only aliases are read anew. Raises StoreUnavailable."""
        registered = self._store.registered_model(app)
        return [] if registered is None else self.of_registered(registered, all_versions(self._store, app))

    def of_registered(self, registered: Any, items: Iterable[Any]) -> list[Release]:
        """MLflow's registered model and versions as releases, oldest first. Reads what a release it has not seen yet
        binds, and nothing else."""
        return [
            self._from_mlflow(item, aliases) for item, aliases in versions_with_tag(registered, items, _CONTENT_TAG)
        ]

    def _create(self, app: str, content: Mapping[str, Any], identity: str) -> Release:
        given = {"prompt": content["prompt"], "model": content["model"]}
        tags = {_CONTENT_TAG: canonical_json(content), _HASH_TAG: identity, **given}
        shown = {name: str(value) for name, value in content["parameters"].items() if value not in (None, [])}
        if "guards" in content:
            shown["guards"] = canonical_json(content["guards"])
        version = create_version(self._store, app, "app", tags, {**given, **shown})
        return self.get(f"{app}@{version}")

    def _from_mlflow(self, item: Any, aliases: tuple[str, ...]) -> Release:
        key = (item.name, int(item.version))
        if key not in self._contents:
            content = json.loads(item.tags[_CONTENT_TAG])
            prompt = Ref.parse(content["prompt"])
            self._contents[key] = Release(
                *key,
                prompt=self._prompts.version(prompt.name, prompt.version or 0),
                model=self._models.version(content["model"]),
                parameters=GenerationParameters.from_mapping(content["parameters"]),
                model_id=item.source.removeprefix("models:/"),
                guards=content.get("guards", {}),
                created_at=item.creation_timestamp / 1000,
            )
        return dataclasses.replace(self._contents[key], aliases=aliases)
