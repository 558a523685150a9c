"""Deleting: everything the log holds of one user or request, and the bytes from its files; and, of old records, what
people wrote, while what happened stays: release, status, tokens, times, route."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.errors import CannotRun
from llmops.production_log.database import LogDatabase
from llmops.production_log.record import SHADOW, identity_in, in_batches, pseudonym_of
from llmops.production_log.tables import feedback, idempotent_replies, log_records, stored_time

_CHUNK = 1 << 23
_WAIT_SECONDS = 60.0
MOST_SOUGHT = 300
"""Of more markers than these the file is not searched first: it is written anew."""

Alone = Callable[[], AbstractContextManager[sa.Connection]]
"""Gives a connection without a transaction."""


@dataclass(frozen=True, slots=True)
class Erased:
    """searched: bytes of the files looked through; markers: looked for there; found: of them, at the end.

    rewritten: whether the whole file was written anew, because deleting had left something in it.
    """

    searched: int = 0
    markers: int = 0
    found: int = 0
    rewritten: bool = False


def erase_from_file(alone: Alone, file: Path, keys: Iterable[str], pieces: Iterable[str] = ()) -> Erased:
    """Erases what was deleted from a SQLite file and its write-ahead log. Raises CannotRun: somebody reads the database
    all the time.

    What is deleted is overwritten (`secure_delete`), but earlier moves of a row between pages may have left copies. So
    the files are searched, and the database is written anew (VACUUM: needs as much room again, and holds up writers
    meanwhile) when anything is found.

    keys: found nowhere but in the deleted rows. pieces: of their texts; another row may hold the same words.
    """
    unique = sorted({key.encode() for key in keys})
    sought = [*unique, *sorted({piece.encode(errors="replace") for piece in pieces})]
    _empty_wal(alone)
    rewritten = len(sought) > MOST_SOUGHT or bool(_found(file, sought))
    if rewritten:
        with alone() as connection:
            connection.exec_driver_sql("VACUUM")
        _empty_wal(alone)
    unique = unique[:: len(unique) // MOST_SOUGHT + 1]
    remaining = _found(file, unique)
    return Erased(sum(path.stat().st_size for path in _files(file)), len(unique), len(remaining), rewritten)


def _empty_wal(alone: Alone) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        with alone() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if not busy:
            return
        if time.monotonic() > deadline:
            raise CannotRun("the database is being read all the time, so its write-ahead log stays; run this again")
        time.sleep(0.1)


def _files(file: Path) -> list[Path]:
    beside = (file.with_name(file.name + ending) for ending in ("", "-wal", "-journal"))
    return [path for path in beside if path.exists()]


def _found(file: Path, sought: list[bytes]) -> set[bytes]:
    """Which of them are anywhere in the files. Reads them once, some megabytes at a time."""
    present: set[bytes] = set()
    overlap = max(map(len, sought), default=1)
    for path in _files(file):
        with path.open("rb") as opened:
            chunk = opened.read(_CHUNK)
            while chunk:
                present.update(mark for mark in sought if mark not in present and mark in chunk)
                more = opened.read(_CHUNK)
                chunk = chunk[-overlap:] + more if more else b""
    return present


_MOST_NAMED = 500  # values in one query's list
_TEXTS = ("input", "output")
_MOST_PIECES, _PIECE_LENGTH = 40, 48
ANONYMOUS = "anonymous"
"""The owner of stored replies where no key was needed."""

Place = tuple[str, float]
"""An app, and when (seconds since the epoch)."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What belongs to one user or request. `|` joins two findings.

    names: the user's, as sent and hidden; empty for a request. keys: of records, by app. request_ids: of those records,
    unless another one's record has the same id. owned: caller and request id of each record, as stored replies have
    them. opinions: key of each feedback by or about the user, and of the record it is about. places: where the answers
    are that this feedback is about. pieces: of the texts, to look for in files.
    """

    names: frozenset[str] = frozenset()
    keys: dict[str, frozenset[str]] = field(default_factory=dict)
    request_ids: frozenset[str] = frozenset()
    owned: frozenset[tuple[str, str]] = frozenset()
    opinions: frozenset[tuple[str, str]] = frozenset()
    places: frozenset[Place] = frozenset()
    pieces: tuple[str, ...] = ()

    @property
    def all_keys(self) -> frozenset[str]:
        """Keys of the records of all apps."""
        return frozenset().union(*self.keys.values())

    def __or__(self, other: Belongings) -> Belongings:
        apps = self.keys.keys() | other.keys.keys()
        none: frozenset[str] = frozenset()
        return Belongings(
            self.names | other.names,
            {app: self.keys.get(app, none) | other.keys.get(app, none) for app in apps},
            self.request_ids | other.request_ids,
            self.owned | other.owned,
            self.opinions | other.opinions,
            self.places | other.places,
            (self.pieces + other.pieces)[:_MOST_PIECES],
        )


def names_of(user: str | None) -> frozenset[str]:
    """How records name a user: by name, and hidden where a guard has kept the name out."""
    return frozenset() if user is None else frozenset((user, pseudonym_of(user)))


def belongings_of(
    connection: sa.Connection, user: str | None, request_id: str | None, archived: Sequence[Mapping[str, Any]] = ()
) -> Belongings:
    """Records that name the user, or have the request id; what is bound to them; feedback that the user gave, and what
    challengers answered to the request unseen. archived: rows of such records in an archive."""
    table, names = log_records.c, names_of(user)
    rows: list[Mapping[Any, Any]] = list(archived)
    if user is not None:
        rows += _records(connection, table.user.in_(names))
        # An older gateway, still at work while the log has been brought up to date, fills the details alone.
        old = _records(connection, table.user.is_(None), _details_name(user))
        rows += [row for row in old if identity_in(row["details"]).get("user") in names]
    if request_id is not None:
        rows += _records(connection, table.request_id == request_id)
        unseen = _records(connection, table.outcome == SHADOW, _details_name(request_id))
        rows += [row for row in unseen if row["details"].get("shadow_of") == request_id]
    keys: dict[str, set[str]] = {}
    for row in rows:
        keys.setdefault(row["app"], set()).add(row["key"])
    own = frozenset(row["key"] for row in rows)
    opinions = _opinions(connection, own, names)
    places: set[Place] = set()
    for part in _parts({record_key for _, record_key in opinions} - own):
        rated = connection.execute(sa.select(table.app, table.at).where(table.key.in_(part)))
        places.update((app, stored_time(at).timestamp()) for app, at in rated)
    ids = {row["request_id"] for row in rows}
    shared: set[str] = set()  # clients may give several requests one id
    for part in _parts(ids):
        query = sa.select(table.request_id, table.key).where(table.request_id.in_(part))
        shared.update(of for of, key in connection.execute(query) if key not in own)
    texts = (row[name] for row in rows[: _MOST_PIECES // len(_TEXTS)] for name in _TEXTS)
    return Belongings(
        names=names,
        keys={app: frozenset(of_app) for app, of_app in keys.items()},
        request_ids=frozenset(ids - shared),
        owned=frozenset((row["caller"] or ANONYMOUS, row["request_id"]) for row in rows),
        opinions=frozenset(opinions),
        places=frozenset(places),
        pieces=tuple(text for text in texts if len(text) == _PIECE_LENGTH),
    )


def delete(connection: sa.Connection, belongings: Belongings) -> dict[str, int]:
    """Deletes it in the caller's transaction; rows deleted, by table."""
    counts: Counter[str] = Counter({"log_records": 0, "feedback": 0, "idempotent_replies": 0})
    for part in _parts(belongings.all_keys):
        done = connection.execute(sa.delete(log_records).where(log_records.c.key.in_(part)))
        counts["log_records"] += done.rowcount
    for part in _parts(key for key, _ in belongings.opinions):
        counts["feedback"] += connection.execute(sa.delete(feedback).where(feedback.c.key.in_(part))).rowcount
    table = idempotent_replies.c
    for caller, request_id in sorted(belongings.owned):
        own = sa.delete(idempotent_replies).where(table.caller == caller, table.request_id == request_id)
        counts["idempotent_replies"] += connection.execute(own).rowcount
    return dict(counts)


def count(connection: sa.Connection, belongings: Belongings) -> dict[str, int]:
    """How many rows of the log's tables still belong to what was found, by table."""
    records, table = log_records.c, idempotent_replies.c
    own = [records.key.in_(part) for part in _parts(belongings.all_keys)]
    if belongings.names:
        own.append(records.user.in_(belongings.names))
    stored = [sa.and_(table.caller == caller, table.request_id == of) for caller, of in sorted(belongings.owned)]
    return {
        "log_records": len(_any_of(connection, (records.key,), own)),
        "feedback": len(_opinions(connection, belongings.all_keys, belongings.names)),
        "idempotent_replies": len(_any_of(connection, (table.caller, table.key), stored)),
    }


def _records(connection: sa.Connection, *chosen: sa.ColumnElement[bool]) -> Sequence[sa.RowMapping]:
    """Records, each with a piece of its texts from the middle: the beginning is often the same in many texts."""
    table = log_records.c
    columns: list[sa.ColumnElement[Any]] = [table[n] for n in ("key", "request_id", "app", "caller", "details")]
    for name in _TEXTS:
        start = sa.func.length(table[name], type_=sa.Integer) // 3 + 1
        columns.append(sa.func.substr(table[name], start, _PIECE_LENGTH).label(name))
    return connection.execute(sa.select(*columns).where(*chosen)).mappings().all()


def _details_name(text: str) -> sa.ColumnElement[bool]:
    """Whether the details may hold the text: as JSON, in the two ways that it is written."""
    details = sa.cast(log_records.c.details, sa.Text)
    written = {json.dumps(text, ensure_ascii=ascii_only) for ascii_only in (True, False)}
    return sa.or_(*(details.contains(each.strip('"'), autoescape=True) for each in sorted(written)))


def _opinions(connection: sa.Connection, keys: frozenset[str], names: frozenset[str]) -> set[tuple[str, str]]:
    """Keys of feedback about the records or by the user, each with that of the record it is about."""
    table = feedback.c
    chosen = [sa.or_(table.record_key.in_(part), table.compared_key.in_(part)) for part in _parts(keys)]
    if names:
        chosen.append(table.user.in_(names))
    return _any_of(connection, (table.key, table.record_key), chosen)


def _any_of(
    connection: sa.Connection, columns: Sequence[sa.ColumnElement[Any]], chosen: Iterable[sa.ColumnElement[bool]]
) -> set[Any]:
    """Those columns of the rows that fulfil any of the conditions."""
    return {tuple(row) for condition in chosen for row in connection.execute(sa.select(*columns).where(condition))}


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    return in_batches(sorted(values), _MOST_NAMED)


BATCH = 500
"""Records of one transaction, so that the gateway's never wait for long."""

_MOST_CHARACTERS = 255
_FACTS = ("route", "stream", "finish_reason", "arm", "queue_ms", "key", "user", "shadow_of", "texts", "rows")
_GUARD_FACTS = ("guard", "where", "index", "count", "pattern", "asked")
_UNSAID: Mapping[str, Any] = {"comment": None, "truth": None}
_ERROR_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}\Z")


def delete_texts(database: LogDatabase, before: datetime, *, described_up_to: int | None, dry_run: bool) -> int:
    """See `ProductionLog.delete_texts`."""
    table = log_records.c
    due = [table.at < before.timestamp(), table.text_deleted_at.is_(None)]
    due += [] if described_up_to is None else [table.seq <= described_up_to]
    if dry_run:
        query = sa.select(sa.func.count()).select_from(log_records).where(*due)
        with database.reading() as connection:
            return int(connection.execute(query).scalar_one())
    columns = (table.seq, table.at, table.key, table.request_id, table.caller, table.details)
    oldest = sa.select(*columns).where(*due).order_by(table.at, table.seq).limit(BATCH)
    some, deleted = oldest, 0
    while True:
        with database.reading() as connection:
            rows = connection.execute(some).mappings().all()
        if not rows:
            break
        with database.writing() as connection:
            deleted += _empty(connection, rows)
        # Looking from the start each time would pass by all that is done already.
        last = sa.tuple_(sa.literal(rows[-1]["at"]), sa.literal(rows[-1]["seq"]))
        some = oldest.where(sa.tuple_(table.at, table.seq) > last)
    with database.writing() as connection:
        _unsay(connection, feedback.c.at < before.timestamp())  # said of an answer after its own texts had gone
    return deleted


def _empty(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> int:
    table = log_records.c
    emptied = (
        sa.update(log_records)
        .where(table.seq == sa.bindparam("this"), table.text_deleted_at.is_(None))
        .values(input="", output="", details=sa.bindparam("facts"), text_deleted_at=sa.bindparam("now"))
    )
    now = time.time()
    values = [{"this": row["seq"], "facts": facts_of(row["details"]), "now": now} for row in rows]
    deleted = connection.execute(emptied, values).rowcount
    _unsay(connection, feedback.c.record_key.in_([row["key"] for row in rows]))
    ids = {row["request_id"] for row in rows}
    connection.execute(sa.delete(idempotent_replies).where(idempotent_replies.c.request_id.in_(ids)))
    return deleted


def _unsay(connection: sa.Connection, chosen: sa.ColumnElement[bool]) -> None:
    """Takes the texts out of feedback."""
    said_something = sa.or_(*(feedback.c[name].is_not(sa.null()) for name in _UNSAID))
    connection.execute(sa.update(feedback).where(chosen, said_something).values(_UNSAID))


def facts_of(details: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record's details, what is known to hold no text of a person. What is not known is taken for a text."""
    kept = _facts(details, _FACTS)
    if isinstance(parameters := details.get("parameters"), Mapping):
        kept["parameters"] = _facts(parameters, parameters, most_characters=-1)
    kind = str(details.get("error") or "").partition(":")[0]
    if _ERROR_KIND.match(kind):
        kept["error"] = kind
    if isinstance(guards := details.get("guards"), Sequence) and not isinstance(guards, str):
        kept["guards"] = [_facts(action, _GUARD_FACTS) for action in guards if isinstance(action, Mapping)]
    return kept


def _facts(values: Mapping[str, Any], names: Iterable[str], most_characters: int = _MOST_CHARACTERS) -> dict[str, Any]:
    """Those of the values that are numbers, nothing, or texts of so few characters."""
    known = ((name, values[name]) for name in names if name in values)
    return {
        name: value
        for name, value in known
        if (len(value) <= most_characters if isinstance(value, str) else isinstance(value, (int, float, type(None))))
    }
