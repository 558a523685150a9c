"""One entry of the audit log, and the hash that chains it to the one before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import Corrupted
from llmops.hashing import canonical_json, content_hash

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
        details = json.loads(details_text(draft.details))
        unhashed = cls(seq, at, storable(actor), draft.action, storable(draft.subject), details, before, "")
        return cls(**{**unhashed.to_json(), "hash": unhashed.expected_hash()})

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
        return {
            "seq": self.seq,
            "at": self.at,
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "details": dict(self.details),
            "previous": self.previous,
            "hash": self.hash,
        }

    def to_row(self) -> dict[str, Any]:
        """The entry as a row of its table."""
        return {**self.to_json(), "details": details_text(self.details)}


def storable(text: str) -> str:
    """The text without what a database refuses: bytes of a command line that are no UTF-8, and zero bytes."""
    return text.encode(errors="replace").decode().replace("\0", "")


def details_text(details: Mapping[str, Any]) -> str:
    """Details as they are stored. JSON itself writes a zero byte as an escape."""
    return canonical_json(json.loads(canonical_json(details).encode(errors="replace").decode()))
