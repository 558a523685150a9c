"""Moves of aliases are on the audit log before and after, and a kill in between is finished by the same call."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from llmops.audit import Verification, verify
from llmops.errors import GateRefused, StoreUnavailable, UsageError
from llmops.hashing import content_hash
from llmops.registry import Registry
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import Release
from tests.registry.test_releases import aliases

CANARY = TrafficPolicy(canary=0.1)
WRITES = ("set_registered_model_tag", "set_registered_model_alias", "delete_registered_model_alias")


@pytest.fixture
def own(settings, registry, tmp_path):
    """The shared store with an audit log of the test's own, which knows of nothing yet."""
    return Registry(dataclasses.replace(settings, log_url=f"sqlite:///{tmp_path}/log.db"), actor="anna")


@pytest.fixture
def book(own):
    return own.release_versions


def verified(registry: Registry) -> Verification:
    return verify(registry.audit, registry.standings)


def test_every_act_is_on_the_audit_log_and_what_changes_nothing_or_is_refused_is_not(own, book, name, releases):
    first, second, third = releases(3)
    book.record_gate(first, "qa", {"verdict": "pass", "reasons": ["made up"], "against": None})
    told = {
        ("gate", first.ref): None,
        ("promote", first.ref): lambda: book.promote(first),
        ("force-promote", second.ref): lambda: book.promote(second, why="hot fix"),
        ("challenge", third.ref): lambda: book.challenge(third),
        ("traffic", name): lambda: book.set_policy(name, CANARY),
        ("withdraw", third.ref): lambda: book.withdraw(name),
    }
    for act in filter(None, told.values()):
        act()
        before = own.audit.entries(name)
        act()
        with pytest.raises(GateRefused):
            book.promote(third)
        with pytest.raises(UsageError):
            book.challenge(book.get(name))
        assert own.audit.entries(name) == before
    book.roll_back(name)

    entries = own.audit.entries(name)
    acts = [entry for entry in entries if entry.details.get("phase") != "done"]
    assert [(entry.action, entry.subject) for entry in acts] == [*told, ("rollback", first.ref)]
    assert [entry.details.get("phase") for entry in acts] == [None, *["intent"] * 6]
    assert {entry.actor for entry in entries} == {"anna"}
    assert acts[0].details["sha256"] == content_hash(book.gates(first)["qa"])
    assert acts[2].details["why"] == "hot fix"
    assert verified(own).whole
    assert verified(own).unfinished == ()


def test_a_release_is_registered_on_record_and_so_watched_from_the_start(registry, name, releases):
    (made,) = releases(1)
    (entry,) = registry.audit.entries(name)
    assert (entry.action, entry.subject, entry.details["prompt"]) == ("register", made.ref, made.prompt.ref)
    registry.store.client.set_registered_model_alias(name, "champion", "1")
    moved = {each.name: (each.what, each.found) for each in verified(registry).differences}
    assert moved[name] == ("champion", made.ref)
    registry.store.client.delete_registered_model_alias(name, "champion")


def test_a_store_from_before_the_log_opens_with_what_was_found_and_a_move_in_mlflows_ui_stays_on_record(
    registry, own, book, name, releases
):
    first, second = releases(2)
    registry.release_versions.promote(first, why="before there was a log")
    assert verified(own).whole
    assert name in verified(own).unaudited
    book.promote(second, why="the first one on record")
    opening, *_ = own.audit.entries(name)
    assert (opening.action, opening.details) == ("opening", {"standing": {"champion": first.ref}})
    assert verified(own).whole
    assert name not in verified(own).unaudited

    own.store.client.set_registered_model_alias(name, "champion", "1")
    (moved,) = verified(own).differences
    assert (moved.what, moved.logged, moved.found) == ("champion", [second.ref], first.ref)
    book.promote(second, why="back again")
    assert verified(own).whole
    (found,) = [entry for entry in own.audit.entries(name) if entry.action == "found"]
    stood = {"champion": first.ref, "previous": first.ref}
    assert found.details == {"standing": stood, "expected": {**stood, "champion": second.ref}}


def test_no_move_is_made_that_cannot_be_put_on_record(registry, settings, name, releases, tmp_path):
    first, second = releases(2)
    registry.release_versions.promote(first, why="first one")
    (tmp_path / "file").write_text("no folder")
    unlogged = Registry(dataclasses.replace(settings, log_url=f"sqlite:///{tmp_path}/file/log.db"))
    book = unlogged.release_versions

    for act in (
        lambda: book.promote(second, why="urgent"),
        lambda: book.challenge(second),
        lambda: book.roll_back(name),
        lambda: book.record_gate(second, "qa", {"verdict": "pass", "against": first.ref}),
        lambda: unlogged.release_versions.set_policy(name, CANARY),
    ):
        with pytest.raises(StoreUnavailable):
            act()

    assert aliases(registry, name) == {"champion": 1}
    assert book.gates(second) == {}
    assert [release.aliases for release in unlogged.registered().releases[name]] == [("champion",), ()]  # to read: none


def test_a_move_whose_intent_cannot_be_written_says_that_nothing_was_moved(own, book, name, releases, monkeypatch):
    (first,) = releases(1)

    def away(*_: Any) -> None:
        raise StoreUnavailable("production log: disk full")

    with monkeypatch.context() as patched:
        patched.setattr(own.audit, "append", away)
        with pytest.raises(StoreUnavailable, match=f"disk full; {name} was left as it is"):
            book.promote(first, why="first one")
    assert aliases(own, name) == {}
    with monkeypatch.context() as patched:
        patched.setattr(own.audit, "done", away)
        with pytest.raises(StoreUnavailable, match=f"the promote of {first.ref} is done but .* repeat the command"):
            book.promote(first, why="first one")
    assert aliases(own, name) == {"champion": 1}
    assert len(verified(own).unfinished) == 1
    assert book.promote(first, why="first one") is None
    assert verified(own).unfinished == ()


class Cut(BaseException):
    """Ends a call as a kill would, before its `after`-th write."""


def cut_off(registry: Registry, monkeypatch: pytest.MonkeyPatch, after: int, call: Callable[[], Any]) -> bool:
    """Whether the call was cut off."""
    left: Iterator[int] = iter(range(after))

    def ending(write: Callable[..., Any], *args: Any) -> Any:
        if next(left, None) is None:
            raise Cut
        return write(*args)

    with monkeypatch.context() as patched:
        for owner, names in ((registry.store.client, WRITES), (registry.audit, ("append",))):
            for write in names:
                patched.setattr(owner, write, partial(ending, getattr(owner, write)))
        try:
            call()
        except Cut:
            return True
    return False


def each_cut(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str, prepare: Callable[[], Any], call: Callable[[], Any]
) -> Iterator[Any]:
    """Cuts the call off before each of its writes, looks at the log, and gives what the repeated call returns."""
    for after in range(20):
        prepare()
        before = len(registry.audit.entries(name))
        if not cut_off(registry, monkeypatch, after, call):
            assert after >= 4
            return
        found = verified(registry)
        assert found.whole
        assert [entry.name for entry in found.unfinished] == ([name] if after else [])
        yield call()
        assert verified(registry).whole
        assert verified(registry).unfinished == ()
        assert len(registry.audit.entries(name)) == before + 2


def test_a_promotion_that_is_cut_off_is_finished(own, book, name, releases, monkeypatch):
    first, second = releases(2)

    def prepare() -> None:
        book.promote(first, why="first one")
        book.challenge(book.get(second.ref))

    for old in each_cut(own, monkeypatch, name, prepare, lambda: book.promote(second, why="better")):
        assert old is not None
        assert old.ref == first.ref
        assert aliases(own, name) == {"champion": 2, "previous": 1}
        moves = [(move["what"], move["from"], move["to"]) for move in book.history(name)]
        assert moves[-1] == ("promote", first.ref, second.ref)
        assert moves[-2][0] == "challenge"


@pytest.mark.slow
def test_a_challenge_or_withdrawal_that_is_cut_off_is_finished(own, book, name, releases, monkeypatch):
    first, second = releases(2)
    for call, left in ((lambda: book.challenge(second), {"challenger": 2}), (lambda: book.withdraw(name), {})):
        for old in each_cut(own, monkeypatch, name, lambda: book.challenge(first), call):
            assert old is not None
            assert old.ref == first.ref
            assert aliases(own, name) == left
            last = [(move["what"], move["to"]) for move in book.history(name)][-2:]
            assert last == [("challenge", first.ref), ("challenge", second.ref) if left else ("withdraw", None)]


def test_a_rollback_that_is_cut_off_is_finished_and_not_made_twice(own, book, name, releases, monkeypatch):
    first, second = releases(2)

    def prepare() -> None:
        book.promote(first, why="first one")
        book.promote(second, why="better")
        book.challenge(book.get(first.ref))

    def check(new: Release, old: Release) -> None:
        assert (new.ref, old.ref) == (first.ref, second.ref)
        assert aliases(own, name) == {"champion": 1, "previous": 2}
        assert book.roll_back_from(name, second.ref) is None
        last = book.history(name)[-1]
        assert (last["what"], last["from"], last["to"]) == ("rollback", second.ref, first.ref)

    for moved in each_cut(own, monkeypatch, name, prepare, lambda: book.roll_back(name)):
        check(*moved)
    for after in range(1, 5):  # while aliases are still to be moved, one from that champion finishes it too
        prepare()
        assert cut_off(own, monkeypatch, after, lambda: book.roll_back(name))
        check(*book.roll_back_from(name, second.ref))


def test_a_change_of_traffic_that_is_cut_off_is_finished(own, book, name, releases, monkeypatch):
    releases(1)
    for _ in each_cut(
        own, monkeypatch, name, lambda: book.set_policy(name, None), lambda: book.set_policy(name, CANARY)
    ):
        assert book.policy(name) == CANARY
        assert [move["why"] for move in book.history(name)][-1] == "set"


def test_another_move_after_one_that_was_cut_off_takes_its_place(own, book, name, releases, monkeypatch):
    first, second, third = releases(3)
    book.promote(first, why="first one")
    assert cut_off(own, monkeypatch, 2, lambda: book.promote(second, why="better"))
    assert aliases(own, name) == {"champion": 1, "previous": 1}
    book.promote(third, why="better still")
    assert aliases(own, name) == {"champion": 3, "previous": 1}
    assert verified(own).whole
    assert verified(own).unfinished == ()
    assert "supersedes" in own.audit.entries(name)[-2].details
