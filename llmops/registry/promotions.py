"""How aliases and traffic policies move, and by which rules, for everything that is versioned and served.

A move is said in the audit log before and after, and remembered in the history. What a kill cuts off is finished by the
same call made again. A move that cannot be put on record is not made.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeVar

from llmops.audit import AliasState, AuditEntry, AuditLog, Move, os_user
from llmops.errors import CannotRun, GateRefused, StoreUnavailable, UnknownVersion, UsageError
from llmops.evaluation.gate_rules import GateRules, loosened
from llmops.hashing import canonical_json, content_hash
from llmops.registry.models import VersionRegistry
from llmops.registry.store import translated
from llmops.versions import CHALLENGER, CHAMPION, PREVIOUS, Ref, Release, TabularVersion, pick

GATE_PASSED = "gate passed"
"""Why a promotion was allowed; any other reason is one to promote without a passing gate."""
TRAFFIC, TRAFFIC_TAG = "traffic", "llmops.traffic"
CHAMPION_MOVES = ("promote", "rollback")
_GATE_TAG, _HISTORY_TAG = "llmops.gate", "llmops.history"
_HISTORY_LENGTH, _MOVES_KEPT = 20, 10
_MOST_WHY, _MOST_HISTORY = 300, 4800
"""Characters: MLflow keeps 5,000 of a registered model's tag, and refuses more."""

Remember = Literal["first", "last", "not"]
Versioned = Release | TabularVersion
"""What aliases may point to."""
V = TypeVar("V", bound=Versioned)


@dataclass(eq=False)
class Promotions(VersionRegistry[V]):
    """Promotes, challenges, withdraws, rolls back and gates versions of one kind: one move at a time, whatever the
    process, and each is on the audit log before it is made.

    Subclasses say, for errors, what a version is, how one is gated, and what to do where there is none.
    """

    version_noun: ClassVar[str]
    if_none: ClassVar[str]
    how_to_gate: ClassVar[str]
    audit: AuditLog

    def get(self, ref: str) -> V:
        """`name@3`, `name@alias`, or `name` (its champion). Raises UnknownVersion, UsageError, StoreUnavailable."""
        parsed = Ref.parse(ref)
        return pick(
            self.versions(parsed.name), parsed, self.version_noun, self.if_none.format(name=parsed.name), CHAMPION
        )

    def champion(self, name: str) -> V | None:
        """The served version; None when none was promoted yet. Raises StoreUnavailable."""
        return _by_alias(self.versions(name)).get(CHAMPION)

    def record_gate(self, version: V, suite: str, verdict: Mapping[str, Any]) -> None:
        """Keeps a gate's verdict on the version, one for each suite. Where its rules are looser than those of an
        earlier gate, that is part of the record. Raises StoreUnavailable."""
        gate = {**verdict, "at": datetime.now(UTC).isoformat()}
        noted = {"suite": suite, "verdict": gate.get("verdict"), "against": gate.get("against")}
        if (rules := gate.get("rules")) is not None:
            gate["loosened"] = noted["loosened"] = self.loosened(version, suite, rules)
            noted["rules"] = rules
        self.note("gate", version.ref, {**noted, "sha256": content_hash(gate)})
        gates = canonical_json({**self.gates(version), suite: gate})
        with translated(f"{self.version_noun} {version.ref}"):
            self.store.client.set_model_version_tag(version.name, str(version.version), _GATE_TAG, gates)

    def loosened(self, version: V, suite: str, rules: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What these rules ask less than those of earlier gates of the suite, on any version, from the last gate of the
        champion on (without a champion: from the first gate on).

        Gives `{"rule", "by", "at"}` for each: the change in words, who first gated by the looser rule, and when (None:
        nobody before). Gates put on record before their rules were say nothing. Raises StoreUnavailable, Corrupted.
        """
        champion = self.champion(version.name)
        gates = [
            entry
            for entry in self.audit.entries(version.name)
            if entry.action == "gate" and entry.details.get("suite") == suite and entry.details.get("rules")
        ]
        first = max((n for n, entry in enumerate(gates) if champion and entry.subject == champion.ref), default=0)
        now = GateRules.from_mapping(rules)
        seen = [(GateRules.from_mapping(gate.details["rules"]), gate.actor, gate.at) for gate in gates[first:]]
        found: dict[str, dict[str, Any]] = {}
        for (before, _, _), (after, actor, at) in pairwise([*seen, (now, self.audit.actor or os_user(), None)]):
            still = loosened(before, now)
            for rule, words in loosened(before, after).items():
                if rule in still:
                    found[rule] = {"rule": words, "by": actor, "at": at}
        return list(found.values())

    def gates(self, version: V) -> dict[str, Any]:
        """Verdicts by suite: `{"verdict", "reasons", "against", "at"}`. Raises StoreUnavailable."""
        with translated(f"{self.version_noun} {version.ref}"):
            tags = self.store.client.get_model_version(version.name, str(version.version)).tags
        gates: dict[str, Any] = json.loads(tags.get(_GATE_TAG, "{}"))
        return gates

    def newest_gate(self, version: V) -> tuple[str, dict[str, Any]] | None:
        """Suite and verdict of the version's last gate; None where none is on record. Raises StoreUnavailable."""
        return max(self.gates(version).items(), key=lambda gate: str(gate[1]["at"]), default=None)

    def promote(self, version: V, *, why: str | None = None) -> V | None:
        """Makes `version` the champion and the old champion `previous`; returns the old one. A challenger that is
        promoted is no challenger any more, so that canary and shadow traffic rest.

        why: a reason to promote without a passing gate, or what was rolled back; it is recorded.

        Raises GateRefused: no reason was given, and no passing gate against the present champion is on record, or the
        version was rolled back, which no gate outweighs. StoreUnavailable: then nothing was moved, or the same call
        goes on.
        """
        with self.audit.turn():
            settled = self.settle(version.name, "promote")
            versions = self.versions(version.name)
            held = _by_alias(versions)
            champion, challenger = held.get(CHAMPION), held.get(CHALLENGER)
            if champion is not None and champion.version == version.version:
                return champion if settled is None else _named(settled.details["from"], versions)
            old, action = champion.ref if champion else None, "force-promote"
            if why is None:
                self._refuse_rolled_back(version)
                why, action = self._gate_passed(version, old), "promote"
            after: dict[str, str | None] = {} if champion is None else {PREVIOUS: champion.ref}
            if challenger is not None and challenger.version == version.version:
                after[CHALLENGER] = None
            after[CHAMPION] = version.ref  # last: a call that is cut off after it has nothing left to move
            self.carry_out(Move(action, version.ref, old, version.ref, why, after))
            return champion

    def challenge(self, version: V) -> V | None:
        """Makes `version` the challenger, which a traffic policy sends its share; returns the old one. Raises
        UsageError: it is the champion already. StoreUnavailable."""
        if CHAMPION in version.aliases:
            raise UsageError(f"{version.ref} is the champion; the challenger must be another {self.version_noun}")
        with self.audit.turn():
            settled = self.settle(version.name, "challenge")
            versions = self.versions(version.name)
            old = _by_alias(versions).get(CHALLENGER)
            if old is not None and old.version == version.version:
                return old if settled is None else _named(settled.details["from"], versions)
            before, after = old.ref if old else None, {CHALLENGER: version.ref}
            self.carry_out(Move("challenge", version.ref, before, version.ref, "made the challenger", after))
            return old

    def withdraw(self, name: str) -> V | None:
        """Leaves no challenger; returns the one there was. Raises UnknownVersion, StoreUnavailable."""
        with self.audit.turn():
            settled = self.settle(name, "withdraw")
            versions = self.versions(name)
            if not versions:
                raise UnknownVersion(self.if_none.format(name=name))
            old = _by_alias(versions).get(CHALLENGER)
            if old is None:
                return None if settled is None else _named(settled.details["from"], versions)
            self.carry_out(Move("withdraw", old.ref, old.ref, None, "no longer the challenger", {CHALLENGER: None}))
            return old

    def roll_back(self, name: str, *, why: str | None = None) -> tuple[V, V]:
        """Champion and previous change places; returns (new champion, old champion). A call that was cut off between
        its steps is finished by the next one.

        why: a reason to go back to a version that was itself rolled back; it is recorded.

        Raises GateRefused: the previous version was itself rolled back, and no reason was given. CannotRun: there is no
        previous version. StoreUnavailable.
        """
        with self.audit.turn():
            settled = self.settle(name, "rollback")
            versions = self.versions(name)
            held = _by_alias(versions)
            champion, previous = held.get(CHAMPION), held.get(PREVIOUS)
            if settled is not None and champion is not None and previous is not None:
                return champion, previous
            if champion is not None and (left := self._left_half_way(champion, versions)) is not None:
                # Leaving the new champion as well would be a second rollback.
                self._swap(champion, left, why=why, remember="not")
                return champion, left
            if champion is None or previous is None or champion.version == previous.version:
                if not versions:
                    raise UnknownVersion(self.if_none.format(name=name))
                raise CannotRun(f"{name} has no previous {self.version_noun} to roll back to")
            if why is None:
                self._refuse_rolled_back(previous)
            self._swap(previous, champion, why=why)
            return previous, champion

    def roll_back_from(self, name: str, ref: str) -> tuple[V, V] | None:
        """As `roll_back`, of this champion alone: None where another one serves, such as after the first such call.
        Raises GateRefused, CannotRun, StoreUnavailable."""
        with self.audit.turn():
            self.settle(name, "rollback")
            versions = self.versions(name)
            champion = _by_alias(versions).get(CHAMPION)
            if champion is None or (champion.ref != ref and self._left_half_way(champion, versions) is None):
                return None
            return self.roll_back(name)

    def carry_out(self, move: Move, *, remember: Remember = "last") -> None:
        """Moves what `move.after` says, in its order. Call in a turn of the audit log. Raises StoreUnavailable.

        remember: when the history tells of it: before the aliases move, for those who go by it in between; after; or
        not, for it does already.
        """
        name, client = move.name, self.store.client
        try:
            intent = self.audit.intend(move, self._standing(name))
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error}; {name} was left as it is, for no move goes unrecorded") from error
        if remember == "first":
            self.remember(move)
        with translated(f"app {name}"):
            for alias, value in move.after.items():
                if alias == TRAFFIC and value is not None:
                    client.set_registered_model_tag(name, TRAFFIC_TAG, value)
                elif alias == TRAFFIC:
                    client.delete_registered_model_tag(name, TRAFFIC_TAG)
                elif value is not None:
                    client.set_registered_model_alias(name, alias, str(Ref.parse(value).version))
                else:
                    client.delete_registered_model_alias(name, alias)
        if remember == "last":
            self.remember(move)
        try:
            self.audit.done(intent)
        except StoreUnavailable as error:
            left = f"the {move.what} of {move.subject} is done but for the audit log's last word: repeat the command"
            raise StoreUnavailable(f"{error}; {left}") from error

    def settle(self, name: str, kind: str) -> AuditEntry | None:
        """Ends a move that was cut off when everything stood where it should already; returns what it intended, where
        that was a move of this kind. Call in a turn of the audit log. Raises StoreUnavailable, Corrupted."""
        replay = self.audit.replay(name)
        intent = replay.unfinished
        if intent is None or not replay.is_carried_out(self._standing(name)):
            return None
        old, new, why = (intent.details[field] for field in ("from", "to", "why"))
        move = Move(intent.action, intent.subject, old, new, why, {})
        told = [(entry["what"], entry["to"]) for entry in self.history(name) if entry["at"] >= intent.at]
        if (move.what, new) not in told:
            self.remember(move)
        self.audit.done(intent)
        return intent if move.what == kind else None

    def note(self, action: str, subject: str, details: Mapping[str, Any]) -> None:
        """Puts on record what moves no alias, such as a gate. Raises StoreUnavailable, Corrupted."""
        with self.audit.turn():
            name = Ref.parse(subject).name
            self.audit.open(name, self._standing(name))
            self.audit.append(action, subject, details)

    def history(self, name: str) -> list[dict[str, Any]]:
        """The last moves: `at`, `what`, `from`, `to`, `why`, oldest first. Raises StoreUnavailable."""
        registered = self.store.registered_model(name)
        history: list[dict[str, Any]] = json.loads(registered.tags.get(_HISTORY_TAG, "[]")) if registered else []
        return history

    def remember(self, move: Move) -> None:
        """Adds an entry to the history, and drops the oldest. Changes of traffic, which may be many, do not push out
        the champion's last moves, which automatic rollbacks go by. Raises StoreUnavailable."""
        why = move.why if len(move.why) <= _MOST_WHY else move.why[: _MOST_WHY - 1] + "…"
        entry = {"at": datetime.now(UTC).isoformat(), "what": move.what, "from": move.old, "to": move.new, "why": why}
        history = [*self.history(move.name), entry]
        kept = [each for each in history if each["what"] in CHAMPION_MOVES][-_MOVES_KEPT:]
        while len(history) > 1 and (len(history) > _HISTORY_LENGTH or len(canonical_json(history)) > _MOST_HISTORY):
            others = (position for position, each in enumerate(history[:-1]) if not any(each is one for one in kept))
            del history[next(others, 0)]
        with translated(f"app {move.name}"):
            self.store.client.set_registered_model_tag(move.name, _HISTORY_TAG, canonical_json(history))

    def _standing(self, name: str) -> AliasState:
        registered = self.store.registered_model(name)
        return {} if registered is None else standing_of(registered)

    def _swap(self, new: V, old: V, *, why: str | None = None, remember: Remember = "first") -> None:
        """`previous` is moved last: once it stands, everything else does. On record first: while the aliases move, the
        old champion stands nowhere else, and a monitor would take it for a version worth going back to."""
        after: dict[str, str | None] = {CHAMPION: new.ref}
        if CHALLENGER in new.aliases:
            after[CHALLENGER] = None
        after[PREVIOUS] = old.ref
        action = "rollback" if why is None else "force-rollback"
        self.carry_out(Move(action, new.ref, old.ref, new.ref, why or "rolled back", after), remember=remember)

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

    def _gate_passed(self, version: V, against: str | None) -> str:
        """Why it may be promoted. Raises GateRefused where no passing gate against the champion is on record."""
        current = {suite: gate for suite, gate in self.gates(version).items() if gate["against"] == against}
        if not current or any(gate["verdict"] != "pass" for gate in current.values()):
            known = ", ".join(f"{suite}: {gate['verdict']}" for suite, gate in current.items()) or "none"
            raise GateRefused(
                f"{version.ref} has no passing gate against {against or 'no champion'} on record ({known}); "
                f"{self.how_to_gate.format(ref=version.ref)}, or promote with --force --why TEXT"
            )
        looser = [f"{each['rule']} by {each['by']}" for gate in current.values() for each in gate.get("loosened", ())]
        return f"{GATE_PASSED}, by looser rules: {'; '.join(looser)}" if looser else GATE_PASSED


def standing_of(registered: Any) -> AliasState:
    """Where our aliases stand, of MLflow's registered model, and the traffic policy. It may have other aliases."""
    aliases, traffic = registered.aliases, registered.tags.get(TRAFFIC_TAG)
    ours = (alias for alias in (CHAMPION, CHALLENGER, PREVIOUS) if alias in aliases)
    found = {alias: f"{registered.name}@{aliases[alias]}" for alias in ours}
    return found if traffic is None else {**found, TRAFFIC: str(traffic)}


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


def _by_alias(versions: Sequence[V]) -> dict[str, V]:
    return {alias: version for version in versions for alias in version.aliases}


def _named(ref: str | None, versions: Sequence[V]) -> V | None:
    return next((version for version in versions if version.ref == ref), None)
