"""The rules by which aliases move, for everything that is versioned and served: releases and tabular models."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

from llmops.audit import AuditEntry, AuditLog, Move
from llmops.errors import CannotRun, GateRefused, UnknownVersion, UsageError
from llmops.evaluation.gate_rules import GateRules, loosened
from llmops.hashing import canonical_json, content_hash
from llmops.registry.moves import CHAMPION_MOVES, Moves, Remember
from llmops.registry.store import Store, translated
from llmops.versions import CHALLENGER, CHAMPION, PREVIOUS, Ref

GATE_PASSED = "gate passed"
"""Why a promotion was allowed; any other reason is one to promote without a passing gate."""
_GATE_TAG = "llmops.gate"


class Versioned(Protocol):
    """A version that aliases may point to."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def ref(self) -> str: ...


V = TypeVar("V", bound=Versioned)


@dataclass(frozen=True, slots=True)
class Wording:
    """How errors speak of what is versioned. make: how a first version comes about; gate: how one is gated; with
    `{name}` and `{ref}`."""

    kind: str
    version: str
    make: str
    gate: str


class Promotions(ABC, Generic[V]):
    """Promotes, challenges, withdraws, rolls back and gates versions of one kind.

    One move is made at a time, whatever the process, and each is on the audit log before it is made.
    """

    wording: Wording

    def __init__(self, store: Store, moves: Moves) -> None:
        self._store, self.moves = store, moves

    @abstractmethod
    def versions(self, name: str) -> list[V]:
        """Every version with its aliases, oldest first; none when there is nothing of that name. Raises
        StoreUnavailable."""

    def get(self, ref: str) -> V:
        """`name@3`, `name@alias`, or `name` (its champion). Raises UnknownVersion, UsageError, StoreUnavailable."""
        parsed = Ref.parse(ref)
        versions = self._some_versions(parsed.name)
        alias = parsed.alias or (CHAMPION if parsed.version is None else None)
        for version in versions:
            if version.version == parsed.version or (alias is not None and alias in version.aliases):
                return version
        raise UnknownVersion(f"no {self.wording.version} {ref}; there are {', '.join(map(_shown, versions))}")

    def champion(self, name: str) -> V | None:
        """The served version; None when none was promoted yet. Raises StoreUnavailable."""
        return _holding(CHAMPION, self.versions(name))

    def record_gate(self, version: V, suite: str, verdict: Mapping[str, Any]) -> None:
        """Keeps a gate's verdict on the version, one for each suite. Where its rules are looser than those of an
        earlier gate, that is part of the record. Raises StoreUnavailable."""
        gate = {**verdict, "at": datetime.now(UTC).isoformat()}
        noted = {"suite": suite, "verdict": gate.get("verdict"), "against": gate.get("against")}
        if (rules := gate.get("rules")) is not None:
            gate["loosened"] = noted["loosened"] = self.loosened(version, suite, rules)
            noted["rules"] = rules
        self.moves.note("gate", version.ref, {**noted, "sha256": content_hash(gate)})
        gates = {**self.gates(version), suite: gate}
        with translated(f"{self.wording.version} {version.ref}"):
            self._store.client.set_model_version_tag(
                version.name, str(version.version), _GATE_TAG, canonical_json(gates)
            )

    def loosened(self, version: V, suite: str, rules: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What these rules ask less than those of earlier gates of the suite, back to the one that the champion passed:
        `{"rule", "by", "at"}`, with who first gated by the looser rule, and when (None: now). Raises StoreUnavailable.
        """
        champion = self.champion(version.name)
        return loosened_since(self.moves.audit, version.name, suite, champion.ref if champion else None, rules)

    def gates(self, version: V) -> dict[str, Any]:
        """Verdicts by suite: `{"verdict", "reasons", "against", "at"}`. Raises StoreUnavailable."""
        with translated(f"{self.wording.version} {version.ref}"):
            tags = self._store.client.get_model_version(version.name, str(version.version)).tags
        gates: dict[str, Any] = json.loads(tags.get(_GATE_TAG, "{}"))
        return gates

    def promote(self, version: V, *, why: str | None = None) -> V | None:
        """Makes `version` the champion and the old champion `previous`; returns the old one. A challenger that is
        promoted is no challenger any more, so that canary and shadow traffic rest.

        why: a reason to promote without a passing gate, or what was rolled back; it is recorded.

        Raises:
            GateRefused: no passing gate against the present champion is on record, or the version was rolled back,
                which no gate outweighs: it had passed one; and no reason was given.
            StoreUnavailable: MLflow or the audit log is away; then nothing was moved, or the same call goes on.
        """
        with self.moves.turn():
            settled = self._settled(version.name, "promote")
            versions = self.versions(version.name)
            champion, challenger = _holding(CHAMPION, versions), _holding(CHALLENGER, versions)
            if champion is not None and champion.version == version.version:
                return champion if settled is None else _named(settled.details["from"], versions)
            if why is None:
                self._refuse_rolled_back(version)
                self._require_gate(version, champion)
            after: dict[str, str | None] = {} if champion is None else {PREVIOUS: champion.ref}
            if challenger is not None and challenger.version == version.version:
                after[CHALLENGER] = None
            after[CHAMPION] = version.ref  # last: a call that is cut off after it has nothing left to move
            action = "promote" if why is None else "force-promote"
            old = champion.ref if champion else None
            move = Move(action, "promote", version.ref, old, version.ref, why or self._passed(version, old), after)
            self.moves.carry_out(move)
            return champion

    def challenge(self, version: V) -> V | None:
        """Makes `version` the challenger, which a traffic policy sends its share; returns the old one.

        Raises:
            UsageError: it is the champion already. StoreUnavailable.
        """
        if CHAMPION in version.aliases:
            raise UsageError(f"{version.ref} is the champion; the challenger must be another {self.wording.version}")
        with self.moves.turn():
            settled = self._settled(version.name, "challenge")
            versions = self.versions(version.name)
            old = _holding(CHALLENGER, versions)
            if old is not None and old.version == version.version:
                return old if settled is None else _named(settled.details["from"], versions)
            before, after = old.ref if old else None, {CHALLENGER: version.ref}
            self.moves.carry_out(
                Move("challenge", "challenge", version.ref, before, version.ref, "made the challenger", after)
            )
            return old

    def withdraw(self, name: str) -> V | None:
        """Leaves no challenger; returns the one there was. Raises UnknownVersion, StoreUnavailable."""
        with self.moves.turn():
            settled = self._settled(name, "withdraw")
            versions = self._some_versions(name)
            old = _holding(CHALLENGER, versions)
            if old is None:
                return None if settled is None else _named(settled.details["from"], versions)
            self.moves.carry_out(
                Move("withdraw", "withdraw", old.ref, old.ref, None, "no longer the challenger", {CHALLENGER: None})
            )
            return old

    def roll_back(self, name: str, *, why: str | None = None) -> tuple[V, V]:
        """Champion and previous change places; returns (new champion, old champion). A call that was cut off between
        its steps is finished by the next one.

        why: a reason to go back to a version that was itself rolled back; it is recorded.

        Raises:
            GateRefused: the previous version was itself rolled back, and no reason was given.
            CannotRun: there is no previous version. StoreUnavailable.
        """
        with self.moves.turn():
            settled = self._settled(name, "rollback")
            versions = self.versions(name)
            champion, previous = _holding(CHAMPION, versions), _holding(PREVIOUS, versions)
            if settled is not None and champion is not None and previous is not None:
                return champion, previous
            if champion is not None and (left := self._left_half_way(champion, versions)) is not None:
                # Leaving the new champion as well would be a second rollback.
                self._swap(champion, left, why=why, remember="not")
                return champion, left
            if champion is None or previous is None or champion.version == previous.version:
                self._some_versions(name)  # where there are none, that is what to say
                raise CannotRun(f"{name} has no previous {self.wording.version} to roll back to")
            if why is None:
                self._refuse_rolled_back(previous)
            self._swap(previous, champion, why=why)
            return previous, champion

    def roll_back_from(self, name: str, ref: str) -> tuple[V, V] | None:
        """As `roll_back`, of this champion alone: None where another one serves, such as after the first such call.

        Raises GateRefused, CannotRun, StoreUnavailable.
        """
        with self.moves.turn():
            self._settled(name, "rollback")
            versions = self.versions(name)
            champion = _holding(CHAMPION, versions)
            if champion is None or (champion.ref != ref and self._left_half_way(champion, versions) is None):
                return None
            return self.roll_back(name)

    def history(self, name: str) -> list[dict[str, Any]]:
        """The last moves of aliases and changes of traffic, oldest first: `{"at", "what", "from", "to", "why"}`.

        Raises StoreUnavailable.
        """
        return self.moves.history(name)

    def remember(self, name: str, what: str, old: str | None, new: str | None, why: str) -> None:
        """Adds an entry to the history. Raises StoreUnavailable."""
        self.moves.remember(name, what, old, new, why)

    def _some_versions(self, name: str) -> list[V]:
        versions = self.versions(name)
        if not versions:
            how = self.wording.make.format(name=name)
            raise UnknownVersion(f"no {self.wording.kind} {name!r} has {self.wording.version}s; {how}")
        return versions

    def _swap(self, new: V, old: V, *, why: str | None = None, remember: Remember = "first") -> None:
        """`previous` is moved last: once it stands, everything else does. On record first: while the aliases move, the
        old champion stands nowhere else. And a monitor that finds no record of it would take the old champion for a
        version worth going back to."""
        after: dict[str, str | None] = {CHAMPION: new.ref}
        if CHALLENGER in new.aliases:
            after[CHALLENGER] = None
        after[PREVIOUS] = old.ref
        action = "rollback" if why is None else "force-rollback"
        move = Move(action, "rollback", new.ref, old.ref, new.ref, why or "rolled back", after)
        self.moves.carry_out(move, remember=remember)

    def _settled(self, name: str, what: str) -> AuditEntry | None:
        """Ends a move that was cut off with nothing left to move; returns what it intended if it was of this kind."""
        intent = self.moves.settle(name)
        return intent if intent is not None and intent.details["what"] == what else None

    def _left_half_way(self, champion: V, versions: Sequence[V]) -> V | None:
        """The old champion of a rollback that moved one alias of two; None where none did."""
        if PREVIOUS not in champion.aliases:
            return None
        moves = [move for move in self.history(champion.name) if move["what"] in CHAMPION_MOVES]
        if not moves or moves[-1]["what"] != "rollback" or moves[-1]["to"] != champion.ref:
            return None
        return _named(moves[-1]["from"], versions)

    def _refuse_rolled_back(self, version: V) -> None:
        """Raises GateRefused where the version was rolled back and not brought back since."""
        moved = rolled_back(self.history(version.name)).get(version.ref)
        if moved is not None:
            raise GateRefused(
                f"{version.ref} was rolled back itself, at {moved['at'][:16]}; "
                "--force --why TEXT makes it the champion all the same"
            )

    def _passed(self, version: V, against: str | None) -> str:
        """Why it may be promoted; and which rules were loosened on the way there."""
        passed = [gate for gate in self.gates(version).values() if gate["against"] == against]
        loosened = [f"{each['rule']} by {each['by']}" for gate in passed for each in gate.get("loosened", ())]
        return f"{GATE_PASSED}, by looser rules: {'; '.join(loosened)}" if loosened else GATE_PASSED

    def _require_gate(self, version: V, champion: V | None) -> None:
        against = champion.ref if champion else None
        gates = self.gates(version)
        current = {suite: gate for suite, gate in gates.items() if gate["against"] == against}
        if current and all(gate["verdict"] == "pass" for gate in current.values()):
            return
        known = ", ".join(f"{suite}: {gate['verdict']}" for suite, gate in current.items()) or "none"
        raise GateRefused(
            f"{version.ref} has no passing gate against {against or 'no champion'} on record ({known}); "
            f"{self.wording.gate.format(ref=version.ref)}, or promote with --force --why TEXT"
        )


def rolled_back(history: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The versions that a rollback left, and that were not made the champion again since, with that move.

    A rollback to such a version undoes the one that left it, and tells nothing against the version it leaves.
    history: as `Promotions.history` gives it.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for move in history:
        if move["what"] not in CHAMPION_MOVES:
            continue
        brought_back = found.pop(move["to"], None)
        if move["what"] == "rollback" and brought_back is None and move["from"] is not None:
            found[move["from"]] = move
    return found


def _holding(alias: str, versions: Sequence[V]) -> V | None:
    return next((version for version in versions if alias in version.aliases), None)


def _named(ref: str | None, versions: Sequence[V]) -> V | None:
    return next((version for version in versions if version.ref == ref), None)


def _shown(version: Versioned) -> str:
    return version.ref + (f" ({', '.join(version.aliases)})" if version.aliases else "")


def loosened_since(
    audit: AuditLog, name: str, suite: str, champion: str | None, rules: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What `rules` ask less than the rules of earlier gates of the suite, on any version of an app or model, from the
    last gate of its champion on (without a champion: from the first gate on).

    Gives `{"rule", "by", "at"}` for each: the change in words, who first gated by the looser rule, and when (None:
    nobody before). Gates put on record before their rules were say nothing. Raises StoreUnavailable, Corrupted.
    """
    gates = [
        entry
        for entry in audit.entries(name)
        if entry.action == "gate" and entry.details.get("suite") == suite and entry.details.get("rules")
    ]
    of_champion = [place for place, entry in enumerate(gates) if entry.subject == champion]
    gates = gates[of_champion[-1] if of_champion else 0 :]
    now = GateRules.from_mapping(rules)
    seen = [(GateRules.from_mapping(gate.details["rules"]), gate.actor, gate.at) for gate in gates]
    found: dict[str, dict[str, Any]] = {}
    for (before, _, _), (after, actor, at) in pairwise([*seen, (now, audit.actor, None)]):
        still = loosened(before, now)
        for rule, words in loosened(before, after).items():
            if rule in still:
                found[rule] = {"rule": words, "by": actor, "at": at}
    return list(found.values())
