"""Traffic policies of apps: a tag of the app's registered model, beside its aliases."""

from __future__ import annotations

from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.registry.releases import ReleaseRegistry
from llmops.registry.store import Store, translated
from llmops.traffic_policy import TrafficPolicy

TRAFFIC_TAG = "llmops.traffic"


class PolicyRegistry:
    """Reads, sets and clears traffic policies; every change is in the app's history."""

    def __init__(self, store: Store, releases: ReleaseRegistry) -> None:
        self._store, self._releases = store, releases

    def get(self, app: str) -> TrafficPolicy | None:
        """The app's policy; None when none is set.

        Raises:
            UnknownVersion: there is no such app. CannotRun: what is set cannot be read. StoreUnavailable.
        """
        text = self._text(app)
        try:
            return None if text is None else TrafficPolicy.from_text(text)
        except UsageError as error:
            raise CannotRun(
                f"the traffic policy of {app} cannot be read ({error}); `llmops traffic clear {app}`"
            ) from error

    def set(self, app: str, policy: TrafficPolicy) -> None:
        """Sets the policy, for every gateway from its next look at the registry on. Raises UnknownVersion,
        StoreUnavailable."""
        old = self._text(app)
        if old == policy.to_text():
            return
        with translated(f"app {app}"):
            self._store.client.set_registered_model_tag(app, TRAFFIC_TAG, policy.to_text())
        self._releases.remember(app, "traffic", _shown(old), str(policy), "set")

    def clear(self, app: str) -> bool:
        """Takes the policy away; False when there was none. Raises UnknownVersion, StoreUnavailable."""
        old = self._text(app)
        if old is None:
            return False
        with translated(f"app {app}"):
            self._store.client.delete_registered_model_tag(app, TRAFFIC_TAG)
        self._releases.remember(app, "traffic", _shown(old), None, "cleared")
        return True

    def _text(self, app: str) -> str | None:
        registered = self._store.registered_model(app)
        if registered is None or not self._releases.versions(app):
            raise UnknownVersion(f"no app {app!r} has releases; run `llmops release create {app} …`")
        text = registered.tags.get(TRAFFIC_TAG)
        return None if text is None else str(text)


def _shown(text: str | None) -> str | None:
    try:
        return None if text is None else str(TrafficPolicy.from_text(text))
    except UsageError:
        return text
