"""One cheap look at all that a gateway serves, for a poll every second."""

from __future__ import annotations

from typing import Any

from llmops.errors import UsageError
from llmops.registry.models import KIND_TAG, ModelRegistry, all_versions
from llmops.registry.moves import TRAFFIC_TAG
from llmops.registry.releases import ReleaseRegistry
from llmops.registry.store import Store
from llmops.registry.tabular import KIND as TABULAR
from llmops.registry.tabular import TabularRegistry
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import ModelVersion, RegisteredVersions, Release, TabularVersion

_Stamp = tuple[int, int]


class RegistryLook:
    """Reads the registry, and of it only what may have changed.

    Three steps, each cheaper than the next: has anything left a mark (where the store is a database); which aliases
    and tags do the registered models have (one search: moving an alias does not touch MLflow's time of last change);
    and the versions of those registered models to which one was added or of which one was deleted.
    """

    def __init__(
        self, store: Store, models: ModelRegistry, releases: ReleaseRegistry, tabular: TabularRegistry
    ) -> None:
        self._store, self._models, self._releases, self._tabular = store, models, releases, tabular
        self._versions: dict[str, tuple[_Stamp, list[Any]]] = {}
        self._marks: Any = None
        self._last: RegisteredVersions | None = None

    def read(self) -> RegisteredVersions:
        """Everything there is now; the very object of the last call when nothing changed. Raises StoreUnavailable."""
        marks = self._store.marks()  # before reading, so that what comes in between is read the next time
        if self._last is not None and marks is not None and marks == self._marks:
            return self._last
        found = self._read()
        self._marks = marks
        if self._last is None or found != self._last:
            self._last = found
        return self._last

    def _read(self) -> RegisteredVersions:
        releases: dict[str, tuple[Release, ...]] = {}
        models: list[ModelVersion] = []
        policies: dict[str, TrafficPolicy] = {}
        problems: dict[str, str] = {}
        tabular: dict[str, tuple[TabularVersion, ...]] = {}
        for registered in sorted(self._store.registered_models(), key=lambda item: str(item.name)):
            kind, name = registered.tags.get(KIND_TAG), str(registered.name)
            if kind == "model":
                models += self._models.of_registered(registered, self._versions_of(registered))
            elif kind == TABULAR:
                tabular[name] = tuple(self._tabular.of_registered(registered, self._versions_of(registered)))
            elif kind == "app":
                releases[name] = tuple(self._releases.of_registered(registered, self._versions_of(registered)))
                try:
                    if TRAFFIC_TAG in registered.tags:
                        policies[name] = TrafficPolicy.from_text(registered.tags[TRAFFIC_TAG])
                except UsageError as error:
                    problems[name] = str(error)
        return RegisteredVersions(releases, tuple(models), policies, problems, tabular)

    def _versions_of(self, registered: Any) -> list[Any]:
        newest = max((int(item.version) for item in registered.latest_versions), default=0)
        stamp = (int(registered.last_updated_timestamp), newest)
        kept = self._versions.get(registered.name)
        if kept is None or kept[0] != stamp:
            kept = self._versions[registered.name] = (stamp, all_versions(self._store, registered.name))
        return kept[1]
