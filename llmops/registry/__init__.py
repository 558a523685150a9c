"""The registry: prompt versions, model versions, releases and tabular models in MLflow. Besides `llmops.recording`, the
only importer of MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmops.audit import AliasState, AuditLog
from llmops.registry.models import KIND_TAG, ModelRegistry
from llmops.registry.moves import Moves, standing_of
from llmops.registry.policies import PolicyRegistry
from llmops.registry.polling import RegistryLook
from llmops.registry.promotions import rolled_back
from llmops.registry.prompts import PromptRegistry
from llmops.registry.releases import ReleaseRegistry
from llmops.registry.store import Store
from llmops.registry.tabular import KIND as TABULAR
from llmops.registry.tabular import TabularRegistry
from llmops.settings import Settings
from llmops.state_files import FileIdentity
from llmops.versions import ModelVersion, RegisteredVersions, Release

__all__ = ["Registry", "Store", "rolled_back"]


class Registry:
    """One opened store and its books. `registered` is what a gateway polls."""

    def __init__(self, settings: Settings, *, actor: str | None = None, file: FileIdentity | None = None) -> None:
        """Opens the store. The audit log's database is opened when something is moved, gated or registered.

        actor: on whose behalf that is done, for the audit log; None: the user of the operating system. file: the SQLite
        file that the store must be; None: any, or a new one.

        Raises StoreUnavailable.
        """
        self.store = Store(settings, file)
        self.prompts = PromptRegistry(self.store)
        self.models = ModelRegistry(self.store)
        self.audit = AuditLog(settings.resolved_log_url, actor)
        moves = Moves(self.store, self.audit)
        self.release_versions = ReleaseRegistry(self.store, moves, self.prompts, self.models)
        self.tabular_versions = TabularRegistry(self.store, moves)
        self.policies = PolicyRegistry(self.store, self.release_versions)
        self._look = RegistryLook(self.store, self.models, self.release_versions, self.tabular_versions)

    def registered(self) -> RegisteredVersions:
        """Releases, model versions, traffic policies and tabular models as they are now; cheap when repeated. Raises
        StoreUnavailable."""
        return self._look.read()

    def apps(self) -> Sequence[str]:
        """Names of the apps that have releases. Raises StoreUnavailable."""
        return self.release_versions.apps()

    def releases(self, app: str) -> Sequence[Release]:
        """Every release of an app with its aliases; cheap when repeated. Raises StoreUnavailable."""
        return self.release_versions.versions(app)

    def model_versions(self) -> Sequence[ModelVersion]:
        """Every model version. Raises StoreUnavailable."""
        return self.models.list_versions()

    def standings(self) -> Mapping[str, AliasState]:
        """How the aliases and traffic policies of every app and tabular model stand. Raises StoreUnavailable."""
        served = [item for item in self.store.registered_models() if item.tags.get(KIND_TAG) in ("app", TABULAR)]
        return {str(item.name): standing_of(item) for item in served}
