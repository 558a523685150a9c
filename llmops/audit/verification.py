"""Is the chain whole, and do the registry's aliases stand where its entries say?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.audit.alias_state import AliasState, Difference, Replay
from llmops.audit.entries import NO_ENTRY, AuditEntry
from llmops.audit.log import AuditLog
from llmops.errors import Corrupted


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


@dataclass(frozen=True, slots=True)
class Verification:
    """What `llmops audit verify` says.

    differences: aliases and traffic policies that were moved around the log. unfinished: moves that began and did not
    end, such as by a kill; repeating the command ends them. unaudited: apps and models with aliases from before the log
    began, of which it says nothing yet.
    """

    chain: Chain
    differences: tuple[Difference, ...] = ()
    unfinished: tuple[AuditEntry, ...] = ()
    unaudited: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing was tampered with, as far as can be seen."""
        return self.chain.broken is None and not self.differences

    def to_json(self) -> dict[str, Any]:
        """What the command prints."""
        broken = self.chain.broken
        return {
            "whole": self.whole,
            "entries": self.chain.entries,
            "head": self.chain.head,
            "broken": None if broken is None else {"seq": broken.seq, "why": broken.why},
            "moved": [difference.to_json() for difference in self.differences],
            "unfinished": [entry.to_json() for entry in self.unfinished],
            "unaudited": list(self.unaudited),
        }


def verify(
    log: AuditLog, standings: Callable[[], Mapping[str, AliasState]] | None = None, head: str | None = None
) -> Verification:
    """Reads the whole chain, and compares what it comes to with how the registry's apps and models stand.

    standings: reads those of all apps and models; None: only the chain is looked at. head: a hash that was the chain's
    last one before; the chain must still hold it. Raises StoreUnavailable.
    """
    with log.turn():  # a move under way would look like one around the log
        chain = check_chain(log.rows(), head)
        found = standings() if standings is not None and chain.broken is None else None
    unfinished = tuple(replay.unfinished for replay in chain.replays.values() if replay.unfinished is not None)
    if found is None:
        return Verification(chain, unfinished=unfinished)
    differences = [
        difference
        for name, replay in sorted(chain.replays.items())
        for difference in replay.differences(found.get(name, {}))
    ]
    unaudited = sorted(name for name, standing in found.items() if standing and name not in chain.replays)
    return Verification(chain, tuple(differences), unfinished, tuple(unaudited))


def check_chain(rows: Iterable[Mapping[str, Any]], head: str | None = None) -> Chain:
    """Follows the chain up to its end or the first row that does not belong. rows: as they are stored, by seq."""
    count, last, head_seen = 0, NO_ENTRY, False
    replays: dict[str, Replay] = {}

    def end(broken: Broken | None) -> Chain:
        return Chain(count, last if count else None, broken, replays)

    for row in rows:
        entry = _next_entry(row, count + 1, last)
        if isinstance(entry, Broken):
            return end(entry)
        count, last = entry.seq, entry.hash
        head_seen = head_seen or entry.hash == head
        replays[entry.name] = replays.get(entry.name, Replay(entry.name)).followed_by(entry)
    if head is not None and not head_seen:
        return end(Broken(count + 1, f"the chain ends before it, without the given head {head}: it was cut off"))
    return end(None)


def _next_entry(row: Mapping[str, Any], seq: int, previous: str) -> AuditEntry | Broken:
    if row["seq"] != seq:
        return Broken(seq, f"is missing; the next one there is {row['seq']}")
    try:
        entry = AuditEntry.from_row(row)
    except Corrupted:
        return Broken(seq, "was altered: its details are not as they were written")
    if entry.hash != entry.expected_hash():
        return Broken(seq, "was altered: its hash is another one")
    if entry.previous != previous:
        return Broken(seq, "does not follow the entry before: one was altered, removed or put in between")
    return entry
