"""Releases, their gates, and the moves of `champion` and `previous`, in a real MLflow store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from llmops.errors import CannotRun, GateRefused, UnknownVersion, UsageError
from llmops.hashing import content_hash
from llmops.registry import Registry, rolled_back
from llmops.settings import Settings
from llmops.versions import Release, release_content_hash

MakeReleases = Callable[[int], list[Release]]
PASS = {"verdict": "pass", "reasons": ["made up"]}


def aliases(registry: Registry, app: str) -> dict[str, int]:
    """Where each alias points, read from MLflow itself."""
    found = registry.store.client.get_registered_model(app).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_a_release_comes_back_as_it_was_made(
    registry: Registry, name: str, releases: MakeReleases, settings: Settings
) -> None:
    made = releases(2)

    read = Registry(settings).releases(name)

    assert list(read) == made
    assert [item.ref for item in read] == [f"{name}@1", f"{name}@2"]
    assert [item.parameters.max_tokens for item in read] == [16, 17]
    assert {(item.prompt.name, item.model.name) for item in read} == {("shared-prompt", "shared-model")}


def test_the_same_content_is_the_same_release(registry: Registry, name: str, releases: MakeReleases) -> None:
    first = releases(1)[0]

    again, is_new = registry.release_versions.create(name, first.prompt, first.model, first.parameters)

    assert (again, is_new) == (first, False)
    assert len(registry.releases(name)) == 1


def test_the_prompt_version_is_linked_to_the_releases_logged_model(
    registry: Registry, name: str, releases: MakeReleases
) -> None:
    made = releases(1)[0]

    tags = registry.store.client.get_logged_model(made.model_id).tags

    assert '"shared-prompt"' in tags["mlflow.linkedPrompts"]


def test_get_by_version_by_alias_and_the_champion(registry: Registry, name: str, releases: MakeReleases) -> None:
    _, second, _ = releases(3)
    registry.release_versions.promote(second, why="first one")

    assert registry.release_versions.get(f"{name}@3").version == 3
    assert registry.release_versions.get(f"{name}@champion").version == 2
    assert registry.release_versions.get(name).version == 2


def test_an_unknown_release_names_those_there_are(registry: Registry, name: str, releases: MakeReleases) -> None:
    registry.release_versions.promote(releases(2)[1], why="first one")

    with pytest.raises(UnknownVersion, match=rf"no release {name}@9; there are {name}@1, {name}@2 \(champion\)"):
        registry.release_versions.get(f"{name}@9")
    with pytest.raises(UnknownVersion, match="llmops release create"):
        registry.release_versions.get(f"{name}-absent")


def test_an_app_without_a_promotion_has_no_champion(registry: Registry, name: str, releases: MakeReleases) -> None:
    releases(1)

    assert registry.release_versions.champion(name) is None
    with pytest.raises(UnknownVersion):
        registry.release_versions.get(name)


def test_promotion_needs_a_gate(registry: Registry, name: str, releases: MakeReleases) -> None:
    made = releases(1)[0]

    with pytest.raises(GateRefused, match=rf"{name}@1 has no passing gate against no champion .*--force --why"):
        registry.release_versions.promote(made)

    assert aliases(registry, name) == {}
    assert registry.release_versions.history(name) == []


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_a_gate_that_did_not_pass_does_not_count(
    registry: Registry, name: str, releases: MakeReleases, verdict: str
) -> None:
    made = releases(1)[0]
    registry.release_versions.record_gate(made, "qa", {"verdict": verdict, "reasons": [], "against": None})

    with pytest.raises(GateRefused, match=f"qa: {verdict}"):
        registry.release_versions.promote(made)


def test_a_fail_on_one_suite_outweighs_a_pass_on_another(registry: Registry, name: str, releases: MakeReleases) -> None:
    made = releases(1)[0]
    registry.release_versions.record_gate(made, "qa", {**PASS, "against": None})
    registry.release_versions.record_gate(made, "grounded", {"verdict": "fail", "reasons": [], "against": None})

    with pytest.raises(GateRefused, match="grounded: fail"):
        registry.release_versions.promote(made)

    registry.release_versions.record_gate(made, "grounded", {**PASS, "against": None})
    registry.release_versions.promote(made)
    assert aliases(registry, name) == {"champion": 1}


def test_a_passing_gate_moves_champion_and_previous(registry: Registry, name: str, releases: MakeReleases) -> None:
    first, second = releases(2)
    registry.release_versions.record_gate(first, "qa", {**PASS, "against": None})
    assert registry.release_versions.promote(first) is None
    registry.release_versions.record_gate(second, "qa", {**PASS, "against": first.ref})
    registry.store.client.set_registered_model_alias(name, "challenger", "2")

    old = registry.release_versions.promote(registry.release_versions.get(second.ref))

    assert old is not None
    assert old.ref == first.ref
    assert aliases(registry, name) == {"champion": 2, "previous": 1}
    assert registry.release_versions.gates(second)["qa"]["against"] == first.ref


def test_a_gate_against_an_old_champion_does_not_count(registry: Registry, name: str, releases: MakeReleases) -> None:
    first, second, third = releases(3)
    registry.release_versions.promote(first, why="first one")
    registry.release_versions.record_gate(third, "qa", {**PASS, "against": first.ref})
    registry.release_versions.promote(second, why="hot fix")

    with pytest.raises(GateRefused, match=rf"no passing gate against {second.ref} on record \(none\)"):
        registry.release_versions.promote(third)

    assert aliases(registry, name) == {"champion": 2, "previous": 1}


def test_a_forced_promotion_is_remembered_with_its_reason(
    registry: Registry, name: str, releases: MakeReleases
) -> None:
    first, second = releases(2)
    registry.release_versions.promote(first, why="first one")
    registry.release_versions.promote(second, why="hot fix, evaluated by hand")

    moves = registry.release_versions.history(name)

    assert [(move["what"], move["from"], move["to"], move["why"]) for move in moves] == [
        ("promote", None, first.ref, "first one"),
        ("promote", first.ref, second.ref, "hot fix, evaluated by hand"),
    ]
    assert all(move["at"] for move in moves)


def test_promoting_the_champion_again_changes_nothing(registry: Registry, name: str, releases: MakeReleases) -> None:
    first, second = releases(2)
    registry.release_versions.promote(first, why="first one")
    registry.release_versions.promote(second, why="better")

    old = registry.release_versions.promote(second)

    assert old is not None
    assert old.ref == second.ref
    assert aliases(registry, name) == {"champion": 2, "previous": 1}
    assert len(registry.release_versions.history(name)) == 2


def test_what_was_rolled_back_returns_only_by_force_and_with_a_reason(
    registry: Registry, name: str, releases: MakeReleases
) -> None:
    book = registry.release_versions
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


def test_what_was_rolled_back_is_as_others_once_it_was_promoted_by_force() -> None:
    def move(what: str, old: str | None, new: str) -> dict[str, Any]:
        return {"what": what, "from": old, "to": new, "at": "2026-01-01T00:00:00+00:00"}

    left = [move("promote", None, "a@1"), move("promote", "a@1", "a@2"), move("rollback", "a@2", "a@1")]
    assert set(rolled_back(left)) == {"a@2"}
    assert set(rolled_back([*left, move("promote", "a@1", "a@3")])) == {"a@2"}
    assert rolled_back([*left, move("promote", "a@1", "a@2")]) == {}
    assert rolled_back([*left, move("rollback", "a@1", "a@2")]) == {}
    assert set(rolled_back([*left, move("rollback", "a@1", "a@2"), left[-1]])) == {"a@2"}


@pytest.mark.parametrize("promoted", [0, 1])
def test_rollback_with_nothing_to_go_back_to_cannot_run(
    registry: Registry, name: str, releases: MakeReleases, promoted: int
) -> None:
    for release in releases(1)[:promoted]:
        registry.release_versions.promote(release, why="first one")

    with pytest.raises(CannotRun, match=f"{name} has no previous release"):
        registry.release_versions.roll_back(name)

    assert aliases(registry, name) == ({"champion": 1} if promoted else {})


def test_history_keeps_the_last_twenty_moves(registry: Registry, name: str, releases: MakeReleases) -> None:
    for release in releases(2):
        registry.release_versions.promote(release, why="set up")
    for _ in range(20):
        registry.release_versions.roll_back(name, why="to and fro")

    assert [move["what"] for move in registry.release_versions.history(name)] == ["rollback"] * 20


@pytest.mark.parametrize("cut_off_before", range(4))
def test_a_rollback_that_is_cut_off_is_finished_by_the_next_call(
    registry: Registry, name: str, releases: MakeReleases, monkeypatch: pytest.MonkeyPatch, cut_off_before: int
) -> None:
    first, second = releases(2)
    versions = registry.release_versions
    versions.promote(first, why="first one")
    versions.promote(second, why="better")
    versions.challenge(first)
    client, steps = registry.store.client, iter(range(9))

    def breaking(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any) -> None:
            if next(steps) == cut_off_before:
                raise KeyboardInterrupt
            write(*args)

        return wrapped

    with monkeypatch.context() as patched:
        for write in ("set_registered_model_tag", "set_registered_model_alias", "delete_registered_model_alias"):
            patched.setattr(client, write, breaking(getattr(client, write)))
        with pytest.raises(KeyboardInterrupt):
            versions.roll_back(name)

    moved = versions.roll_back_from(name, second.ref)

    assert moved is not None
    assert [release.ref for release in moved] == [first.ref, second.ref]
    assert aliases(registry, name) == {"champion": 1, "previous": 2}
    assert versions.roll_back_from(name, second.ref) is None
    last = versions.history(name)[-1]
    assert (last["what"], last["from"], last["to"]) == ("rollback", second.ref, first.ref)


def test_a_promotion_that_is_cut_off_before_its_end_is_no_rollback(
    registry: Registry, name: str, releases: MakeReleases
) -> None:
    first, second = releases(2)
    registry.release_versions.promote(first, why="first one")
    registry.store.client.set_registered_model_alias(name, "previous", "1")  # all that it had done

    with pytest.raises(CannotRun, match="no previous release"):
        registry.release_versions.roll_back(name)
    registry.release_versions.promote(second, why="again")

    assert aliases(registry, name) == {"champion": 2, "previous": 1}


def test_history_keeps_the_champions_moves_whatever_else_happens(
    registry: Registry, name: str, releases: MakeReleases
) -> None:
    for release in releases(2):
        registry.release_versions.promote(release, why="set up")
    registry.release_versions.roll_back(name)
    for number in range(30):
        registry.release_versions.remember(name, "traffic", None, None, f"{number} " + "why? " * 500)

    history = registry.release_versions.history(name)

    assert [move["what"] for move in history][:4] == ["promote", "promote", "rollback", "traffic"]
    assert history[-1]["why"].startswith("29 ")
    assert len(history) <= 20
    assert len(registry.store.client.get_registered_model(name).tags["llmops.history"]) < 5000


def test_a_second_registry_sees_a_move_at_once(
    registry: Registry, name: str, releases: MakeReleases, settings: Settings
) -> None:
    first, second = releases(2)
    other = Registry(settings)
    registry.release_versions.promote(first, why="first one")
    assert [item.aliases for item in other.releases(name)] == [("champion",), ()]

    registry.release_versions.promote(second, why="better")

    assert [item.aliases for item in other.releases(name)] == [("previous",), ("champion",)]
    assert other.release_versions.champion(name) == registry.release_versions.champion(name)


def test_guards_are_part_of_a_releases_content_only_when_given(
    registry: Registry, name: str, releases: MakeReleases, settings: Settings
) -> None:
    plain = releases(1)[0]
    content = (name, plain.prompt, plain.model, plain.parameters)
    guards = {"redact_log": True, "block": ["b+", "a"], "max_output": 64}

    guarded, is_new = registry.release_versions.create(*content, guards)

    assert (guarded.version, is_new) == (2, True)
    assert guarded.guards == {"redact_log": True, "block": ["a", "b+"], "max_output": 64}
    assert registry.release_versions.create(*content, {**guards, "block": ["a", "b+"]}) == (guarded, False)
    assert registry.release_versions.create(*content, {}) == (plain, False)
    assert [item.guards for item in Registry(settings).releases(name)] == [{}, guarded.guards]
    with pytest.raises(UsageError, match=r"block: '\(' is not a regular expression"):
        registry.release_versions.create(*content, {"block": ["("]})


def test_the_identity_of_releases_made_before_guards_is_kept(name: str, releases: MakeReleases) -> None:
    made = releases(1)[0]

    content = {"prompt": made.prompt.ref, "model": made.model.ref, "parameters": made.parameters.to_mapping()}

    assert release_content_hash(made.prompt.ref, made.model.ref, made.parameters, made.guards) == content_hash(content)


def test_a_release_knows_when_it_was_made(name: str, releases: MakeReleases) -> None:
    before = time.time() - 1

    assert before < releases(1)[0].created_at < time.time() + 1


def test_a_challenger_comes_and_goes_and_is_remembered(registry: Registry, name: str, releases: MakeReleases) -> None:
    first, second, third = releases(3)
    registry.release_versions.promote(first, why="first one")

    assert registry.release_versions.challenge(second) is None
    moved = registry.release_versions.challenge(third)
    assert moved is not None
    assert moved.ref == second.ref
    registry.release_versions.challenge(third)
    assert aliases(registry, name) == {"champion": 1, "challenger": 3}

    withdrawn = registry.release_versions.withdraw(name)
    assert withdrawn is not None
    assert withdrawn.ref == third.ref
    assert registry.release_versions.withdraw(name) is None
    assert aliases(registry, name) == {"champion": 1}
    moves = [(move["what"], move["from"], move["to"]) for move in registry.release_versions.history(name)]
    assert moves[1:] == [
        ("challenge", None, second.ref),
        ("challenge", second.ref, third.ref),
        ("withdraw", third.ref, None),
    ]


def test_the_champion_cannot_challenge_itself(registry: Registry, name: str, releases: MakeReleases) -> None:
    registry.release_versions.promote(releases(1)[0], why="first one")

    with pytest.raises(UsageError, match="is the champion; the challenger must be another"):
        registry.release_versions.challenge(registry.release_versions.get(name))
    with pytest.raises(UnknownVersion):
        registry.release_versions.withdraw(f"{name}-absent")


def test_a_champion_is_never_also_the_challenger(registry: Registry, name: str, releases: MakeReleases) -> None:
    first, second = releases(2)
    registry.release_versions.promote(first, why="first one")
    registry.release_versions.challenge(second)
    registry.release_versions.promote(second, why="better")  # `second` was read before it was the challenger
    assert aliases(registry, name) == {"champion": 2, "previous": 1}

    registry.release_versions.challenge(first)
    registry.release_versions.roll_back(name)
    assert aliases(registry, name) == {"champion": 1, "previous": 2}
