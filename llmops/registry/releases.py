"""Releases: versions of an app's registered model, each binding a prompt version, a model version and parameters.

The aliases `champion`, `challenger` and `previous` live on them; moving one changes prompt and model together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llmops.engines.protocol import GenerationParameters
from llmops.errors import CannotRun, GateRefused, UnknownVersion, UsageError
from llmops.hashing import canonical_json, content_hash
from llmops.registry.models import ModelRegistry, all_versions, create_version, registered_names, versions_with_tag
from llmops.registry.prompts import PromptRegistry
from llmops.registry.store import Store, translated
from llmops.release_guards import check_guards
from llmops.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    PromptVersion,
    Ref,
    Release,
    release_content,
    release_content_hash,
)

_CONTENT_TAG, _HASH_TAG, _GATE_TAG, _HISTORY_TAG = (
    "llmops.release",
    "llmops.content_hash",
    "llmops.gate",
    "llmops.history",
)
_HISTORY_LENGTH = 20
_CHAMPION_MOVES = ("promote", "rollback")
_MOVES_KEPT = 10
_MOST_WHY, _MOST_HISTORY = 300, 4800
"""Characters: MLflow keeps 5,000 of a registered model's tag, and refuses more."""


class ReleaseRegistry:
    """Creates, reads, gates and promotes releases."""

    def __init__(self, store: Store, prompts: PromptRegistry, models: ModelRegistry) -> None:
        self._store, self._prompts, self._models = store, prompts, models
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
        for known in self.versions(app):
            if release_content_hash(known.prompt.ref, known.model.ref, known.parameters, known.guards) == identity:
                return known, False
        tags = {_CONTENT_TAG: canonical_json(content), _HASH_TAG: identity, "prompt": prompt.ref, "model": model.ref}
        shown = {key: str(value) for key, value in parameters.to_mapping().items() if value not in (None, [])}
        shown |= {"guards": canonical_json(guards)} if guards else {}
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
        registered = self._store.registered_model(app)
        return [] if registered is None else self.of_registered(registered, all_versions(self._store, app))

    def of_registered(self, registered: Any, items: Iterable[Any]) -> list[Release]:
        """MLflow's registered model and versions as releases, oldest first. Reads what a release it has not seen yet
        binds, and nothing else."""
        return [
            self._from_mlflow(item, aliases) for item, aliases in versions_with_tag(registered, items, _CONTENT_TAG)
        ]

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
        """Makes `release` the champion and the old champion `previous`; returns the old one. A challenger that is
        promoted is no challenger any more, so that canary and shadow traffic rest.

        why: a reason to promote without a passing gate; it is recorded.

        Raises:
            GateRefused: no passing gate against the present champion is on record and no reason was given.
        """
        releases = self.versions(release.app)
        champion, challenger = _holding(CHAMPION, releases), _holding(CHALLENGER, releases)
        if champion is not None and champion.version == release.version:
            return champion
        if why is None:
            self._require_gate(release, champion)
        with translated(f"app {release.app}"):
            if champion is not None:
                self._store.client.set_registered_model_alias(release.app, PREVIOUS, str(champion.version))
            if challenger is not None and challenger.version == release.version:
                # Before the champion's alias: a call that is cut off after that one is not taken up again.
                self._store.client.delete_registered_model_alias(release.app, CHALLENGER)
            self._store.client.set_registered_model_alias(release.app, CHAMPION, str(release.version))
        self.remember(release.app, "promote", champion.ref if champion else None, release.ref, why or "gate passed")
        return champion

    def challenge(self, release: Release) -> Release | None:
        """Makes `release` the challenger, which a traffic policy sends its share; returns the old one.

        Raises:
            UsageError: it is the champion already. StoreUnavailable.
        """
        if CHAMPION in release.aliases:
            raise UsageError(f"{release.ref} is the champion; the challenger must be another release")
        old = _holding(CHALLENGER, self.versions(release.app))
        if old is not None and old.version == release.version:
            return old
        with translated(f"app {release.app}"):
            self._store.client.set_registered_model_alias(release.app, CHALLENGER, str(release.version))
        self.remember(release.app, "challenge", old.ref if old else None, release.ref, "made the challenger")
        return old

    def withdraw(self, app: str) -> Release | None:
        """Leaves the app without a challenger; returns the one it had. Raises UnknownVersion, StoreUnavailable."""
        releases = self.versions(app)
        if not releases:
            raise UnknownVersion(f"no app {app!r} has releases")
        old = _holding(CHALLENGER, releases)
        if old is not None:
            with translated(f"app {app}"):
                self._store.client.delete_registered_model_alias(app, CHALLENGER)
            self.remember(app, "withdraw", old.ref, None, "no longer the challenger")
        return old

    def roll_back(self, app: str) -> tuple[Release, Release]:
        """Champion and previous change places; returns (new champion, old champion). A call that was cut off between
        its steps is finished by the next one. Raises CannotRun, StoreUnavailable."""
        releases = self.versions(app)
        champion, previous = _holding(CHAMPION, releases), _holding(PREVIOUS, releases)
        if champion is not None and (left := self._left_half_way(champion, releases)) is not None:
            self._swap(app, champion, left)  # leaving the new champion as well would be a second rollback
            return champion, left
        if champion is None or previous is None or champion.version == previous.version:
            raise CannotRun(f"{app} has no previous release to roll back to")
        # On record first: while the aliases move, the old champion stands nowhere else. And a monitor that finds no
        # record of it would take the old champion for a release worth going back to.
        self.remember(app, "rollback", champion.ref, previous.ref, "rolled back")
        self._swap(app, previous, champion)
        return previous, champion

    def roll_back_from(self, app: str, ref: str) -> tuple[Release, Release] | None:
        """As `roll_back`, of this champion alone: None where another one serves, such as after the first such call.

        Raises CannotRun, StoreUnavailable.
        """
        releases = self.versions(app)
        champion = _holding(CHAMPION, releases)
        if champion is None or (champion.ref != ref and self._left_half_way(champion, releases) is None):
            return None
        return self.roll_back(app)

    def _swap(self, app: str, new: Release, old: Release) -> None:
        """`previous` is moved last: once it stands, everything else does."""
        with translated(f"app {app}"):
            self._store.client.set_registered_model_alias(app, CHAMPION, str(new.version))
            if CHALLENGER in new.aliases:
                self._store.client.delete_registered_model_alias(app, CHALLENGER)
            self._store.client.set_registered_model_alias(app, PREVIOUS, str(old.version))

    def _left_half_way(self, champion: Release, releases: Sequence[Release]) -> Release | None:
        """The old champion of a rollback that moved one alias of two; None where none did."""
        if PREVIOUS not in champion.aliases:
            return None
        moves = [move for move in self.history(champion.app) if move["what"] in _CHAMPION_MOVES]
        if not moves or moves[-1]["what"] != "rollback" or moves[-1]["to"] != champion.ref:
            return None
        return next((release for release in releases if release.ref == moves[-1]["from"]), None)

    def history(self, app: str) -> list[dict[str, Any]]:
        """The last moves of aliases and changes of traffic, oldest first: `{"at", "what", "from", "to", "why"}`.

        Raises StoreUnavailable.
        """
        registered = self._store.registered_model(app)
        history: list[dict[str, Any]] = json.loads(registered.tags.get(_HISTORY_TAG, "[]")) if registered else []
        return history

    def remember(self, app: str, what: str, old: str | None, new: str | None, why: str) -> None:
        """Adds an entry to the app's history. Raises StoreUnavailable."""
        shown = why if len(why) <= _MOST_WHY else why[: _MOST_WHY - 1] + "…"
        entry = {"at": datetime.now(UTC).isoformat(), "what": what, "from": old, "to": new, "why": shown}
        history = _shortened([*self.history(app), entry])
        with translated(f"app {app}"):
            self._store.client.set_registered_model_tag(app, _HISTORY_TAG, canonical_json(history))

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


def _shortened(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest entries. Changes of traffic, which may be many, do not push out the champion's last moves: since when
    it serves, and what was rolled back, is what automatic rollbacks go by."""
    kept = [entry for entry in history if entry["what"] in _CHAMPION_MOVES][-_MOVES_KEPT:]
    shown = list(history)
    while len(shown) > 1 and (len(shown) > _HISTORY_LENGTH or len(canonical_json(shown)) > _MOST_HISTORY):
        others = [place for place, entry in enumerate(shown[:-1]) if not any(entry is each for each in kept)]
        del shown[others[0] if others else 0]
    return shown


def _holding(alias: str, releases: Sequence[Release]) -> Release | None:
    return next((release for release in releases if alias in release.aliases), None)


def _shown(release: Release) -> str:
    return release.ref + (f" ({', '.join(release.aliases)})" if release.aliases else "")
