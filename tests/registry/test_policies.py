"""Traffic policies in a real MLflow store."""

from __future__ import annotations

import pytest

from llmops.errors import CannotRun, UnknownVersion
from llmops.traffic_policy import TrafficPolicy


def test_a_policy_is_kept_beside_the_aliases_until_it_is_cleared(book, name, releases):
    releases(1)
    assert book.policy(name) is None
    book.set_policy(name, TrafficPolicy(canary=0.1, shadow=1.0, sticky="key"))
    assert book.policy(name) == TrafficPolicy(canary=0.1, shadow=1.0, sticky="key")
    assert book.set_policy(name, None)
    assert book.policy(name) is None
    assert not book.set_policy(name, None)


def test_changes_of_traffic_are_in_the_apps_history(book, name, releases):
    releases(1)
    book.set_policy(name, TrafficPolicy(canary=0.1))
    book.set_policy(name, TrafficPolicy(canary=0.1))  # no change, no entry
    book.set_policy(name, TrafficPolicy(canary=0.5))
    book.set_policy(name, None)
    moves = [(move["what"], move["from"], move["to"]) for move in book.history(name)]
    tenth, half = "canary 10%, shadow 0%, sticky by user", "canary 50%, shadow 0%, sticky by user"
    assert moves == [("traffic", None, tenth), ("traffic", tenth, half), ("traffic", half, None)]


def test_an_app_without_releases_has_no_traffic_to_share_out(book, name):
    for act in (
        book.policy,
        lambda app: book.set_policy(app, None),
        lambda app: book.set_policy(app, TrafficPolicy()),
    ):
        with pytest.raises(UnknownVersion, match="llmops release create"):
            act(name)


def test_a_policy_spoilt_by_hand_can_be_cleared(registry, book, name, releases):
    releases(1)
    registry.store.client.set_registered_model_tag(name, "llmops.traffic", "{oops")
    with pytest.raises(CannotRun, match=f"llmops traffic clear {name}"):
        book.policy(name)
    assert book.set_policy(name, None)
    assert book.history(name)[-1]["from"] == "{oops"
