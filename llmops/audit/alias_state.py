"""How aliases stand by the audit log, entry by entry.

A move is said before it is made (`phase` is `intent`) and after it (`done`). Between the two an alias may stand at
either place; one that stands at neither was moved by somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.audit.entries import AuditEntry

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
        return {"name": self.name, "what": self.what, "logged": list(self.logged), "found": self.found}


@dataclass(frozen=True, slots=True)
class Replay:
    """One app or model after some entries. known: there are any. unfinished: the intent that no entry has ended."""

    name: str = ""
    known: bool = False
    expected: AliasState = field(default_factory=dict)
    unfinished: AuditEntry | None = None

    @classmethod
    def of(cls, entries: Iterable[AuditEntry]) -> dict[str, Replay]:
        """What sound entries come to, by the name of the app or model."""
        replays: dict[str, Replay] = {}
        for entry in entries:
            replays[entry.name] = replays.get(entry.name, cls(entry.name)).followed_by(entry)
        return replays

    def followed_by(self, entry: AuditEntry) -> Replay:
        """The replay after one more entry."""
        expected, unfinished = self.expected, self.unfinished
        details, phase = entry.details, entry.details.get("phase")
        if entry.action in _STATES:
            expected, unfinished = details.get("standing", {}), None
        elif phase == "intent":
            expected, unfinished = details.get("before", {}), entry
        elif phase == "done" and unfinished is not None and details.get("of") == unfinished.seq:
            expected, unfinished = _after(unfinished), None
        return Replay(self.name, True, expected, unfinished)

    def differences(self, found: AliasState) -> list[Difference]:
        """What of `found` the log does not explain."""
        after: AliasState = self.expected if self.unfinished is None else _after(self.unfinished)
        places = sorted({*self.expected, *after, *found})
        logged = {place: (self.expected.get(place), after.get(place)) for place in places}
        return [
            Difference(self.name, place, tuple(dict.fromkeys(logged[place])), found.get(place))
            for place in places
            if found.get(place) not in logged[place]
        ]

    def is_carried_out(self, found: AliasState) -> bool:
        """Whether everything stands where the unfinished move wanted it."""
        return self.unfinished is not None and dict(found) == _after(self.unfinished)


def _after(intent: AuditEntry) -> AliasState:
    after: AliasState = intent.details.get("after", {})
    return after
