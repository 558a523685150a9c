"""Moves aliases and traffic policies: said in the audit log before and after, and remembered in the history.

What a kill cuts off is finished by the same call made again. A move that cannot be put on record is not made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from llmops.audit import AliasState, AuditEntry, AuditLog, Draft, Move
from llmops.errors import StoreUnavailable
from llmops.hashing import canonical_json
from llmops.registry.store import Store, translated
from llmops.versions import CHALLENGER, CHAMPION, PREVIOUS, Ref

Remember = Literal["first", "last", "not"]

TRAFFIC_TAG = "llmops.traffic"
_HISTORY_TAG = "llmops.history"
_TRAFFIC = "traffic"
_ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
_HISTORY_LENGTH = 20
CHAMPION_MOVES = ("promote", "rollback")
_MOVES_KEPT = 10
_MOST_WHY, _MOST_HISTORY = 300, 4800
"""Characters: MLflow keeps 5,000 of a registered model's tag, and refuses more."""


class Moves:
    """Carries out moves in one store, on record in one audit log."""

    def __init__(self, store: Store, audit: AuditLog) -> None:
        self._store, self.audit = store, audit

    def turn(self) -> AbstractContextManager[None]:
        """Waits until no other process moves or registers. What is read within it stays so. Raises
        StoreUnavailable."""
        return self.audit.turn()

    def carry_out(self, move: Move, *, remember: Remember = "last") -> None:
        """Moves what `move.after` says, in its order. Call in `turn`. Raises StoreUnavailable.

        remember: when the history tells of it: before the aliases move, for those who go by it in between; after; or
        not, for it does already.
        """
        with _nothing_done(move):
            intent = self.audit.intend(move, self.standing(move.name))
        if remember == "first":
            self.remember(move.name, move.what, move.old, move.new, move.why)
        with translated(f"app {move.name}"):
            for place, value in move.after.items():
                self._put(move.name, place, value)
        if remember == "last":
            self.remember(move.name, move.what, move.old, move.new, move.why)
        with _all_but_recorded(move):
            self.audit.done(intent)

    def settle(self, name: str) -> AuditEntry | None:
        """Ends a move that was cut off when everything stood where it should already; returns what it intended, or
        None when there was no such move. Call in `turn`. Raises StoreUnavailable, Corrupted."""
        replay = self.audit.replay(name)
        intent = replay.unfinished
        if intent is None or not replay.is_carried_out(self.standing(name)):
            return None
        what, old, new, why = (intent.details[field] for field in ("what", "from", "to", "why"))
        told = [(entry["what"], entry["to"]) for entry in self.history(name) if entry["at"] >= intent.at]
        if (what, new) not in told:
            self.remember(name, what, old, new, why)
        self.audit.done(intent)
        return intent

    def note(self, action: str, subject: str, details: Mapping[str, Any]) -> None:
        """Puts on record what moves no alias, such as a gate. Raises StoreUnavailable, Corrupted."""
        with self.turn():
            name = Ref.parse(subject).name
            self.audit.open(name, self.standing(name))
            self.audit.append(Draft(action, subject, details))

    def standing(self, name: str) -> AliasState:
        """What stands where, of one app or model. Raises StoreUnavailable."""
        registered = self._store.registered_model(name)
        return {} if registered is None else standing_of(registered)

    def history(self, name: str) -> list[dict[str, Any]]:
        """The last moves, oldest first: `{"at", "what", "from", "to", "why"}`. Raises StoreUnavailable."""
        registered = self._store.registered_model(name)
        history: list[dict[str, Any]] = json.loads(registered.tags.get(_HISTORY_TAG, "[]")) if registered else []
        return history

    def remember(self, name: str, what: str, old: str | None, new: str | None, why: str) -> None:
        """Adds an entry to the history. Raises StoreUnavailable."""
        shown = why if len(why) <= _MOST_WHY else why[: _MOST_WHY - 1] + "…"
        entry = {"at": datetime.now(UTC).isoformat(), "what": what, "from": old, "to": new, "why": shown}
        history = _shortened([*self.history(name), entry])
        with translated(f"app {name}"):
            self._store.client.set_registered_model_tag(name, _HISTORY_TAG, canonical_json(history))

    def _put(self, name: str, place: str, value: str | None) -> None:
        client = self._store.client
        if place == _TRAFFIC and value is not None:
            client.set_registered_model_tag(name, TRAFFIC_TAG, value)
        elif place == _TRAFFIC:
            client.delete_registered_model_tag(name, TRAFFIC_TAG)
        elif value is not None:
            client.set_registered_model_alias(name, place, str(Ref.parse(value).version))
        else:
            client.delete_registered_model_alias(name, place)


def standing_of(registered: Any) -> AliasState:
    """What stands where, of MLflow's registered model. Aliases of other names are nobody's business here."""
    aliases = registered.aliases
    found = {alias: f"{registered.name}@{aliases[alias]}" for alias in _ALIASES if alias in aliases}
    traffic = registered.tags.get(TRAFFIC_TAG)
    return found if traffic is None else {**found, _TRAFFIC: str(traffic)}


@contextmanager
def _nothing_done(move: Move) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}; {move.name} was left as it is, for no move goes unrecorded") from error


@contextmanager
def _all_but_recorded(move: Move) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"{error}; the {move.what} of {move.subject} is done but for the audit log's last word: repeat the command"
        ) from error


def _shortened(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest entries. Changes of traffic, which may be many, do not push out the champion's last moves: since when
    it serves, and what was rolled back, is what automatic rollbacks go by."""
    kept = [entry for entry in history if entry["what"] in CHAMPION_MOVES][-_MOVES_KEPT:]
    shown = list(history)
    while len(shown) > 1 and (len(shown) > _HISTORY_LENGTH or len(canonical_json(shown)) > _MOST_HISTORY):
        others = [place for place, entry in enumerate(shown[:-1]) if not any(entry is each for each in kept)]
        del shown[others[0] if others else 0]
    return shown
