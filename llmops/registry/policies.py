"""Traffic policies of apps: a tag of the app's registered model, beside its aliases."""

from __future__ import annotations

from llmops.audit import Move
from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.registry.moves import TRAFFIC_TAG
from llmops.registry.releases import ReleaseRegistry
from llmops.registry.store import Store
from llmops.traffic_policy import TrafficPolicy


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
        with self._releases.moves.turn():
            self._releases.moves.settle(app)
            old = self._text(app)
            if old != policy.to_text():
                self._change(app, old, policy)

    def clear(self, app: str) -> bool:
        """Takes the policy away; False when there was none. Raises UnknownVersion, StoreUnavailable."""
        with self._releases.moves.turn():
            self._releases.moves.settle(app)
            old = self._text(app)
            if old is not None:
                self._change(app, old, None)
            return old is not None

    def _change(self, app: str, old: str | None, policy: TrafficPolicy | None) -> None:
        new, text, why = (None, None, "cleared") if policy is None else (str(policy), policy.to_text(), "set")
        self._releases.moves.carry_out(Move("traffic", "traffic", app, _shown(old), new, why, {"traffic": text}))

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
