"""The registry: prompt versions, model versions, releases and tabular models in MLflow. Besides `llmops.recording`, the
only importer of MLflow."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.audit import AliasState, AuditLog
from llmops.errors import UsageError
from llmops.registry.models import KIND_TAG, ModelRegistry, PromptRegistry
from llmops.registry.promotions import TRAFFIC_TAG, Promotions, rolled_back, standing_of
from llmops.registry.releases import ReleaseRegistry, TabularRegistry
from llmops.registry.store import Store
from llmops.settings import Settings
from llmops.state_files import FileIdentity
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import PYTHON, ModelVersion, RegisteredVersions, Release, TabularVersion

__all__ = ["Registry", "Store", "rolled_back"]


class Registry:
    """One opened store and its books. `registered` is what a gateway polls."""

    def __init__(self, settings: Settings, *, actor: str | None = None, file: FileIdentity | None = None) -> None:
        """Opens the store. The audit log's database is opened when something is moved, gated or registered.

        actor: on whose behalf that is done, for the audit log; None: the user of the operating system.
        file: the SQLite file that the store must be; None: any, or a new one.

        Raises StoreUnavailable.
        """
        self.store = Store(settings, file)
        self.audit = AuditLog(settings.resolved_log_url, actor)  # what was moved, gated and registered, and by whom
        self.prompts, self.models = PromptRegistry(self.store), ModelRegistry(self.store)
        self.release_versions = ReleaseRegistry(self.store, self.audit, self.prompts, self.models)
        self.tabular_versions = TabularRegistry(self.store, self.audit)
        self._versions: dict[str, tuple[tuple[int, int], list[Any]]] = {}
        self._marks: Any = None
        self._last: RegisteredVersions | None = None

    def registered(self) -> RegisteredVersions:
        """Releases, model versions, traffic policies and tabular models as they are now; the very object of the last
        call when nothing changed. Raises StoreUnavailable.

        Reads only what may have changed, in three steps, each cheaper than the next: has anything left a mark (where
        the store is a database); which aliases and tags do the registered models have (moving an alias does not touch
        MLflow's time of last change); and the versions of those to which one was added or of which one was deleted.
        """
        marks = self.store.marks()  # before reading, so that what comes in between is read the next time
        if self._last is not None and marks is not None and marks == self._marks:
            return self._last
        releases: dict[str, tuple[Release, ...]] = {}
        models: list[ModelVersion] = []
        policies: dict[str, TrafficPolicy] = {}
        problems: dict[str, str] = {}
        tabular: dict[str, tuple[TabularVersion, ...]] = {}
        for registered in sorted(self.store.registered_models(), key=lambda item: str(item.name)):
            kind, name = registered.tags.get(KIND_TAG), str(registered.name)
            if kind == ModelRegistry.kind:
                versions_of_model = self.models.of_registered(registered, self._versions_of(registered))
                models += [version for version in versions_of_model if version.format != PYTHON]  # nothing to serve
            elif kind == TabularRegistry.kind:
                versions = self.tabular_versions.of_registered(registered, self._versions_of(registered))
                tabular[name] = tuple(versions)
            elif kind == ReleaseRegistry.kind:
                releases[name] = tuple(self.release_versions.of_registered(registered, self._versions_of(registered)))
                try:
                    if TRAFFIC_TAG in registered.tags:
                        policies[name] = TrafficPolicy.from_text(registered.tags[TRAFFIC_TAG])
                except UsageError as error:
                    problems[name] = str(error)
        registered_now = RegisteredVersions(releases, tuple(models), policies, problems, tabular)
        self._marks = marks
        if self._last is None or registered_now != self._last:
            self._last = registered_now
        return self._last

    def _versions_of(self, registered: Any) -> list[Any]:
        newest = max((int(item.version) for item in registered.latest_versions), default=0)
        stamp = (int(registered.last_updated_timestamp), newest)
        kept = self._versions.get(registered.name)
        if kept is None or kept[0] != stamp:
            kept = self._versions[registered.name] = (stamp, self.store.versions_of(registered.name))
        return kept[1]

    def book_of(self, name: str) -> Promotions[Any]:
        """Where versions of this name are promoted: of a tabular model, or else of an app. Raises StoreUnavailable."""
        registered = self.store.registered_model(name)
        is_tabular = registered is not None and registered.tags.get(KIND_TAG) == TabularRegistry.kind
        return self.tabular_versions if is_tabular else self.release_versions

    def model_versions(self) -> Sequence[ModelVersion]:
        """Every version of every model. Raises StoreUnavailable."""
        return [version for name in self.models.names() for version in self.models.versions(name)]

    def standings(self) -> Mapping[str, AliasState]:
        """How the aliases and traffic policies of every app and tabular model stand. Raises StoreUnavailable."""
        served = (ReleaseRegistry.kind, TabularRegistry.kind)
        models = self.store.registered_models()
        return {str(item.name): standing_of(item) for item in models if item.tags.get(KIND_TAG) in served}
