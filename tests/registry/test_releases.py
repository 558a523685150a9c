"""Releases, their gates, the moves of `champion` and `previous`, and traffic policies, in a real MLflow store."""

import time
from typing import Any

import pytest

from llmops.audit import Move
from llmops.errors import CannotRun, GateRefused, UnknownVersion, UsageError
from llmops.registry import Registry, rolled_back
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import release_content

PASS = {"verdict": "pass", "reasons": ["made up"]}


def aliases(registry: Registry, app: str) -> dict[str, int]:
    """Where each alias points, read from MLflow itself."""
    found = registry.store.client.get_registered_model(app).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_a_release_comes_back_as_it_was_made_linked_to_its_prompt(registry, name, releases, settings):
    before = time.time() - 1
    made = releases(2)
    read = Registry(settings).release_versions.versions(name)
    assert list(read) == made
    assert [(item.ref, item.parameters.max_tokens) for item in read] == [(f"{name}@1", 16), (f"{name}@2", 17)]
    assert {(item.prompt.name, item.model.name) for item in read} == {("shared-prompt", "shared-model")}
    assert before < made[0].created_at < time.time() + 1
    assert '"shared-prompt"' in registry.store.client.get_logged_model(made[0].model_id).tags["mlflow.linkedPrompts"]


def test_the_same_content_is_the_same_release_and_guards_are_part_of_it_only_when_given(book, name, releases, settings):
    plain = releases(1)[0]
    content = (name, plain.prompt, plain.model, plain.parameters)
    before = {"prompt": plain.prompt.ref, "model": plain.model.ref, "parameters": plain.parameters.to_mapping()}
    assert release_content(plain.prompt.ref, plain.model.ref, plain.parameters, plain.guards) == before
    guards = {"redact_log": True, "block": ["b+", "a"], "max_output": 64}
    guarded, is_new = book.create(*content, guards)
    assert (guarded.version, is_new) == (2, True)
    assert guarded.guards == {"redact_log": True, "block": ["a", "b+"], "max_output": 64}
    assert book.create(*content, {**guards, "block": ["a", "b+"]}) == (guarded, False)
    assert book.create(*content) == book.create(*content, {}) == (plain, False)
    assert [item.guards for item in Registry(settings).release_versions.versions(name)] == [{}, guarded.guards]
    with pytest.raises(UsageError, match=r"block: '\(' is not a regular expression"):
        book.create(*content, {"block": ["("]})


def test_a_release_is_got_by_version_by_alias_or_as_the_champion(book, name, releases):
    _, second, _ = releases(3)
    assert book.champion(name) is None
    with pytest.raises(UnknownVersion):
        book.get(name)
    book.promote(second, why="first one")
    assert [book.get(ref).version for ref in (f"{name}@3", f"{name}@champion", name)] == [3, 2, 2]
    with pytest.raises(UnknownVersion, match=rf"{name}@9; there are {name}@1, {name}@2 \(champion\), {name}@3"):
        book.get(f"{name}@9")
    with pytest.raises(UnknownVersion, match="llmops release create"):
        book.get(f"{name}-absent")


def test_promotion_needs_gates_that_all_passed(registry, book, name, releases):
    (made,) = releases(1)
    for suite, verdict, told in (
        (None, None, r"has no passing gate against no champion .*--force --why"),
        ("qa", "fail", "qa: fail"),
        ("qa", "inconclusive", "qa: inconclusive"),
        ("grounded", "pass", "qa: inconclusive"),
    ):
        if suite is not None:
            book.record_gate(made, suite, {"verdict": verdict, "reasons": [], "against": None})
        with pytest.raises(GateRefused, match=told):
            book.promote(made)
        assert (aliases(registry, name), book.history(name)) == ({}, [])
    book.record_gate(made, "qa", {**PASS, "against": None})
    book.promote(made)
    assert aliases(registry, name) == {"champion": 1}


def test_a_forced_promotion_is_remembered_once_with_its_reason_and_seen_by_others_at_once(
    registry, book, name, releases, settings
):
    first, second = releases(2)
    other = Registry(settings)
    book.promote(first, why="first one")
    assert [item.aliases for item in other.release_versions.versions(name)] == [("champion",), ()]
    book.promote(second, why="hot fix, evaluated by hand")
    assert [item.aliases for item in other.release_versions.versions(name)] == [("previous",), ("champion",)]
    assert other.release_versions.champion(name) == book.champion(name)
    assert book.promote(second).ref == second.ref
    moves = book.history(name)
    assert [(move["what"], move["from"], move["to"], move["why"]) for move in moves] == [
        ("promote", None, first.ref, "first one"),
        ("promote", first.ref, second.ref, "hot fix, evaluated by hand"),
    ]
    assert all(move["at"] for move in moves)
    assert aliases(registry, name) == {"champion": 2, "previous": 1}


def test_a_passing_gate_against_the_present_champion_moves_champion_and_previous(registry, book, name, releases):
    first, second, third = releases(3)
    book.record_gate(first, "qa", {**PASS, "against": None})
    assert book.promote(first) is None
    for release in (second, third):
        book.record_gate(release, "qa", {**PASS, "against": first.ref})
    registry.store.client.set_registered_model_alias(name, "challenger", "2")
    assert book.promote(book.get(second.ref)).ref == first.ref
    assert book.gates(second)["qa"]["against"] == first.ref
    with pytest.raises(GateRefused, match=rf"no passing gate against {second.ref} on record \(none\)"):
        book.promote(third)
    assert aliases(registry, name) == {"champion": 2, "previous": 1}


def test_what_was_rolled_back_returns_only_by_force_and_with_a_reason(registry, book, name, releases):
    first, second = releases(2)
    book.promote(first, why="first one")
    book.promote(second, why="better")

    new, old = book.roll_back(name)
    assert (new.ref, old.ref) == (first.ref, second.ref)
    assert aliases(registry, name) == {"champion": 1, "previous": 2}

    with pytest.raises(GateRefused, match=f"{second.ref} was rolled back itself.*--force --why"):
        book.roll_back(name)
    with pytest.raises(GateRefused, match=f"{second.ref} was rolled back itself"):
        book.roll_back_from(name, first.ref)
    book.record_gate(second, "qa", {"verdict": "pass", "reasons": [], "against": first.ref})
    with pytest.raises(GateRefused, match=f"{second.ref} was rolled back itself"):
        book.promote(second)
    assert aliases(registry, name) == {"champion": 1, "previous": 2}

    book.roll_back(name, why="the upstream was at fault")
    assert aliases(registry, name) == {"champion": 2, "previous": 1}
    assert book.history(name)[-1]["why"] == "the upstream was at fault"
    book.roll_back(name)  # the undone rollback said nothing against the first release
    assert aliases(registry, name) == {"champion": 1, "previous": 2}


def test_what_was_rolled_back_is_as_others_once_it_was_promoted_by_force():
    def move(what: str, old: str | None, new: str) -> dict[str, Any]:
        return {"what": what, "from": old, "to": new, "at": "2026-01-01T00:00:00+00:00"}

    left = [move("promote", None, "a@1"), move("promote", "a@1", "a@2"), move("rollback", "a@2", "a@1")]
    assert set(rolled_back(left)) == {"a@2"}
    assert set(rolled_back([*left, move("promote", "a@1", "a@3")])) == {"a@2"}
    assert rolled_back([*left, move("promote", "a@1", "a@2")]) == {}
    assert rolled_back([*left, move("rollback", "a@1", "a@2")]) == {}
    assert set(rolled_back([*left, move("rollback", "a@1", "a@2"), left[-1]])) == {"a@2"}


def test_rollback_with_nothing_to_go_back_to_cannot_run(registry, book, name, releases):
    first, second = releases(2)

    def refused() -> dict[str, int]:
        with pytest.raises(CannotRun, match=f"{name} has no previous release"):
            book.roll_back(name)
        return aliases(registry, name)

    assert refused() == {}
    book.promote(first, why="first one")
    assert refused() == {"champion": 1}
    registry.store.client.set_registered_model_alias(name, "previous", "1")  # all that a cut-off promotion had done
    assert refused() == {"champion": 1, "previous": 1}
    book.promote(second, why="again")
    assert aliases(registry, name) == {"champion": 2, "previous": 1}


def test_history_keeps_the_last_twenty_moves_and_the_champions_whatever_else_happens(registry, book, name, releases):
    for release in releases(2):
        book.promote(release, why="set up")
    for _ in range(20):
        book.roll_back(name, why="to and fro")
    assert [move["what"] for move in book.history(name)] == ["rollback"] * 20
    for number in range(30):
        book.remember(Move("traffic", name, None, None, f"{number} " + "why? " * 500, {}))
    history = book.history(name)
    assert [move["what"] for move in history][:11] == ["rollback"] * 10 + ["traffic"]
    assert history[-1]["why"].startswith("29 ")
    assert len(history) <= 20
    assert len(registry.store.client.get_registered_model(name).tags["llmops.history"]) < 5000


def test_a_challenger_comes_and_goes_and_is_remembered_and_never_the_champion_too(registry, book, name, releases):
    first, second, third = releases(3)
    book.promote(first, why="first one")
    with pytest.raises(UsageError, match="is the champion; the challenger must be another"):
        book.challenge(book.get(name))
    with pytest.raises(UnknownVersion):
        book.withdraw(f"{name}-absent")
    assert book.challenge(second) is None
    assert book.challenge(third).ref == second.ref
    book.challenge(third)
    assert aliases(registry, name) == {"champion": 1, "challenger": 3}

    assert book.withdraw(name).ref == third.ref
    assert book.withdraw(name) is None
    assert aliases(registry, name) == {"champion": 1}
    moves = [(move["what"], move["from"], move["to"]) for move in book.history(name)]
    assert moves[1:] == [
        ("challenge", None, second.ref),
        ("challenge", second.ref, third.ref),
        ("withdraw", third.ref, None),
    ]

    book.challenge(second)
    book.promote(second, why="better")  # `second` was read before it was the challenger
    assert aliases(registry, name) == {"champion": 2, "previous": 1}
    book.challenge(first)
    book.roll_back(name)
    assert aliases(registry, name) == {"champion": 1, "previous": 2}


def test_a_policy_is_kept_beside_the_aliases_until_it_is_cleared_and_its_changes_remembered(
    registry, book, name, releases
):
    releases(1)
    assert book.policy(name) is None
    for share in (0.1, 0.1, 0.5):  # the same one again is no change
        book.set_policy(name, TrafficPolicy(canary=share, shadow=1.0, sticky="key"))
        assert book.policy(name) == TrafficPolicy(canary=share, shadow=1.0, sticky="key")
    assert [book.set_policy(name, None), book.set_policy(name, None)] == [True, False]
    assert book.policy(name) is None
    moves = [(move["what"], move["from"], move["to"]) for move in book.history(name)]
    tenth, half = (f"canary {share}, shadow 100%, sticky by key" for share in ("10%", "50%"))
    assert moves == [("traffic", None, tenth), ("traffic", tenth, half), ("traffic", half, None)]

    registry.store.client.set_registered_model_tag(name, "llmops.traffic", "{oops")  # spoilt by hand
    with pytest.raises(CannotRun, match=f"llmops traffic clear {name}"):
        book.policy(name)
    assert book.set_policy(name, None)
    assert book.history(name)[-1]["from"] == "{oops"


def test_an_app_without_releases_has_no_traffic_to_share_out(book, name):
    for act in (book.policy, lambda app: book.set_policy(app, None), lambda app: book.set_policy(app, TrafficPolicy())):
        with pytest.raises(UnknownVersion, match="llmops release create"):
            act(name)
