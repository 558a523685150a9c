"""What users say of answers, votes between two answers to the same question, and late truths of predictions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

BETTER, WORSE, TIE = VOTES = ("better", "worse", "tie")
"""Labels that are votes when the feedback compares the answer with another one."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One opinion on one answer: a score, a label, a comment, a truth, or several of them.

    request_id: whose answer; record_key, app, release: of its log record. caller: the public id of the key that
    brought it, or `anonymous`; user: whom the caller names. compared_to: the request whose answer to the same question
    this one is better or worse than; compared_key, compared_release: of its record. truth: of a prediction, what each
    row's value really was, None where it is not known yet. key: the feedback's own identity.
    """

    request_id: str
    record_key: str
    caller: str
    app: str = ""
    release: str | None = None
    user: str | None = None
    score: float | None = None
    label: str | None = None
    comment: str | None = None
    compared_to: str | None = None
    compared_key: str | None = None
    compared_release: str | None = None
    truth: tuple[Any, ...] | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_json(self) -> dict[str, Any]:
        """What is known, and when it was said."""
        names = ("score", "label", "comment", "user", "caller", "compared_to", "compared_release")
        known = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.truth is not None:
            known["truth"] = list(self.truth)
        return {"key": self.key, "request_id": self.request_id, "at": self.at.isoformat(), **known}

    def says_the_same(self, other: Feedback) -> bool:
        """Whether both came from one request and its repetition."""
        names = ("record_key", "caller", "user", "score", "label", "comment", "compared_key", "truth")
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(slots=True)
class VoteCounts:
    """Votes between two releases. a, b: how many found the first, or the second, better; tie: neither."""

    a: int = 0
    b: int = 0
    tie: int = 0

    def to_json(self) -> dict[str, int]:
        return {"a": self.a, "b": self.b, "tie": self.tie}


def count_votes(votes: Iterable[Mapping[Any, Any]]) -> dict[tuple[str, str], VoteCounts]:
    """Votes by pair of releases, the lower version first.

    votes: rows of the table, oldest first; of several by one user on one pair of answers the last one counts. Rows
    about two answers of one release are left out.
    """
    last: dict[tuple[Any, ...], Mapping[Any, Any]] = {}
    for vote in votes:
        answers = frozenset((vote["record_key"], vote["compared_key"]))
        last[answers, vote["caller"], vote["user"]] = vote
    counts: dict[tuple[str, str], VoteCounts] = {}
    for vote in last.values():
        first, second = str(vote["release"]), str(vote["compared_release"])
        if first == second:
            continue
        better = {BETTER: first, WORSE: second}.get(vote["label"])
        a, b = sorted((first, second), key=_by_version)
        count = counts.setdefault((a, b), VoteCounts())
        if better is None:
            count.tie += 1
        elif better == a:
            count.a += 1
        else:
            count.b += 1
    return counts


def _by_version(release: str) -> tuple[str, int, str]:
    app, _, version = release.rpartition("@")
    return (app, int(version) if version.isdecimal() else 0, version)
