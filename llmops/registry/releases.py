"""Releases: versions of an app's registered model, each binding a prompt version, a model version and parameters.

The aliases `champion`, `challenger` and `previous` live on them; moving one changes prompt and model together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from llmops.engines.protocol import GenerationParameters
from llmops.errors import CannotRun, GateRefused, UnknownVersion
from llmops.hashing import canonical_json
from llmops.registry.models import ModelRegistry, create_version, registered_names, versions_with_tag
from llmops.registry.prompts import PromptRegistry
from llmops.registry.store import Store, translated
from llmops.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    PromptVersion,
    Ref,
    Release,
    release_content_hash,
)

_CONTENT_TAG, _HASH_TAG, _GATE_TAG, _HISTORY_TAG = (
    "llmops.release",
    "llmops.content_hash",
    "llmops.gate",
    "llmops.history",
)
_HISTORY_LENGTH = 20


class ReleaseRegistry:
    """Creates, reads, gates and promotes releases."""

    def __init__(self, store: Store, prompts: PromptRegistry, models: ModelRegistry) -> None:
        self._store, self._prompts, self._models = store, prompts, models
        self._contents: dict[tuple[str, int], tuple[PromptVersion, ModelVersion, GenerationParameters, str]] = {}

    def create(
        self, app: str, prompt: PromptVersion, model: ModelVersion, parameters: GenerationParameters
    ) -> tuple[Release, bool]:
        """The release with this content, and whether it is new. Raises UsageError, StoreUnavailable."""
        identity = release_content_hash(prompt.ref, model.ref, parameters)
        for known in self.versions(app):
            if release_content_hash(known.prompt.ref, known.model.ref, known.parameters) == identity:
                return known, False
        content = {"prompt": prompt.ref, "model": model.ref, "parameters": parameters.to_mapping()}
        tags = {_CONTENT_TAG: canonical_json(content), _HASH_TAG: identity, "prompt": prompt.ref, "model": model.ref}
        shown = {key: str(value) for key, value in parameters.to_mapping().items() if value not in (None, [])}
        version = create_version(self._store, app, "app", tags, {"prompt": prompt.ref, "model": model.ref, **shown})
        release = self.get(f"{app}@{version}")
        with translated(f"release {release.ref}"):
            self._store.client.link_prompt_version_to_model(prompt.name, str(prompt.version), release.model_id)
        return release, True

    def apps(self) -> list[str]:
        """Names of the apps that have releases. Raises StoreUnavailable."""
        return registered_names(self._store, "app")

    def get(self, ref: str) -> Release:
        """`app@3`, `app@alias`, or `app` (its champion). Raises UnknownVersion, UsageError, StoreUnavailable."""
        parsed = Ref.parse(ref)
        releases = self.versions(parsed.name)
        if not releases:
            raise UnknownVersion(f"no app {parsed.name!r} has releases; run `llmops release create {parsed.name} …`")
        alias = parsed.alias or (CHAMPION if parsed.version is None else None)
        for release in releases:
            if release.version == parsed.version or (alias is not None and alias in release.aliases):
                return release
        raise UnknownVersion(f"no release {ref}; there are {', '.join(map(_shown, releases))}")

    def champion(self, app: str) -> Release | None:
        """The served release; None when none was promoted yet. Raises StoreUnavailable."""
        return _holding(CHAMPION, self.versions(app))

    def versions(self, app: str) -> list[Release]:
        """Every release of an app, oldest first; none when there is no such app. Cheap when repeated: versions never
        change, so only aliases are read anew. Raises StoreUnavailable."""
        return [self._from_mlflow(item, aliases) for item, aliases in versions_with_tag(self._store, app, _CONTENT_TAG)]

    def record_gate(self, release: Release, suite: str, verdict: dict[str, Any]) -> None:
        """Keeps a gate's verdict on the release, one for each suite. Raises StoreUnavailable."""
        gates = {**self.gates(release), suite: {**verdict, "at": datetime.now(UTC).isoformat()}}
        with translated(f"release {release.ref}"):
            self._store.client.set_model_version_tag(
                release.app, str(release.version), _GATE_TAG, canonical_json(gates)
            )

    def gates(self, release: Release) -> dict[str, Any]:
        """Verdicts by suite: `{"verdict", "reasons", "against", "at"}`. Raises StoreUnavailable."""
        with translated(f"release {release.ref}"):
            tags = self._store.client.get_model_version(release.app, str(release.version)).tags
        gates: dict[str, Any] = json.loads(tags.get(_GATE_TAG, "{}"))
        return gates

    def promote(self, release: Release, *, why: str | None = None) -> Release | None:
        """Makes `release` the champion and the old champion `previous`; returns the old one.

        why: a reason to promote without a passing gate; it is recorded.

        Raises:
            GateRefused: no passing gate against the present champion is on record and no reason was given.
        """
        champion = self.champion(release.app)
        if champion is not None and champion.version == release.version:
            return champion
        if why is None:
            self._require_gate(release, champion)
        with translated(f"app {release.app}"):
            if champion is not None:
                self._store.client.set_registered_model_alias(release.app, PREVIOUS, str(champion.version))
            self._store.client.set_registered_model_alias(release.app, CHAMPION, str(release.version))
            if CHALLENGER in release.aliases:
                self._store.client.delete_registered_model_alias(release.app, CHALLENGER)
        self._remember(release.app, "promote", champion, release, why or "gate passed")
        return champion

    def roll_back(self, app: str) -> tuple[Release, Release]:
        """Champion and previous change places; returns (new champion, old champion). Raises CannotRun."""
        releases = self.versions(app)
        champion, previous = _holding(CHAMPION, releases), _holding(PREVIOUS, releases)
        if champion is None or previous is None:
            raise CannotRun(f"{app} has no previous release to roll back to")
        with translated(f"app {app}"):
            self._store.client.set_registered_model_alias(app, CHAMPION, str(previous.version))
            self._store.client.set_registered_model_alias(app, PREVIOUS, str(champion.version))
        self._remember(app, "rollback", champion, previous, "rolled back")
        return previous, champion

    def history(self, app: str) -> list[dict[str, Any]]:
        """The last moves of the champion, oldest first. Raises StoreUnavailable."""
        registered = self._store.registered_model(app)
        history: list[dict[str, Any]] = json.loads(registered.tags.get(_HISTORY_TAG, "[]")) if registered else []
        return history

    def _require_gate(self, release: Release, champion: Release | None) -> None:
        against = champion.ref if champion else None
        gates = self.gates(release)
        current = {suite: gate for suite, gate in gates.items() if gate["against"] == against}
        if any(gate["verdict"] == "pass" for gate in current.values()) and not any(
            gate["verdict"] == "fail" for gate in current.values()
        ):
            return
        known = ", ".join(f"{suite}: {gate['verdict']}" for suite, gate in current.items()) or "none"
        raise GateRefused(
            f"{release.ref} has no passing gate against {against or 'no champion'} on record ({known}); run "
            f"`llmops eval gate {release.ref} --suite SUITE`, or promote with --force --why TEXT"
        )

    def _remember(self, app: str, what: str, old: Release | None, new: Release, why: str) -> None:
        entry = {"at": datetime.now(UTC).isoformat(), "what": what, "from": old and old.ref, "to": new.ref, "why": why}
        history = [*self.history(app), entry][-_HISTORY_LENGTH:]
        with translated(f"app {app}"):
            self._store.client.set_registered_model_tag(app, _HISTORY_TAG, canonical_json(history))

    def _from_mlflow(self, item: Any, aliases: tuple[str, ...]) -> Release:
        version = int(item.version)
        key = (item.name, version)
        if key not in self._contents:
            content = json.loads(item.tags[_CONTENT_TAG])
            prompt = Ref.parse(content["prompt"])
            self._contents[key] = (
                self._prompts.version(prompt.name, prompt.version or 0),
                self._models.get(content["model"]),
                GenerationParameters.from_mapping(content["parameters"]),
                item.source.removeprefix("models:/"),
            )
        prompt_version, model, parameters, model_id = self._contents[key]
        return Release(item.name, version, prompt_version, model, parameters, aliases, model_id)


def _holding(alias: str, releases: Sequence[Release]) -> Release | None:
    return next((release for release in releases if alias in release.aliases), None)


def _shown(release: Release) -> str:
    return release.ref + (f" ({', '.join(release.aliases)})" if release.aliases else "")
