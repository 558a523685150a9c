"""A release source in memory: for tests, and for embedding the gateway where there is no registry."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable

from llmops.errors import StoreUnavailable, UnknownVersion
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import ModelVersion, RegisteredVersions, Release


class StaticReleases:
    """Serves the releases it is given, and the models they use. Safe to change while a gateway polls it.

    `down` makes every look raise StoreUnavailable, as a registry does that cannot be reached.
    """

    def __init__(self, releases: Iterable[Release] = (), models: Iterable[ModelVersion] = ()) -> None:
        self._lock = threading.Lock()
        self._releases: dict[str, dict[int, Release]] = {}
        self._models: dict[str, ModelVersion] = {model.ref: model for model in models}
        self._policies: dict[str, TrafficPolicy] = {}
        self._registered: RegisteredVersions | None = None
        self.down = False
        for release in releases:
            self.add(release)

    def add(self, release: Release) -> None:
        """Adds a release, or replaces the one of the same version."""
        with self._lock:
            self._releases.setdefault(release.app, {})[release.version] = release
            self._models.setdefault(release.model.ref, release.model)
            self._registered = None

    def set_alias(self, app: str, alias: str, version: int) -> None:
        """Moves `alias` to `version`. Raises UnknownVersion."""
        with self._lock:
            versions = self._releases.get(app, {})
            if version not in versions:
                raise UnknownVersion(f"{app}@{version} does not exist")
            self._point(versions, alias, version)

    def remove_alias(self, app: str, alias: str) -> None:
        """Takes `alias` from whatever version has it."""
        with self._lock:
            self._point(self._releases.get(app, {}), alias, None)

    def set_policy(self, app: str, policy: TrafficPolicy | None) -> None:
        """Sets the app's traffic policy, or clears it."""
        with self._lock:
            self._policies.pop(app, None)
            if policy is not None:
                self._policies[app] = policy
            self._registered = None

    def registered(self) -> RegisteredVersions:
        """Everything there is now. Raises StoreUnavailable while `down`."""
        if self.down:
            raise StoreUnavailable("the static release source is switched off")
        with self._lock:
            if self._registered is None:
                releases = {app: tuple(versions.values()) for app, versions in self._releases.items()}
                self._registered = RegisteredVersions(releases, tuple(self._models.values()), dict(self._policies))
            return self._registered

    def _point(self, versions: dict[int, Release], alias: str, version: int | None) -> None:
        for number, release in versions.items():
            aliases = {*release.aliases} - {alias} | ({alias} if number == version else set())
            versions[number] = dataclasses.replace(release, aliases=tuple(sorted(aliases)))
        self._registered = None
