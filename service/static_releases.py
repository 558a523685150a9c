"""A release source in memory: for tests, and for embedding the gateway where there is no registry."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence

from llmops.errors import StoreUnavailable, UnknownVersion
from llmops.versions import ModelVersion, Release


class StaticReleases:
    """Serves the releases it is given, and the models they use. Safe to change while a gateway polls it.

    `down` makes every call raise StoreUnavailable, as a registry does that cannot be reached.
    """

    def __init__(self, releases: Iterable[Release] = (), models: Iterable[ModelVersion] = ()) -> None:
        self._lock = threading.Lock()
        self._releases: dict[str, dict[int, Release]] = {}
        self._models: dict[str, ModelVersion] = {model.ref: model for model in models}
        self.down = False
        for release in releases:
            self.add(release)

    def add(self, release: Release) -> None:
        """Adds a release, or replaces the one of the same version."""
        with self._lock:
            self._releases.setdefault(release.app, {})[release.version] = release
            self._models.setdefault(release.model.ref, release.model)

    def set_alias(self, app: str, alias: str, version: int) -> None:
        """Moves `alias` to `version`. Raises UnknownVersion."""
        with self._lock:
            versions = self._releases.get(app, {})
            if version not in versions:
                raise UnknownVersion(f"{app}@{version} does not exist")
            for number, release in versions.items():
                aliases = {*release.aliases} - {alias} | ({alias} if number == version else set())
                versions[number] = dataclasses.replace(release, aliases=tuple(sorted(aliases)))

    def apps(self) -> Sequence[str]:
        with self._reached():
            return list(self._releases)

    def releases(self, app: str) -> Sequence[Release]:
        with self._reached():
            return list(self._releases.get(app, {}).values())

    def model_versions(self) -> Sequence[ModelVersion]:
        with self._reached():
            return list(self._models.values())

    def _reached(self) -> threading.Lock:
        if self.down:
            raise StoreUnavailable("the static release source is switched off")
        return self._lock
