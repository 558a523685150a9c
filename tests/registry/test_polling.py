"""The look at the registry that gateways take every second: whole, fresh and cheap."""

import pytest

from llmops.registry import Registry
from llmops.traffic_policy import TrafficPolicy
from tests.at_once import at_once
from tests.registry.conftest import model


@pytest.fixture
def other(registry, settings):
    """Another process's view of the same store, as far as a look can tell."""
    return Registry(settings)


@pytest.fixture
def searches(registry, monkeypatch):
    """Names of the registered models whose versions were searched for; `*` for a search of all registered models."""
    seen: list[str] = []
    client = registry.store.client
    models, versions = client.search_registered_models, client.search_model_versions

    def search_models(**arguments: object) -> object:
        seen.append("*")
        return models(**arguments)

    def search_versions(query: str) -> object:
        seen.append(query.split("'")[1])
        return versions(query)

    monkeypatch.setattr(client, "search_registered_models", search_models)
    monkeypatch.setattr(client, "search_model_versions", search_versions)
    return seen


def test_a_look_sees_what_the_books_see(registry, name, releases):
    releases(2)
    registry.release_versions.set_policy(name, TrafficPolicy(canary=0.25))
    seen = registry.registered()
    assert list(seen.releases[name]) == list(registry.release_versions.versions(name))
    assert set(seen.releases) == set(registry.release_versions.names())
    assert list(seen.models) == list(registry.model_versions())
    assert (seen.policies[name], name in seen.policy_problems) == (TrafficPolicy(canary=0.25), False)
    registry.store.client.set_registered_model_tag(name, "llmops.traffic", '{"canary": 7}')  # spoilt by hand
    seen = registry.registered()
    assert name not in seen.policies
    assert seen.policy_problems[name] == "canary: must be a share from 0 to 1, not 7"
    assert len(seen.releases[name]) == 2


def test_every_kind_of_change_made_elsewhere_is_seen_at_the_next_look(registry, other, name, releases, searches):
    first, _ = releases(2)
    registry.registered()
    client = other.store.client

    def look() -> list[tuple[str, ...]]:
        return [release.aliases for release in registry.registered().releases[name]]

    client.set_registered_model_alias(name, "champion", "1")
    assert look() == [("champion",), ()]
    client.set_registered_model_alias(name, "champion", "2")
    assert look() == [(), ("champion",)]
    client.delete_registered_model_alias(name, "champion")
    assert look() == [(), ()]
    other.release_versions.set_policy(name, TrafficPolicy(shadow=1.0))
    assert registry.registered().policies[name] == TrafficPolicy(shadow=1.0)
    other.release_versions.set_policy(name, None)
    assert name not in registry.registered().policies
    searches.clear()
    other.release_versions.create(name, first.prompt, first.model, first.parameters, {"redact_log": True})
    assert look() == [(), (), ()]
    assert searches == ["*", name]  # and no other app's or model's versions
    client.delete_model_version(name, "3")
    assert look() == [(), ()]
    other.models.register(model(f"{name}-model"))
    assert f"{name}-model@1" in [version.ref for version in registry.registered().models]


def test_when_nothing_changed_nothing_is_searched_but_in_a_store_behind_a_server(
    registry, name, releases, searches, monkeypatch
):
    releases(1)
    first = registry.registered()
    searches.clear()
    assert registry.registered() is first
    assert searches == []
    monkeypatch.setattr(registry.store, "marks", lambda: None)
    assert registry.registered() is first
    assert searches == ["*"]


def test_looks_of_several_threads_do_not_disturb_each_other(registry, name, releases):
    releases(1)
    seen: list[int] = []
    at_once(*[lambda: seen.append(len(registry.registered().releases[name]))] * 4)
    assert seen == [1] * 4
