"""The registry: prompt versions, model versions and releases in MLflow. The only importer of MLflow, with
`llmops.recording` beside it."""

from __future__ import annotations

from collections.abc import Sequence

from llmops.registry.models import ModelRegistry
from llmops.registry.policies import PolicyRegistry
from llmops.registry.polling import RegistryLook
from llmops.registry.prompts import PromptRegistry
from llmops.registry.releases import ReleaseRegistry
from llmops.registry.store import Store
from llmops.settings import Settings
from llmops.versions import ModelVersion, RegisteredVersions, Release

__all__ = ["Registry", "Store"]


class Registry:
    """One opened store and its books. `registered` is what a gateway polls."""

    def __init__(self, settings: Settings) -> None:
        """Opens the store. Raises StoreUnavailable."""
        self.store = Store(settings)
        self.prompts = PromptRegistry(self.store)
        self.models = ModelRegistry(self.store)
        self.release_versions = ReleaseRegistry(self.store, self.prompts, self.models)
        self.policies = PolicyRegistry(self.store, self.release_versions)
        self._look = RegistryLook(self.store, self.models, self.release_versions)

    def registered(self) -> RegisteredVersions:
        """Releases, model versions and traffic policies as they are now; cheap when repeated. Raises
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
