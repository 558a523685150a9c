"""Releases: versions of an app's registered model, each binding a prompt version, a model version and parameters.

The aliases `champion`, `challenger` and `previous` live on them; moving one changes prompt and model together. Beside
them, in a tag of the registered model, lives the app's traffic policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from llmops.audit import AuditLog, Move
from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.generation import GenerationParameters
from llmops.hashing import canonical_json, content_hash
from llmops.registry.models import ModelRegistry, PromptRegistry
from llmops.registry.promotions import TRAFFIC, TRAFFIC_TAG, Promotions
from llmops.registry.store import Store, translated
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import ModelVersion, PromptVersion, Release, check_guards, release_content

_HASH_TAG = "llmops.content_hash"


class ReleaseRegistry(Promotions[Release]):
    """Creates and reads releases; how they are gated and promoted is in `Promotions`."""

    kind, content_tag = "app", "llmops.release"
    noun, version_noun = "app", "release"
    how_to_make = "run `llmops release create {name} …`"
    how_to_gate = "run `llmops eval gate {ref} --suite SUITE`"

    def __init__(self, store: Store, audit: AuditLog, prompts: PromptRegistry, models: ModelRegistry) -> None:
        super().__init__(store, audit)
        self._prompts, self._models = prompts, models
        # Versions never change; only aliases do, which are read anew.
        self._known: dict[tuple[str, int], Release] = {}
        self._known_prompts: dict[str, PromptVersion] = {}
        self._known_models: dict[str, ModelVersion] = {}

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
        with self.audit.turn():
            for known in self.versions(app):
                made_of = release_content(known.prompt.ref, known.model.ref, known.parameters, known.guards)
                if content_hash(made_of) == identity:
                    return known, False
            given = {"prompt": prompt.ref, "model": model.ref}
            tags = {self.content_tag: canonical_json(content), _HASH_TAG: identity, **given}
            shown = {name: str(value) for name, value in content["parameters"].items() if value not in (None, [])}
            if "guards" in content:
                shown["guards"] = canonical_json(content["guards"])
            release = self.get(f"{app}@{self._create_version(app, tags, {**given, **shown})}")
            self.note("register", release.ref, {**given, "content": identity})
        with translated(f"release {release.ref}"):
            self._store.client.link_prompt_version_to_model(prompt.name, str(prompt.version), release.model_id)
        return release, True

    def policy(self, app: str) -> TrafficPolicy | None:
        """The app's traffic policy; None when none is set.

        Raises UnknownVersion: there is no such app. CannotRun: what is set cannot be read. StoreUnavailable.
        """
        text = self._policy_text(app)
        try:
            return None if text is None else TrafficPolicy.from_text(text)
        except UsageError as error:
            raise CannotRun(
                f"the traffic policy of {app} cannot be read ({error}); `llmops traffic clear {app}`"
            ) from error

    def set_policy(self, app: str, policy: TrafficPolicy | None) -> bool:
        """Sets the traffic policy, or takes it away, for every gateway from its next look at the registry on; whether
        that changed anything. Every change is in the app's history. Raises UnknownVersion, StoreUnavailable."""
        with self.audit.turn():
            self.settle(app, TRAFFIC)
            old, text = self._policy_text(app), None if policy is None else policy.to_text()
            if old == text:
                return False
            shown = old
            with contextlib.suppress(UsageError):  # one that was spoilt by hand is shown as it is
                shown = None if old is None else str(TrafficPolicy.from_text(old))
            new, why = (None, "cleared") if policy is None else (str(policy), "set")
            self.carry_out(Move(TRAFFIC, app, shown, new, why, {TRAFFIC: text}))
        return True

    def _policy_text(self, app: str) -> str | None:
        registered = self._store.registered_model(app)
        if registered is None or not self.versions(app):
            raise UnknownVersion(f"no app {app!r} has releases; run `llmops release create {app} …`")
        text = registered.tags.get(TRAFFIC_TAG)
        return None if text is None else str(text)

    def _read(self, item: Any, aliases: tuple[str, ...]) -> Release:
        key = (item.name, int(item.version))
        if key not in self._known:
            content = json.loads(item.tags[self.content_tag])
            prompt, model = content["prompt"], content["model"]
            if prompt not in self._known_prompts:
                self._known_prompts[prompt] = self._prompts.version(prompt)
            if model not in self._known_models:
                self._known_models[model] = self._models.get(model)
            self._known[key] = Release(
                *key,
                prompt=self._known_prompts[prompt],
                model=self._known_models[model],
                parameters=GenerationParameters.from_mapping(content["parameters"]),
                model_id=item.source.removeprefix("models:/"),
                guards=content.get("guards", {}),
                created_at=item.creation_timestamp / 1000,
            )
        return dataclasses.replace(self._known[key], aliases=aliases)
