"""One record of the production log and its JSON shape; what users say of answers: opinions, votes between two answers
to the same question; and predictions of tabular models, with the truths that come late.

A prediction's record has the route `predict`; its input is the rows as JSON, its output the predicted values, and its
details `rows`, how many, and `probabilities`, where the model is a classifier.
"""

import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from llmops.errors import Corrupted, UsageError
from llmops.random_ids import random_id

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

    def says_the_same(self, other: Self) -> bool:
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

    def by_version(release: str) -> tuple[str, int, str]:
        app, _, version = release.rpartition("@")
        return (app, int(version) if version.isdecimal() else 0, version)

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
        a, b = sorted((first, second), key=by_version)
        count = counts.setdefault((a, b), VoteCounts())
        if better is None:
            count.tie += 1
        elif better == a:
            count.a += 1
        else:
            count.b += 1
    return counts


Item = TypeVar("Item")

SHADOW = "shadow"
"""The outcome of a shadow request: its answer was returned to nobody. Readers of the log pass over it by default."""

MOST_USER_CHARACTERS = 512
"""Of the name that a client gives its user."""


def new_key() -> str:
    """A record's identity: 32 hexadecimal digits, half of them random, that grow with time.

    So the next one stands beside the last one in the database's index, and in a page that is at hand.
    """
    return f"{time.time_ns():016x}{random_id()[:16]}"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One answered (or refused, failed, cancelled) request.

    at: when the request came. release, prompt, model: refs such as `assistant@3`; None when none was chosen.
    status: the HTTP status, or what it would have been had the reply not begun. outcome: `ok`, `error`, `cancelled`, or
    `shadow`.
    input: the last user message. tokens_in, tokens_out, latency_ms, first_token_ms: None where nobody counted or
    measured them, which is not 0; times are from arrival. details: whatever else is known (messages, parameters, finish
    reason, error). key: the record's own identity; request ids may repeat. route: what was asked for: `chat`,
    `completions`, `responses`, `embeddings`. caller: the public id of the caller's key, never the key; None where no
    key was needed. user: whom the client names, hidden (`pseudonym_of`) where a guard keeps the name out of the log.
    text_deleted_at: when retention took the texts; the rest stays. feedback: what users said of the answer, oldest
    first; empty unless it was asked for when the record was read.
    """

    request_id: str
    at: datetime
    status: int
    outcome: str
    input: str = ""
    output: str = ""
    release: str | None = None
    prompt: str | None = None
    model: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    latency_ms: float | None = None
    first_token_ms: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=new_key)
    route: str | None = None
    caller: str | None = None
    user: str | None = None
    text_deleted_at: datetime | None = None
    feedback: tuple[Feedback, ...] = ()

    @property
    def app(self) -> str:
        """The part of the release before `@`; empty for a raw model."""
        return (self.release or "").partition("@")[0]

    def to_json(self) -> dict[str, Any]:
        """The contract's JSON shape, with `feedback` where there is some."""
        values = {name: getattr(self, name) for name in _STORED}
        said = {"feedback": [feedback.to_json() for feedback in self.feedback]} if self.feedback else {}
        deleted = self.text_deleted_at.isoformat() if self.text_deleted_at is not None else None
        times = {"at": self.at.isoformat(), "text_deleted_at": deleted}
        return {**values, **times, "details": dict(self.details), **said}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Reads `to_json`'s shape; unknown fields go into `details`, and so does feedback from elsewhere.

        A route, caller or user that only `details` names is the record's.

        Raises UsageError: a field is missing, of the wrong type or out of its range; the text starts with its name.
        """
        extra = {name: value for name, value in values.items() if name not in _STORED}
        if not extra.get("feedback"):
            extra.pop("feedback", None)
        given = {name: value for name, value in values.items() if name in _STORED and value is not None}
        details = given.get("details", {})
        if not isinstance(details, Mapping):
            raise UsageError(f"details: must be an object, not {type(details).__name__}")
        given["details"] = {**details, **extra}
        given = {**identity_in(given["details"]), **given}
        if "at" not in given:
            raise UsageError("at: is missing")
        for at in (name for name in ("at", "text_deleted_at") if name in given):
            moment = parse_time(given[at], at)
            # A time before 1970, or beyond what pandas' nanoseconds reach, is a mistake of units.
            if not _FIRST_TIME <= moment < _END_OF_TIME:
                raise UsageError(f"{at}: {given[at]!r} is not from {_FIRST_TIME:%Y} to {_END_OF_TIME.year - 1}")
            given[at] = moment
        given.setdefault("status", 200)
        given.setdefault("outcome", "ok" if given["status"] == 200 else "error")
        for name in (*_LENGTHS, *_TEXTS, *_NUMBERS):
            if name in given or name == "request_id":
                _check(name, values.get(name, "") if name == "request_id" else given[name])
        return cls(**given)


_STORED = tuple(field.name for field in fields(LogRecord) if field.name != "feedback")
_IN_DETAILS = {"route": "route", "caller": "key", "user": "user"}
_TEXTS = ("input", "output")
_LENGTHS = {
    "request_id": 255,
    "outcome": 32,
    "release": 255,
    "prompt": 255,
    "model": 255,
    "key": 32,
    "route": 32,
    "caller": 255,
    "user": MOST_USER_CHARACTERS,
}
_MOST_TOKENS, _MOST_MILLISECONDS = 2**53, 10**11  # more of either is a mistake of units
_NUMBERS: dict[str, tuple[Any, int, int]] = {
    "status": (int, 100, 599),
    "tokens_in": (int, 0, _MOST_TOKENS),
    "tokens_out": (int, 0, _MOST_TOKENS),
    "latency_ms": ((int, float), 0, _MOST_MILLISECONDS),
    "first_token_ms": ((int, float), 0, _MOST_MILLISECONDS),
}
_FIRST_TIME, _END_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


def _check(name: str, value: Any) -> None:
    """Raises UsageError for a field that is missing, of another kind, too long or out of its range."""
    kind, least, most = _NUMBERS.get(name, (str, 0, 0))
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "text" if kind is str else "a whole number" if kind is int else "a number"
        raise UsageError(f"{name}: must be {wanted}, not {type(value).__name__}")
    if name == "request_id" and not value:
        raise UsageError("request_id: is missing")
    if name in _LENGTHS and len(value) > _LENGTHS[name]:
        raise UsageError(f"{name}: must have at most {_LENGTHS[name]} characters")
    if name in _NUMBERS and not least <= value <= most:
        raise UsageError(f"{name}: {value} is not from {least} to {most}")


def pseudonym_of(user: str) -> str:
    """A name's stand-in: equal for equal names, so that one user's records can still be counted, and found to be
    forgotten, by whoever knows the name."""
    return f"user-{hashlib.sha256(f'llmops user|{user}'.encode(errors='replace')).hexdigest()[:32]}"


def hidden_if_redacted(user: str | None, redacted: str | None) -> str | None:
    """A user's name that a guard has found personal data in: no longer readable, but still one user's."""
    return user if user is None or user == redacted else pseudonym_of(user)


def identity_in(details: Mapping[str, Any]) -> dict[str, str]:
    """`route`, `caller` and `user` as records name them in their details that have no fields for them."""
    named = {name: details.get(inside) for name, inside in _IN_DETAILS.items()}
    texts = {name: str(value) if type(value) is int else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str) and 0 < len(text) <= _LENGTHS[name]}


def parse_time(value: Any, name: str) -> datetime:
    """ISO 8601 text (no zone means UTC) or seconds since the epoch. Raises UsageError starting with `name`."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{name}: {value!r} is not a time such as 2026-01-31T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_AGO = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def moment_of(value: datetime | timedelta | str | None) -> datetime | None:
    """A time as people give it: itself, ISO 8601 text, or how long ago: a duration, `30m`, `24h`, `7d`. Raises
    UsageError."""
    if isinstance(value, str) and value[-1:] in _AGO and value[:-1].isdigit():
        value = int(value[:-1]) * _AGO[value[-1]]
    if isinstance(value, timedelta):
        return datetime.now(UTC) - value
    if value is None:
        return None
    try:
        return parse_time(value, "time")
    except UsageError as error:
        raise UsageError(f"{value!r}: give a time such as 2026-01-31T12:00:00Z, or 30m, 24h, 7d") from error


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items (records, mostly) in lists of `size`, the last one shorter; never holds more than one list."""
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


PREDICT = "predict"
"""The route of a prediction's record."""


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """The rows of one request, and what was predicted of them.

    at: when the request came. model: such as `bike@2`. probabilities: of each row, by class; None where the model is no
    classifier. truth: of each row, None as long as nobody has said it; of several that were said the last one counts.
    """

    at: datetime
    request_id: str
    model: str
    rows: Sequence[Mapping[str, Any]]
    predictions: Sequence[Any]
    probabilities: Sequence[Mapping[str, float]] | None
    truth: Sequence[Any]

    def __len__(self) -> int:
        return len(self.rows)


def is_prediction(record: LogRecord) -> bool:
    """Whether the record is of a prediction that was made."""
    return record.route == PREDICT and record.outcome == "ok"


def row_count(record: LogRecord) -> int:
    """Rows of a prediction; known also when retention has taken them."""
    return int(record.details.get("rows", 0))


def values_of(record: LogRecord) -> Sequence[Any]:
    """The predicted values; empty when retention has taken them. Raises Corrupted."""
    return () if record.text_deleted_at is not None else prediction_of(record).predictions


def prediction_of(record: LogRecord) -> PredictionBatch:
    """What the record of a prediction holds. Raises Corrupted."""
    try:
        rows, predictions = json.loads(record.input), json.loads(record.output)
    except ValueError as error:
        raise Corrupted(f"record {record.key} of the production log: is no prediction: {error}") from error
    probabilities = record.details.get("probabilities")
    if not _match(rows, predictions) or not (probabilities is None or _match(rows, probabilities)):
        raise Corrupted(f"record {record.key} of the production log: is no prediction: rows and values do not match")
    said = [feedback.truth for feedback in record.feedback if feedback.truth is not None]
    truth = list(said[-1]) if said else [None] * len(rows)
    return PredictionBatch(record.at, record.request_id, record.model or "", rows, predictions, probabilities, truth)


def _match(rows: Any, values: Any) -> bool:
    return isinstance(rows, list) and isinstance(values, list) and len(rows) == len(values)
