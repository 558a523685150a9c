"""Entries of the audit log, each with the hash that chains it to the one before; and how aliases stand by them.

A move is said before it is made (`phase` is `intent`) and after it (`done`). Between the two an alias may stand at
either place; one that stands at neither was moved by somebody else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import Corrupted
from llmops.hashing import canonical_json, content_hash
from llmops.production_log.tables import storable

NO_ENTRY = "0" * 64
"""What the first entry names as the hash of the one before it."""

AliasState = Mapping[str, str]
"""What stands where, of one app or model: `champion`, `challenger` and `previous` with the version each points to, and
`traffic` with the policy's text. What is not set is left out."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry as it is stored.

    seq: 1, 2, 3 … without a gap. at: ISO 8601, UTC. actor: a user of the operating system, or a name such as `monitor`.
    subject: what it is about, such as `assistant@3` or `assistant`. details: JSON values; never texts of users.
    previous: the hash of the entry before. hash: sha256 over the canonical JSON of all the other fields.
    """

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]
    previous: str
    hash: str

    @classmethod
    def chained(
        cls, previous: AuditEntry | None, at: str, actor: str, action: str, subject: str, details: Mapping[str, Any]
    ) -> AuditEntry:
        """The entry that follows `previous`; the first one after None."""
        seq, before = (1, NO_ENTRY) if previous is None else (previous.seq + 1, previous.hash)
        details = json.loads(_details_text(details))
        unhashed = cls(seq, at, storable(actor), action, storable(subject), details, before, "")
        return dataclasses.replace(unhashed, hash=unhashed.expected_hash())

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> AuditEntry:
        """Raises Corrupted where the details are not the JSON that was written."""
        try:
            details = json.loads(row["details"])
        except ValueError as error:
            raise Corrupted(f"audit entry {row['seq']}: its details are no JSON; see `llmops audit verify`") from error
        if not isinstance(details, dict) or canonical_json(details) != row["details"]:
            raise Corrupted(
                f"audit entry {row['seq']}: its details are not as they were written; see `llmops audit verify`"
            )
        return cls(**{**row, "details": details})

    @property
    def name(self) -> str:
        """The app or model that it is about."""
        return self.subject.partition("@")[0]

    def expected_hash(self) -> str:
        """What the hash must be for the entry to be as it was written."""
        return content_hash({name: value for name, value in dataclasses.asdict(self).items() if name != "hash"})

    def to_row(self) -> dict[str, Any]:
        """The entry as a row of its table."""
        return {**dataclasses.asdict(self), "details": _details_text(self.details)}


def _details_text(details: Mapping[str, Any]) -> str:
    """Details as they are stored. JSON itself writes a zero byte as an escape."""
    return canonical_json(json.loads(canonical_json(details).encode(errors="replace").decode()))


@dataclass(frozen=True, slots=True)
class Move:
    """A change of how one app or model stands.

    action: as the log calls it: `promote`, `force-promote`, `challenge`, `withdraw`, `rollback`, `traffic` …
    subject: what is moved, such as `assistant@3`.
    old, new: as the history shows them.
    after: what is to stand where; None: nothing; all else stays.
    """

    action: str
    subject: str
    old: str | None
    new: str | None
    why: str
    after: Mapping[str, str | None]

    @property
    def what(self) -> str:
        """As the history calls it, which does not tell a forced promotion from another."""
        return self.action.removeprefix("force-")

    @property
    def name(self) -> str:
        """The app or model."""
        return self.subject.partition("@")[0]

    def details(self, before: AliasState) -> dict[str, Any]:
        """What the intent says beside action and subject."""
        after = {place: value for place, value in {**before, **self.after}.items() if value is not None}
        moved = {"what": self.what, "from": self.old, "to": self.new, "why": self.why}
        return {**moved, "before": dict(before), "after": after}


@dataclass(frozen=True, slots=True)
class AliasDifference:
    """Something that stands elsewhere than the log says. logged: the places it may stand at."""

    name: str
    what: str
    logged: list[str | None]
    found: str | None


@dataclass(frozen=True, slots=True)
class AliasReplay:
    """One app or model after some entries. known: there are any. unfinished: the intent that no entry has ended."""

    name: str = ""
    known: bool = False
    expected: AliasState = field(default_factory=dict)
    unfinished: AuditEntry | None = None

    def followed_by(self, entry: AuditEntry) -> AliasReplay:
        """The replay after one more entry."""
        expected, unfinished = self.expected, self.unfinished
        details, phase = entry.details, entry.details.get("phase")
        if entry.action in ("opening", "found"):
            expected, unfinished = details.get("standing", {}), None
        elif phase == "intent":
            expected, unfinished = details.get("before", {}), entry
        elif phase == "done" and unfinished is not None and details.get("of") == unfinished.seq:
            expected, unfinished = unfinished.details.get("after", {}), None
        return AliasReplay(self.name, True, expected, unfinished)

    def differences(self, found: AliasState) -> list[AliasDifference]:
        """What of `found` the log does not explain."""
        after: AliasState = self.expected if self.unfinished is None else self.unfinished.details.get("after", {})
        differences = []
        for place in sorted({*self.expected, *after, *found}):
            logged = dict.fromkeys((self.expected.get(place), after.get(place)))
            if found.get(place) not in logged:
                differences.append(AliasDifference(self.name, place, list(logged), found.get(place)))
        return differences

    def is_carried_out(self, found: AliasState) -> bool:
        """Whether everything stands where the unfinished move wanted it."""
        return self.unfinished is not None and dict(found) == self.unfinished.details.get("after", {})


@dataclass(frozen=True, slots=True)
class Broken:
    """The first entry at which the chain is not whole. seq: its number, or the number that is missing."""

    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading the whole chain found, and comparing it with the registry.

    head: the last sound entry's hash. replays: by app or model.
    differences: aliases and traffic policies that were moved around the log.
    unaudited: apps and models with aliases from before the log began, of which it says nothing yet.
    """

    entries: int
    head: str | None
    broken: Broken | None
    replays: Mapping[str, AliasReplay]
    differences: tuple[AliasDifference, ...] = ()
    unaudited: tuple[str, ...] = ()

    @property
    def unfinished(self) -> tuple[AuditEntry, ...]:
        """Moves that began and did not end, such as by a kill; repeating the command ends them."""
        return tuple(replay.unfinished for replay in self.replays.values() if replay.unfinished is not None)

    @property
    def whole(self) -> bool:
        """Whether nothing was tampered with, as far as can be seen."""
        return self.broken is None and not self.differences

    def to_json(self) -> dict[str, Any]:
        """What `llmops audit verify` prints."""
        return {
            "whole": self.whole,
            "entries": self.entries,
            "head": self.head,
            "broken": None if self.broken is None else dataclasses.asdict(self.broken),
            "moved": [dataclasses.asdict(difference) for difference in self.differences],
            "unfinished": [dataclasses.asdict(entry) for entry in self.unfinished],
            "unaudited": list(self.unaudited),
        }


def check_chain(rows: Iterable[Mapping[str, Any]], head: str | None = None) -> Verification:
    """Follows the chain up to its end or the first row that does not belong; the registry is not looked at.

    rows: as they are stored, by seq.
    head: a hash that was the chain's last one before; the chain must still hold it.
    """
    count, last, why = 0, NO_ENTRY, None
    replays: dict[str, AliasReplay] = {}
    for row in rows:
        try:
            entry: AuditEntry | None = AuditEntry.from_row(row)
        except Corrupted:
            entry = None
        if row["seq"] != count + 1:
            why = f"is missing; the next one there is {row['seq']}"
        elif entry is None:
            why = "was altered: its details are not as they were written"
        elif entry.hash != entry.expected_hash():
            why = "was altered: its hash is another one"
        elif entry.previous != last:
            why = "does not follow the entry before: one was altered, removed or put in between"
        else:
            count, last = entry.seq, entry.hash
            head = None if entry.hash == head else head
            replays[entry.name] = replays.get(entry.name, AliasReplay(entry.name)).followed_by(entry)
            continue
        break
    if why is None and head is not None:
        why = f"the chain ends before it, without the given head {head}: it was cut off"
    return Verification(count, last if count else None, None if why is None else Broken(count + 1, why), replays)
