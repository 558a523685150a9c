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


@dataclass(frozen=True, slots=True)
class Draft:
    """What an entry says: everything but its place in the chain, its time and its actor.

    subject: what it is about, such as `assistant@3` or `assistant`. details: JSON values; never texts of users.
    """

    action: str
    subject: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry as it is stored.

    seq: 1, 2, 3 … without a gap. at: ISO 8601, UTC. actor: a user of the operating system, or a name such as `monitor`.
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
    def chained(cls, previous: AuditEntry | None, at: str, actor: str, draft: Draft) -> AuditEntry:
        """The entry that follows `previous`; the first one after None."""
        seq, before = (1, NO_ENTRY) if previous is None else (previous.seq + 1, previous.hash)
        details = json.loads(_details_text(draft.details))
        unhashed = cls(seq, at, storable(actor), draft.action, storable(draft.subject), details, before, "")
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
        return content_hash({name: value for name, value in self.to_json().items() if name != "hash"})

    def to_json(self) -> dict[str, Any]:
        """All fields, in the order of their meaning."""
        return dataclasses.asdict(self)

    def to_row(self) -> dict[str, Any]:
        """The entry as a row of its table."""
        return {**self.to_json(), "details": _details_text(self.details)}


def _details_text(details: Mapping[str, Any]) -> str:
    """Details as they are stored. JSON itself writes a zero byte as an escape."""
    return canonical_json(json.loads(canonical_json(details).encode(errors="replace").decode()))


AliasState = Mapping[str, str]
"""What stands where, of one app or model: `champion`, `challenger` and `previous` with the version each points to, and
`traffic` with the policy's text. What is not set is left out."""

_STATES = ("opening", "found")


@dataclass(frozen=True, slots=True)
class Move:
    """A change of how one app or model stands.

    action: as the log calls it. what: as the history calls it, which does not tell a forced promotion from another.
    subject: what is moved, such as `assistant@3`. old, new: as the history shows them. after: what is to stand where;
    None: nothing; all else stays.
    """

    action: str
    what: str
    subject: str
    old: str | None
    new: str | None
    why: str
    after: Mapping[str, str | None]

    @property
    def name(self) -> str:
        """The app or model."""
        return self.subject.partition("@")[0]

    def is_said_by(self, intent: AuditEntry) -> bool:
        """Whether an entry that was not ended is about this very move."""
        said = (intent.action, intent.subject, intent.details.get("why"))
        return said == (self.action, self.subject, self.why)

    def details(self, before: AliasState) -> dict[str, Any]:
        """What the intent says beside action and subject."""
        after = {**before, **self.after}
        return {
            "what": self.what,
            "from": self.old,
            "to": self.new,
            "why": self.why,
            "before": dict(before),
            "after": {place: value for place, value in after.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that stands elsewhere than the log says. logged: the places it may stand at."""

    name: str
    what: str
    logged: tuple[str | None, ...]
    found: str | None

    def to_json(self) -> dict[str, Any]:
        """`{"name", "what", "logged", "found"}`."""
        return {**dataclasses.asdict(self), "logged": list(self.logged)}


@dataclass(frozen=True, slots=True)
class Replay:
    """One app or model after some entries. known: there are any. unfinished: the intent that no entry has ended."""

    name: str = ""
    known: bool = False
    expected: AliasState = field(default_factory=dict)
    unfinished: AuditEntry | None = None

    def followed_by(self, entry: AuditEntry) -> Replay:
        """The replay after one more entry."""
        expected, unfinished = self.expected, self.unfinished
        details, phase = entry.details, entry.details.get("phase")
        if entry.action in _STATES:
            expected, unfinished = details.get("standing", {}), None
        elif phase == "intent":
            expected, unfinished = details.get("before", {}), entry
        elif phase == "done" and unfinished is not None and details.get("of") == unfinished.seq:
            expected, unfinished = unfinished.details.get("after", {}), None
        return Replay(self.name, True, expected, unfinished)

    def differences(self, found: AliasState) -> list[Difference]:
        """What of `found` the log does not explain."""
        after: AliasState = self.expected if self.unfinished is None else self.unfinished.details.get("after", {})
        places = sorted({*self.expected, *after, *found})
        logged = {place: (self.expected.get(place), after.get(place)) for place in places}
        return [
            Difference(self.name, place, tuple(dict.fromkeys(logged[place])), found.get(place))
            for place in places
            if found.get(place) not in logged[place]
        ]

    def is_carried_out(self, found: AliasState) -> bool:
        """Whether everything stands where the unfinished move wanted it."""
        return self.unfinished is not None and dict(found) == self.unfinished.details.get("after", {})


@dataclass(frozen=True, slots=True)
class Broken:
    """The first entry at which the chain is not whole. seq: its number, or the number that is missing."""

    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class Chain:
    """What reading the whole chain found. head: the last sound entry's hash. replays: by app or model."""

    entries: int = 0
    head: str | None = None
    broken: Broken | None = None
    replays: Mapping[str, Replay] = field(default_factory=dict)


def check_chain(rows: Iterable[Mapping[str, Any]], head: str | None = None) -> Chain:
    """Follows the chain up to its end or the first row that does not belong.

    rows: as they are stored, by seq.
    head: a hash that was the chain's last one before; the chain must still hold it.
    """
    count, last, broken = 0, NO_ENTRY, None
    replays: dict[str, Replay] = {}
    for row in rows:
        if (why := _fault(row, count + 1, last)) is not None:
            broken = Broken(count + 1, why)
            break
        entry = AuditEntry.from_row(row)
        count, last = entry.seq, entry.hash
        head = None if entry.hash == head else head
        replays[entry.name] = replays.get(entry.name, Replay(entry.name)).followed_by(entry)
    if broken is None and head is not None:
        broken = Broken(count + 1, f"the chain ends before it, without the given head {head}: it was cut off")
    return Chain(count, last if count else None, broken, replays)


def _fault(row: Mapping[str, Any], seq: int, previous: str) -> str | None:
    """Why a row is not the chain's next entry; None where it is."""
    if row["seq"] != seq:
        return f"is missing; the next one there is {row['seq']}"
    try:
        entry = AuditEntry.from_row(row)
    except Corrupted:
        return "was altered: its details are not as they were written"
    if entry.hash != entry.expected_hash():
        return "was altered: its hash is another one"
    if entry.previous != previous:
        return "does not follow the entry before: one was altered, removed or put in between"
    return None
