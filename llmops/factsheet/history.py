"""What was done to a version, for its fact sheet: from the audit log, and what was before it from the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.audit import AuditEntry, Verification, verify
from llmops.errors import Corrupted, StoreUnavailable
from llmops.factsheet.contents import History, Move, Period
from llmops.factsheet.times import to_the_second
from llmops.hashing import canonical_json, content_hash
from llmops.registry import Registry
from llmops.registry.promotions import GATE_PASSED, Versioned
from llmops.versions import CHALLENGER, CHAMPION

_FULL, _FULL_TEXT = 20, 4200
"""Entries, and characters, from which on the registry may have dropped older ones."""
_STANDING = ("opening", "found")


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The audit log of one app or model. entries: oldest first. unreadable: why there are none, else empty."""

    entries: tuple[AuditEntry, ...] = ()
    verification: Verification | None = None
    unreadable: str = ""

    def registrar(self, ref: str) -> str | None:
        """Who registered a version."""
        made = [entry for entry in self.entries if (entry.action, entry.subject) == ("register", ref)]
        return made[0].actor if made else None

    def attests(self, ref: str, suite: str, gate: Mapping[str, Any]) -> bool | None:
        """Whether a verdict is the last one of its suite that was put on record; None where none was."""
        noted = [
            entry.details.get("sha256")
            for entry in self.entries
            if (entry.action, entry.subject, entry.details.get("suite")) == ("gate", ref, suite)
        ]
        return noted[-1] == content_hash(dict(gate)) if noted else None


def audit_trail(registry: Registry, name: str) -> AuditTrail:
    """Reads and verifies the log. Where it cannot be read the sheet is made without it, and says why. Raises
    StoreUnavailable where the registry cannot be read."""
    try:
        entries = tuple(registry.audit.entries(name))
        verification = verify(registry.audit)
    except (StoreUnavailable, Corrupted) as error:
        return AuditTrail(unreadable=str(error))
    if verification.chain.broken is None:
        verification = verify(registry.audit, registry.standings)
    return AuditTrail(entries, verification)


@dataclass(frozen=True, slots=True)
class _Told:
    """A move, and the versions that it tells of."""

    move: Move
    about: frozenset[str | None]


def history_of(trail: AuditTrail, kept: Sequence[Mapping[str, Any]], version: Versioned) -> History:
    """kept: the registry's own history of the app or model, oldest first."""
    nothing_dropped = len(kept) < _FULL and len(canonical_json(list(kept))) < _FULL_TEXT
    remembered = [_remembered(entry) for entry in kept]
    if not trail.entries:
        return _history(version, remembered, "registry", nothing_dropped, trail)
    began = to_the_second(trail.entries[0].at) or ""
    older = [each for each in remembered if (each.move.at or "") < began]
    told = [*older, *_logged(trail.entries)]
    opened = trail.entries[0].action == "opening"
    source = "audit log, and before it from the registry" if older else "audit log"
    return _history(version, told, source, nothing_dropped or not opened, trail)


def _history(version: Versioned, told: Sequence[_Told], source: str, complete: bool, trail: AuditTrail) -> History:
    problems = _problems(trail, version.name)
    return History(
        moves=tuple(each.move for each in told if version.ref in each.about),
        periods=periods_of(version.ref, (each.move for each in told), is_champion=CHAMPION in version.aliases),
        source=source,
        complete=complete,
        note=_note(trail),
        whole=not problems if trail.entries else None,
        problems=problems,
    )


def _remembered(entry: Mapping[str, Any]) -> _Told:
    forced = entry["what"] == "promote" and not entry["why"].startswith(GATE_PASSED)
    move = Move(to_the_second(entry["at"]), entry["what"], entry["from"], entry["to"], entry["why"], forced=forced)
    return _Told(move, frozenset((move.old, move.new)))


def _logged(entries: Sequence[AuditEntry]) -> Iterator[_Told]:
    done = {entry.details.get("of") for entry in entries if entry.details.get("phase") == "done"}
    for entry in entries:
        if entry.action in _STANDING:
            yield _stood(entry)
        elif entry.action in ("register", "gate"):
            yield _noted(entry)
        elif entry.details.get("phase") == "intent":
            yield _intended(entry, finished=entry.seq in done)


def _stood(entry: AuditEntry) -> _Told:
    standing = entry.details.get("standing", {})
    shown = ", ".join(f"{place} {value}" for place, value in sorted(standing.items())) or "nothing"
    why = f"the log begins with {shown}" if entry.action == "opening" else f"moved around the log: {shown}"
    move = Move(to_the_second(entry.at), FOUND, None, standing.get(CHAMPION), why, entry.actor)
    return _Told(move, frozenset((*standing.values(), *entry.details.get("expected", {}).values())))


def _noted(entry: AuditEntry) -> _Told:
    details, gate = entry.details, entry.action == "gate"
    why = f"{details.get('suite')}: {details.get('verdict')}" if gate else ""
    move = Move(to_the_second(entry.at), entry.action, details.get("against"), entry.subject, why, entry.actor)
    return _Told(move, frozenset((entry.subject,)))


def _intended(entry: AuditEntry, *, finished: bool) -> _Told:
    """A change of traffic is about those between whom it was shared."""
    details = entry.details
    what = str(details["what"]) if finished else f"{details['what']}, begun and not finished"
    forced = entry.action == "force-promote"
    move = Move(
        to_the_second(entry.at), what, details["from"], details["to"], str(details["why"]), entry.actor, forced
    )  # fmt: skip
    shared = [details.get("before", {}).get(place) for place in (CHAMPION, CHALLENGER)]
    return _Told(move, frozenset(shared if entry.action == "traffic" else (move.old, move.new)))


def _note(trail: AuditTrail) -> str:
    if trail.unreadable:
        return f"The audit log cannot be read: {trail.unreadable}"
    if trail.verification is None or not trail.entries:
        return "The audit log has no entry of it."
    chain = trail.verification.chain
    if chain.broken is not None:
        return f"The audit log is broken at entry {chain.broken.seq}, which {chain.broken.why}"
    return f"The audit log is whole: {chain.entries} entries up to {chain.head}."


def _problems(trail: AuditTrail, name: str) -> tuple[str, ...]:
    if trail.unreadable:
        return (f"The audit log cannot be read, so what was done is as the registry remembers it: {trail.unreadable}",)
    found = trail.verification
    if found is None:
        return ()
    if (broken := found.chain.broken) is not None:
        return (f"The audit log was tampered with or damaged at entry {broken.seq}: it {broken.why}.",)
    return tuple(
        f"{each.what} stands at {each.found or 'nothing'}, and by the audit log at "
        f"{' or '.join(value or 'nothing' for value in each.logged)}: it was moved around the log."
        for each in found.differences
        if each.name == name
    )


FOUND = "found"
CHAMPION_MOVES = ("promote", "rollback", FOUND)


def periods_of(ref: str, moves: Iterable[Move], *, is_champion: bool) -> tuple[Period, ...]:
    """Oldest first. moves: of the app, oldest first. is_champion: what the alias says, which may have been moved
    without a record."""
    found: list[Period] = []
    for move in moves:
        if move.what not in CHAMPION_MOVES:
            continue
        lasts = bool(found) and found[-1].lasts
        if lasts and move.new != ref:
            found[-1] = _ended(found[-1], move)
        elif not found and move.old == ref != move.new:
            found.append(_ended(Period(None), move))
        if not lasts and move.new == ref:
            found.append(_begun(move))
    lasts = bool(found) and found[-1].lasts
    if lasts and not is_champion:
        found[-1] = dataclasses.replace(found[-1], lasts=False)
    if is_champion and not lasts:
        found.append(Period(None, lasts=True))
    return tuple(found)


def _begun(move: Move) -> Period:
    if move.what == FOUND:
        return Period(None, lasts=True)
    return Period(move.at, None, True, move.what, why=move.why, forced=move.forced, after=move.old)


def _ended(period: Period, move: Move) -> Period:
    if move.what == FOUND:
        return dataclasses.replace(period, lasts=False)
    return dataclasses.replace(period, until=move.at, lasts=False, ended=move.what, then=move.new)
