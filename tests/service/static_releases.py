"""Releases and tabular models in memory: for tests, and for embedding the gateway where there is no registry."""

import dataclasses
import threading
from collections.abc import Iterable
from typing import Any

from llmops.errors import StoreUnavailable, UnknownVersion
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import ModelVersion, RegisteredVersions, Release, TabularVersion


class StaticReleases:
    """Serves the releases it is given, the models they use, and tabular models.

    Safe to change while a gateway polls it. `down` makes every look raise StoreUnavailable, as a registry does that
    cannot be reached.
    """

    def __init__(self, releases: Iterable[Release] = ()) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, dict[int, Any]] = {}  # of each app and each tabular model
        self._models: dict[str, ModelVersion] = {}
        self._policies: dict[str, TrafficPolicy] = {}
        self._registered: RegisteredVersions | None = None
        self.down = False
        for release in releases:
            self.add(release)

    def add(self, version: Release | TabularVersion) -> None:
        """Adds a release or a version of a tabular model, or replaces the one of the same number."""
        with self._lock:
            self._versions.setdefault(version.name, {})[version.version] = version
            if isinstance(version, Release):
                self._models.setdefault(version.model.ref, version.model)
            self._registered = None

    def remove(self, name: str) -> None:
        """Takes away an app, or a tabular model, with all its versions."""
        with self._lock:
            self._versions.pop(name, None)
            self._registered = None

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Moves `alias` of an app, or of a tabular model, to `version`; None: to nowhere. Raises UnknownVersion."""
        with self._lock:
            if version is not None and version not in self._versions.get(name, {}):
                raise UnknownVersion(f"{name}@{version} does not exist")
            for number, each in self._versions[name].items():
                aliases = {*each.aliases} - {alias} | ({alias} if number == version else set())
                self._versions[name][number] = dataclasses.replace(each, aliases=tuple(sorted(aliases)))
            self._registered = None

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
                releases, tabular = (
                    {
                        name: tuple(versions.values())
                        for name, versions in self._versions.items()
                        if all(isinstance(version, kind) for version in versions.values())
                    }
                    for kind in (Release, TabularVersion)
                )
                models, policies = tuple(self._models.values()), dict(self._policies)
                self._registered = RegisteredVersions(releases, models, policies, tabular=tabular)
            return self._registered
