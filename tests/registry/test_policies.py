"""Traffic policies in a real MLflow store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmops.errors import CannotRun, UnknownVersion
from llmops.registry import Registry
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import Release

MakeReleases = Callable[[int], list[Release]]


def test_a_policy_is_kept_beside_the_aliases_until_it_is_cleared(
    registry: Registry, name: str, releases: MakeReleases
) -> None:
    releases(1)
    assert registry.release_versions.policy(name) is None

    registry.release_versions.set_policy(name, TrafficPolicy(canary=0.1, shadow=1.0, sticky="key"))

    assert registry.release_versions.policy(name) == TrafficPolicy(canary=0.1, shadow=1.0, sticky="key")
    assert registry.release_versions.set_policy(name, None)
    assert registry.release_versions.policy(name) is None
    assert not registry.release_versions.set_policy(name, None)


def test_changes_of_traffic_are_in_the_apps_history(registry: Registry, name: str, releases: MakeReleases) -> None:
    releases(1)
    registry.release_versions.set_policy(name, TrafficPolicy(canary=0.1))
    registry.release_versions.set_policy(name, TrafficPolicy(canary=0.1))  # no change, no entry
    registry.release_versions.set_policy(name, TrafficPolicy(canary=0.5))
    registry.release_versions.set_policy(name, None)

    moves = [(move["what"], move["from"], move["to"]) for move in registry.release_versions.history(name)]

    tenth, half = "canary 10%, shadow 0%, sticky by user", "canary 50%, shadow 0%, sticky by user"
    assert moves == [("traffic", None, tenth), ("traffic", tenth, half), ("traffic", half, None)]


def test_an_app_without_releases_has_no_traffic_to_share_out(registry: Registry, name: str) -> None:
    for act in (
        registry.release_versions.policy,
        lambda app: registry.release_versions.set_policy(app, None),
        lambda app: registry.release_versions.set_policy(app, TrafficPolicy()),
    ):
        with pytest.raises(UnknownVersion, match="llmops release create"):
            act(name)


def test_a_policy_spoilt_by_hand_can_be_cleared(registry: Registry, name: str, releases: MakeReleases) -> None:
    releases(1)
    registry.store.client.set_registered_model_tag(name, "llmops.traffic", "{oops")

    with pytest.raises(CannotRun, match=f"llmops traffic clear {name}"):
        registry.release_versions.policy(name)

    assert registry.release_versions.set_policy(name, None)
    assert registry.release_versions.history(name)[-1]["from"] == "{oops"
