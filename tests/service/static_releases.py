"""Releases and tabular models in memory: for tests, and for embedding the gateway where there is no registry."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable
from typing import TypeVar

from llmops.errors import StoreUnavailable, UnknownVersion
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import ModelVersion, RegisteredVersions, Release, TabularVersion

_Aliased = TypeVar("_Aliased", bound=Release | TabularVersion)


class StaticReleases:
    """Serves the releases it is given, the models they use, and tabular models.

    Safe to change while a gateway polls it. `down` makes every look raise StoreUnavailable, as a registry does that
    cannot be reached.
    """

    def __init__(self, releases: Iterable[Release] = (), models: Iterable[ModelVersion] = ()) -> None:
        self._lock = threading.Lock()
        self._releases: dict[str, dict[int, Release]] = {}
        self._tabular: dict[str, dict[int, TabularVersion]] = {}
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

    def add_tabular(self, version: TabularVersion) -> None:
        """Adds a version of a tabular model, or replaces the one of the same number."""
        with self._lock:
            self._tabular.setdefault(version.name, {})[version.version] = version
            self._registered = None

    def remove(self, name: str) -> None:
        """Takes away an app, or a tabular model, with all its versions."""
        with self._lock:
            self._releases.pop(name, None)
            self._tabular.pop(name, None)
            self._registered = None

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Moves `alias` of an app, or of a tabular model, to `version`. Raises UnknownVersion."""
        with self._lock:
            if version not in self._releases.get(name, {}) and version not in self._tabular.get(name, {}):
                raise UnknownVersion(f"{name}@{version} does not exist")
            self._point_all(name, alias, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Takes `alias` from whatever version has it."""
        with self._lock:
            self._point_all(name, alias, None)

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
                tabular = {name: tuple(versions.values()) for name, versions in self._tabular.items()}
                models, policies = tuple(self._models.values()), dict(self._policies)
                self._registered = RegisteredVersions(releases, models, policies, tabular=tabular)
            return self._registered

    def _point_all(self, name: str, alias: str, version: int | None) -> None:
        if name in self._releases:
            self._releases[name] = _pointed(self._releases[name], alias, version)
        if name in self._tabular:
            self._tabular[name] = _pointed(self._tabular[name], alias, version)
        self._registered = None


def _pointed(versions: dict[int, _Aliased], alias: str, version: int | None) -> dict[int, _Aliased]:
    """The versions, the alias on that one alone."""
    found = {}
    for number, each in versions.items():
        aliases = {*each.aliases} - {alias} | ({alias} if number == version else set())
        found[number] = dataclasses.replace(each, aliases=tuple(sorted(aliases)))
    return found
